"""An access token that was typed reaches no file of ours, whatever happens with it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mistudio.core.config import Config
from mistudio.core.control import JobControl
from mistudio.core.dataset_configs import DownloadDatasetConfig, TokenizeConfig
from mistudio.core.errors import StudioError
from mistudio.core.events import RecordingReporter
from mistudio.core.logs import start_log
from mistudio.core.model_configs import DownloadModelConfig
from mistudio.core.redact import MASK, without_tokens
from mistudio.hub import client
from mistudio.jobs import hub_pages, registry, templates
from mistudio.jobs.context import JobContext, JobKind, Result
from mistudio.jobs.dataset_preview import preview
from mistudio.jobs.runner import Studio
from tests.helpers.hub_datasets import languages
from tests.helpers.local_hub import LocalHub
from tests.helpers.studio import run
from tests.helpers.tiny import save_tiny_llama

PLANTED = "hf_" + "Planted0" * 4
WRONG = "hf_" + "Wrong123" * 4


@pytest.fixture(autouse=True)
def _logged(studio: Studio) -> Iterator[None]:
    """The program's log at its most talkative."""
    handler = start_log(studio.paths.logs, "debug")
    yield
    logging.getLogger().removeHandler(handler)
    logging.getLogger().setLevel(logging.WARNING)
    handler.close()


def holders(folder: Path) -> list[str]:
    """Files below a folder that hold one of the tokens."""
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and any(token.encode() in path.read_bytes() for token in (PLANTED, WRONG))
    ]


def test_downloads_leave_no_token_behind(
    hub: LocalHub, studio: Studio, tmp_path: Path, hf_home: Path
) -> None:
    folder = save_tiny_llama(tmp_path / "source")
    hub.add("models", "tiny/llama", {path.name: path.read_bytes() for path in folder.iterdir()})
    languages(hub)
    hub.tokens[PLANTED] = "alice"
    hub.gated |= {"tiny/llama": {"alice"}, "o/two": {"alice"}}
    hub_pages.search(studio, "model", "llama")
    with pytest.raises(StudioError):
        hub_pages.model_page(studio, "tiny/llama", token=WRONG)
    with pytest.raises(StudioError):
        preview(studio, "o/two", token=WRONG)
    hub_pages.model_page(studio, "tiny/llama", token=PLANTED)
    preview(studio, "o/two", token=PLANTED)
    for token in (WRONG, PLANTED):
        for repo, kind, config in (
            ("tiny/llama", "download_model", DownloadModelConfig(repo="tiny/llama")),
            ("o/two", "download_dataset", DownloadDatasetConfig(repo="o/two")),
        ):
            studio.tokens.keep(repo, token)
            if token == WRONG:
                with pytest.raises(StudioError):
                    run(studio, kind, config)
            else:
                run(studio, kind, config)
    assert any(seen.authorization == f"Bearer {PLANTED}" for seen in hub.log)
    templates.save(studio, "tokenization", TokenizeConfig(dataset="two", model="llama"))
    templates.export(studio, studio.paths.exports / "templates.json")
    assert PLANTED not in repr(studio.tokens)
    assert holders(studio.paths.home) == []
    assert holders(hf_home) == []


def test_an_error_that_names_a_token_is_masked(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(ctx: JobContext, config: Any) -> Result:
        ctx.report.note(f"asking with {PLANTED}")
        logging.getLogger("hub").error("sent Authorization: Bearer %s", PLANTED)
        raise ValueError(f"401 for url http://x with {PLANTED}")

    monkeypatch.setitem(registry.JOB_KINDS, "leaky", JobKind("leaky", "io", "Leak", Config, breaks))
    report = RecordingReporter()
    job = studio.submit("leaky", Config())
    with pytest.raises(StudioError) as raised:
        studio.finish_now(job, report, JobControl())
    assert PLANTED not in raised.value.details
    assert MASK in raised.value.details
    assert PLANTED not in str(report.events)
    assert holders(studio.paths.home) == []


def test_a_token_to_remember_goes_to_the_users_own_store_only(
    hub: LocalHub, studio: Studio, hf_home: Path
) -> None:
    hub.tokens[PLANTED] = "alice"
    hub_pages.remember_token(PLANTED)
    assert hub_pages.token_state().has_stored
    assert holders(studio.paths.home) == []
    assert {Path(name).name for name in holders(hf_home)} <= {"token", "stored_tokens"}
    assert client.headers_for(None)["authorization"] == f"Bearer {PLANTED}"
    hub_pages.forget_token()
    assert not hub_pages.token_state().has_stored
    assert holders(hf_home) == []


def test_what_is_masked() -> None:
    text = f"Bearer {PLANTED} and {WRONG}, hf_hub_download stays"
    assert without_tokens(text) == f"Bearer {MASK} and {MASK}, hf_hub_download stays"
