"""The job that downloads a model: from the Hub to a ready row, and every way it can end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mistudio.core.control import JobControl
from mistudio.core.errors import (
    DiskFull,
    Gated,
    InUse,
    NeedsToken,
    NotFound,
    StudioError,
)
from mistudio.core.events import RecordingReporter
from mistudio.core.model_configs import DownloadModelConfig
from mistudio.hub import setup
from mistudio.jobs import hub_pages, storage
from mistudio.jobs.context import Result
from mistudio.jobs.runner import Studio
from mistudio.ml.loading import load_model
from mistudio.store.tables import JOBS, MODELS
from tests.helpers.local_hub import GOOD_TOKEN, LocalHub
from tests.helpers.studio import run
from tests.helpers.tiny import save_tiny_llama

REPO = "tiny/llama"
WEIGHTS = "model.safetensors"
CONFIG = DownloadModelConfig(repo=REPO)


@pytest.fixture
def source(tmp_path: Path, hub: LocalHub) -> Path:
    """The tiny Llama, on the Hub as tiny/llama."""
    folder = save_tiny_llama(tmp_path / "source")
    hub.add("models", REPO, {path.name: path.read_bytes() for path in folder.iterdir()})
    return folder


def get(studio: Studio, config: DownloadModelConfig = CONFIG) -> Result:
    """Download, then run the check that follows."""
    found = run(studio, "download_model", config)
    return {**found, **studio.finish_now(found["next"], RecordingReporter(), JobControl())}


def nothing_is_left(studio: Studio) -> bool:
    return MODELS.select(studio.db()) == [] and not JOBS.select(
        studio.db(), "status IN ('queued', 'running', 'paused')"
    )


class Background:
    """The job in a thread of its own, to be asked things meanwhile."""

    def __init__(self, studio: Studio, config: DownloadModelConfig = CONFIG) -> None:
        self.control, self.report = JobControl(), RecordingReporter()
        self.studio, self.job = studio, studio.submit("download_model", config)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.studio.execute(self.job, self.report, self.control)
        self.studio.store.release()

    def join(self, seconds: float = 20) -> str:
        self._thread.join(seconds)
        assert not self._thread.is_alive()
        return JOBS.get(self.studio.db(), self.job).status


def wait_for_bytes(hub: LocalHub, count: int) -> None:
    end = time.monotonic() + 15
    while hub.sent.get(WEIGHTS, 0) < count and time.monotonic() < end:
        threading.Event().wait(0.01)
    assert hub.sent.get(WEIGHTS, 0) >= count


def wait_for_kept_bytes() -> None:
    """Until something of the download lies on the disk: what is sent may still be on its way."""
    end = time.monotonic() + 15
    while not any(path.stat().st_size for path in hub_parts()) and time.monotonic() < end:
        threading.Event().wait(0.01)


def test_a_ready_model_in_the_users_cache(
    hub: LocalHub, studio: Studio, source: Path, hf_home: Path
) -> None:
    found = get(studio)
    row = MODELS.get(studio.db(), found["model"])
    assert (row.status, row.origin, row.repo_id, row.revision) == ("ready", "hub", REPO, "main")
    assert row.commit_sha == hub.listing("models", REPO)[0]
    assert Path(row.path).is_relative_to(hf_home)
    assert (Path(row.path) / WEIGHTS).read_bytes() == (source / WEIGHTS).read_bytes()
    assert not studio.paths.model(row.id).exists()
    with pytest.raises(InUse, match="is here already: it is the model 'llama'"):
        studio.submit("download_model", CONFIG)


def test_what_is_in_the_cache_is_offered_at_once(
    hub: LocalHub, studio: Studio, source: Path
) -> None:
    get(studio)
    MODELS.delete(studio.db(), MODELS.select(studio.db())[0].id)
    assert [repo.id for repo in hub_pages.cached_models(studio)] == [REPO]
    hub.sent.clear()
    get(studio)
    assert sum(hub.sent.values()) == 0
    # and without any server
    MODELS.delete(studio.db(), MODELS.select(studio.db())[0].id)
    setup.configure(address=hub.url, offline=True)
    get(studio)
    assert MODELS.select(studio.db())[0].status == "ready"


@pytest.mark.parametrize(
    ("config", "kind", "words"),
    [
        (DownloadModelConfig(repo="tiny/none"), NotFound, "no model 'tiny/none' on the Hub"),
        (DownloadModelConfig(repo=REPO, revision="v9"), NotFound, "no revision 'v9'"),
        (DownloadModelConfig(repo="tiny/pickle"), StudioError, "this has pickle files"),
    ],
)
def test_what_cannot_be_had(
    hub: LocalHub,
    studio: Studio,
    source: Path,
    config: DownloadModelConfig,
    kind: type[StudioError],
    words: str,
) -> None:
    hub.add("models", "tiny/pickle", {"config.json": b"{}", "pytorch_model.bin": b"x" * 10})
    with pytest.raises(StudioError, match=words) as raised:
        run(studio, "download_model", config)
    assert raised.value.code != "bug"
    assert nothing_is_left(studio)


def test_gates_open_with_the_right_token(hub: LocalHub, studio: Studio, source: Path) -> None:
    hub.gated[REPO] = {"bob"}
    job = studio.submit("download_model", CONFIG)
    with pytest.raises(StudioError, match="asks for an access token") as raised:
        studio.finish_now(job, RecordingReporter(), JobControl())
    assert raised.value.code == NeedsToken.code
    studio.tokens.keep(REPO, GOOD_TOKEN)
    again = studio.retry(job)
    with pytest.raises(StudioError, match="must grant access first") as raised:
        studio.finish_now(again, RecordingReporter(), JobControl())
    assert raised.value.code == Gated.code
    assert nothing_is_left(studio)
    hub.gated[REPO] = {"alice"}
    studio.finish_now(studio.retry(again), RecordingReporter(), JobControl())
    assert MODELS.select(studio.db())[0].status == "checking"


def test_an_old_name_leads_to_the_same_model(hub: LocalHub, studio: Studio, source: Path) -> None:
    hub.moved["old"] = REPO
    get(studio, DownloadModelConfig(repo="old"))
    assert [row.repo_id for row in MODELS.select(studio.db())] == [REPO]
    for name in ("old", REPO):
        with pytest.raises(StudioError, match="is here already"):
            run(studio, "download_model", DownloadModelConfig(repo=name))


def test_a_mirror_without_sizes_and_another_branch(
    hub: LocalHub, studio: Studio, source: Path
) -> None:
    hub.names_only = True
    hub.branches[REPO] = {"refs/pr/1"}
    found = get(studio, DownloadModelConfig(repo=REPO, revision="refs/pr/1"))
    row = MODELS.get(studio.db(), found["model"])
    assert (row.status, row.revision) == ("ready", "refs/pr/1")
    assert [repo.revision for repo in hub_pages.cached_models(studio)] == ["refs/pr/1"]


def test_a_full_disk_is_said_before_anything_is_fetched(
    hub: LocalHub, studio: Studio, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mistudio.core import disk_room

    monkeypatch.setattr(disk_room, "free_bytes", lambda path: 1000)
    with pytest.raises(StudioError, match=r"Needs .* are free") as raised:
        run(studio, "download_model", CONFIG)
    assert raised.value.code == DiskFull.code
    assert hub.sent.get(WEIGHTS, 0) == 0
    assert nothing_is_left(studio)


def test_cancel_keeps_the_part_and_says_so(hub: LocalHub, studio: Studio, source: Path) -> None:
    hub.rate = 100_000
    running = Background(studio)
    wait_for_bytes(hub, 20_000)
    began = time.monotonic()
    studio.request(running.job, "cancel")
    assert running.join(15) == "cancelled"
    assert time.monotonic() - began < 10
    assert nothing_is_left(studio)
    notes = [event.values["sentence"] for event in running.report.events if event.kind == "note"]
    assert any("a retry goes on from there" in note for note in notes)
    hub.rate = None
    kept = sum(path.stat().st_size for path in hub_parts())
    assert kept > 0
    hub.sent.clear()
    studio.finish_now(studio.retry(running.job), RecordingReporter(), JobControl())
    assert hub.sent[WEIGHTS] <= (source / WEIGHTS).stat().st_size - kept


def hub_parts() -> list[Path]:
    from mistudio.hub.setup import cache_folder

    return [p for p in cache_folder().rglob("*.part*") if p.is_file()]


def test_closing_the_window_leaves_it_for_the_next_start(
    hub: LocalHub, studio: Studio, source: Path
) -> None:
    hub.rate = 100_000
    running = Background(studio)
    wait_for_bytes(hub, 20_000)
    wait_for_kept_bytes()
    running.control.leave()
    assert running.join(3) == "interrupted"
    hub.rate = None
    studio.recover()
    studio.request(running.job, "resume")
    hub.sent.clear()
    assert studio.execute(running.job) == "completed"
    assert hub.sent[WEIGHTS] < (source / WEIGHTS).stat().st_size
    assert MODELS.select(studio.db())[0].status == "checking"


CHILD = """
import sys
from mistudio.core.model_configs import DownloadModelConfig
from mistudio.core.control import JobControl
from mistudio.core.events import SilentReporter
from mistudio.core.paths import Paths
from mistudio.hub import setup
from mistudio.jobs.runner import Studio

