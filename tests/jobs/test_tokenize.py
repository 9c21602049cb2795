"""Tokenising as a job: which tokenizer, what exists already, previews, estimates, cancel."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from mistudio.core.dataset_configs import ImportDatasetConfig, TokenizeConfig
from mistudio.core.errors import StudioError
from mistudio.jobs import tokenize_preview
from mistudio.jobs.runner import Studio
from mistudio.store.tables import DATASETS, JOBS, TOKENIZATIONS
from tests.helpers.local_hub import LocalHub
from tests.helpers.studio import run, tiny_studio
from tests.helpers.tiny import tiny_tokenizer


@pytest.fixture
def ready(tmp_path: Path) -> Any:
    studio = tiny_studio(tmp_path / "tiny")
    yield studio
    studio.close()


def test_the_same_settings_lead_to_the_existing_one(ready: Studio) -> None:
    def made(**values: Any) -> str:
        config = TokenizeConfig(dataset="stories", model="tiny", **values)
        return str(run(ready, "tokenize", config)["tokenization"])

    first = made(context=32)
    assert made(context=32) == first
    # a setting that does not act makes no other one
    assert made(context=32, truncation="split") == first
    others = {
        made(context=16),
        made(context=32, arrangement="document"),
        made(context=32, start_token="on"),
    }
    assert len(others | {first}) == 4
    assert len(TOKENIZATIONS.select(ready.db(), "status = 'ready'")) == 4


def test_tokenizers_from_everywhere_are_the_same(
    ready: Studio, hub: LocalHub, tmp_path: Path
) -> None:
    folder = tmp_path / "tokenizer"
    tiny_tokenizer().save_pretrained(folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    hub.add("models", "some/tokenizer", {**files, "model.safetensors": b"x" * 5000})
    wanted = {
        "model": TokenizeConfig(dataset="stories", model="tiny", context=32),
        "folder": TokenizeConfig(dataset="stories", tokenizer=str(folder), context=32),
        "file": TokenizeConfig(
            dataset="stories", tokenizer=str(folder / "tokenizer.json"), context=32
        ),
        "hub": TokenizeConfig(dataset="stories", tokenizer="some/tokenizer", context=32),
    }
    rows = {}
    for name, config in wanted.items():
        made = run(ready, "tokenize", config)["tokenization"]
        rows[name] = TOKENIZATIONS.get(ready.db(), made)
    assert len({(row.rows, row.tokens) for row in rows.values()}) == 1
    assert rows["folder"].id == rows["hub"].id
    assert hub.sent.get("model.safetensors", 0) == 0, "only the tokenizer's files are fetched"
    with pytest.raises(StudioError) as raised:
        run(ready, "tokenize", TokenizeConfig(dataset="stories", tokenizer="some/none"))
    assert raised.value.code != "bug"
    with pytest.raises(StudioError) as raised:
        run(ready, "tokenize", TokenizeConfig(dataset="stories", tokenizer=str(tmp_path)))
    assert raised.value.code != "bug"


def test_a_preview_shows_what_would_be_stored(ready: Studio) -> None:
    text = "The fox 🦊 ran.\r\nTwice."
    config = TokenizeConfig(dataset="stories", model="tiny", context=8, start_token="on")
    found = tokenize_preview.preview(ready, config, text)
    shown = "".join(chip.text for chip in found.chips if not chip.special)
    assert shown == text
    own = tiny_tokenizer().backend_tokenizer.encode(text, add_special_tokens=False).ids
    assert [chip.token_id for chip in found.chips if not chip.special] == own
    assert found.count == len(found.chips) > len(own)
    assert found.rows == -(-found.count // 8)


def test_an_estimate_is_near_the_truth(ready: Studio) -> None:
    config = TokenizeConfig(dataset="stories", model="tiny", context=32)
    guess = tokenize_preview.estimate(ready, config)
    row = TOKENIZATIONS.get(ready.db(), run(ready, "tokenize", config)["tokenization"])
    for told, true in (
        (guess.rows, row.rows),
        (guess.tokens, row.tokens),
        (guess.bytes, row.size_bytes),
    ):
        assert told == pytest.approx(true, rel=0.15)


def test_a_cancel_acts_within_a_second_and_leaves_the_text(ready: Studio, tmp_path: Path) -> None:
    big = tmp_path / "big.txt"
    big.write_text("The fox ran over the hill and back again. " * 400_000)
    run(ready, "import_dataset", ImportDatasetConfig(path=str(big), sample_unit="file"))
    stored = DATASETS.named(ready.db(), "big")
    text = ready.paths.dataset(stored.id) / "text"
    before = {path.name: path.stat().st_mtime_ns for path in text.iterdir()}
    job = ready.submit("tokenize", TokenizeConfig(dataset="big", model="tiny"))

    def work() -> None:
        ready.execute(job)
        ready.store.release()

    thread = threading.Thread(target=work)
    thread.start()
    end = time.monotonic() + 10
    while not TOKENIZATIONS.select(ready.db(), "status = 'tokenizing'"):
        assert time.monotonic() < end
        threading.Event().wait(0.01)
    threading.Event().wait(0.3)
    began = time.monotonic()
    ready.request(job, "cancel")
    thread.join(10)
    assert not thread.is_alive()
    assert time.monotonic() - began < 8
    assert JOBS.get(ready.db(), job).status == "cancelled"
    assert TOKENIZATIONS.select(ready.db(), "dataset_id = ?", [stored.id]) == []
    tokens = ready.paths.dataset(stored.id) / "tokens"
    assert not tokens.exists() or list(tokens.iterdir()) == []
    assert {path.name: path.stat().st_mtime_ns for path in text.iterdir()} == before