setup.configure(address=sys.argv[1])
Studio(Paths.at(sys.argv[2])).run_now(
    "download_model", DownloadModelConfig(repo="tiny/llama"), SilentReporter(), JobControl()
)
"""


def test_a_killed_download_goes_on_after_the_next_start(
    hub: LocalHub, studio: Studio, source: Path
) -> None:
    hub.rate = 100_000
    size = (source / WEIGHTS).stat().st_size
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, hub.url, str(studio.paths.home)],
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    wait_for_bytes(hub, 50_000)
    child.kill()
    child.wait()
    hub.rate = None
    [lost] = studio.recover()
    assert (lost.kind, MODELS.select(studio.db())) == ("download_model", [])
    studio.request(lost.id, "resume")
    assert studio.execute(lost.id) == "completed"
    assert hub.sent[WEIGHTS] <= 1.1 * size + 131_072  # what was under way when it died
    row = MODELS.select(studio.db())[0]
    assert (Path(row.path) / WEIGHTS).read_bytes() == (source / WEIGHTS).read_bytes()


def test_facts_before_the_download(hub: LocalHub, studio: Studio, source: Path) -> None:
    import torch

    page = hub_pages.model_page(studio, REPO)
    loaded = load_model(source, torch.device("cpu"))
    linear = {
        name
        for name, module in loaded.model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not loaded.blocks.unembedding
    }
    counted = sum(
        p.numel()
        for name, p in loaded.model.named_parameters()
        if name.removesuffix(".weight") in linear
    )
    assert page.linear_weights == counted
    assert page.linear_weights + (page.other_weights or 0) == sum(
        tensor.numel() for tensor in loaded.model.parameters()
    )
    assert (page.architecture, page.needs_code, page.problem) == ("LlamaForCausalLM", False, "")
    assert page.cached_bytes == 0
    get(studio)
    assert hub_pages.model_page(studio, REPO).cached_bytes == page.download_bytes


def test_deleting_from_the_cache_tells_the_bytes(
    hub: LocalHub, studio: Studio, source: Path
) -> None:
    get(studio)
    [repo] = hub_pages.cached_models(studio)
    with pytest.raises(InUse, match="Used by model 'llama'"):
        hub_pages.delete_cached(studio, "model", repo.id, repo.sha)
    MODELS.delete(studio.db(), MODELS.select(studio.db())[0].id)
    freed = hub_pages.delete_cached(studio, "model", repo.id, repo.sha)
    # the reference that names the commit goes, too
    assert freed == repo.size_bytes + 40 > (source / WEIGHTS).stat().st_size
    assert hub_pages.cached_models(studio) == []
    assert not repo.path.exists()


def test_what_a_cancelled_download_left_can_be_deleted(
    hub: LocalHub, studio: Studio, source: Path
) -> None:
    hub.faults(WEIGHTS).stall_after = 100_000
    running = Background(studio)
    wait_for_bytes(hub, 100_000)

    def left() -> storage.StoredItem | None:
        items = storage.usage(studio).items
        return next((item for item in items if item.kind == "hub_unfinished"), None)

    while (found := left()) is None or found.size_bytes < 100_000:
        threading.Event().wait(0.02)
    assert (found.name, found.used_by) == ("tiny/llama (model)", "a download")
    with pytest.raises(InUse, match="'tiny/llama' is being downloaded"):
        storage.delete(studio, found.key)
    studio.request(running.job, "cancel")
    assert running.join(2) == "cancelled"
    found = left()
    assert found is not None
    assert found.used_by == ""
    assert storage.dependants_of(studio, found.key).size_bytes == found.size_bytes
    storage.delete(studio, found.key)
    assert (left(), hub_parts()) == (None, [])
