"""Downloads of datasets that break off, wait, pause, are cancelled or killed, lack room."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mistudio.core.control import JobControl
from mistudio.core.dataset_configs import DownloadDatasetConfig
from mistudio.core.errors import (
    Cancelled,
    DiskFull,
    InUse,
    StudioError,
)
from mistudio.core.events import RecordingReporter
from mistudio.core.model_configs import DownloadModelConfig
from mistudio.jobs.dataset_preview import preview
from mistudio.jobs.deletion import delete_dataset
from mistudio.jobs.runner import Studio
from mistudio.store.tables import DATASETS, JOBS
from tests.helpers.hub_datasets import (
    download,
    jsonl,
    languages,
    nothing_is_stored,
    part_bytes,
    rows,
    texts,
    wait_until,
)
from tests.helpers.local_hub import LocalHub
from tests.helpers.studio import run
from tests.helpers.tiny import save_tiny_llama


def test_a_connection_that_breaks_is_taken_up_again(hub: LocalHub, studio: Studio) -> None:
    made = rows(20_000)
    content = jsonl(made)
    hub.add("datasets", "o/set", {"train.jsonl": content})
    hub.faults("train.jsonl").cuts = [len(content) // 3, len(content) // 4, 1000]
    assert texts(studio, download(studio, "o/set")) == [row["text"] for row in made]
    assert hub.sent["train.jsonl"] <= 1.1 * len(content)


def test_a_stream_that_breaks_is_taken_up_again(hub: LocalHub, studio: Studio) -> None:
    made = rows(20_000)
    hub.add("datasets", "o/set", {"train.jsonl": jsonl(made)})
    hub.faults("train.jsonl").cuts = [300_000, 1000, 70_000]
    row = download(studio, "o/set", amount="rows", count=15_000)
    assert texts(studio, row) == [one["text"] for one in made[:15_000]]
    hub.has_ranges = False
    hub.sent.clear()
    whole = download(studio, "o/set", amount="rows", count=20_000)
    assert texts(studio, whole) == [one["text"] for one in made]
    assert hub.sent["train.jsonl"] < 2.5 * len(jsonl(made))


def test_a_stream_uses_one_connection_for_its_pieces(
    hub: LocalHub, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("datasets", "o/set", {"train.jsonl": jsonl(rows(60_000))})
    opened: list[object] = []
    accept = hub.process_request

    def counted(request: Any, address: Any) -> None:
        opened.append(address)
        accept(request, address)

    monkeypatch.setattr(hub, "process_request", counted)
    download(studio, "o/set", amount="rows", count=59_000)
    assert len(hub.requests("resolve")) >= 8
    assert len(opened) <= 2


def test_a_stream_waits_where_the_server_has_a_problem(
    hub: LocalHub, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mistudio.hub import ranges

    monkeypatch.setattr(ranges, "WAITS_S", (0.01, 0.02, 0.03))
    made = rows(500)
    hub.add("datasets", "o/set", {"train.jsonl": jsonl(made)})
    hub.retry_after_s = 0
    hub.faults("train.jsonl").statuses = [500, 503, 429]
    report = RecordingReporter()
    config = DownloadDatasetConfig(repo="o/set", amount="rows", count=400)
    result = run(studio, "download_dataset", config, report)
    assert result["samples"] == 400
    told = [str(event.values["sentence"]) for event in report.events if event.kind == "note"]
    assert "The Hub has a problem (500). Try again later. It is asked again." in told
    phases = [str(event.values["phase"]) for event in report.events if event.kind == "progress"]
    assert "Waiting 0 s to try again" in phases
    hub.faults("train.jsonl").statuses = [500] * 4
    with pytest.raises(StudioError, match="has a problem"):
        run(studio, "download_dataset", config, report)
    assert len(DATASETS.select(studio.db())) == 1


def test_a_pause_gives_up_the_connection_of_a_stream(hub: LocalHub, studio: Studio) -> None:
    made = rows(30_000)
    hub.add("datasets", "o/set", {"train.jsonl": jsonl(made)})
    hub.faults("train.jsonl").stall_after = 700_000
    hub.faults("train.jsonl").stalls = 1
    config = DownloadDatasetConfig(repo="o/set", amount="rows", count=29_000)
    job, control = studio.submit("download_dataset", config), JobControl()
    worker = threading.Thread(target=studio.execute, args=(job, RecordingReporter(), control))
    worker.start()
    wait_until(lambda: hub.sent.get("train.jsonl", 0) >= 700_000)
    before = len(hub.requests("train.jsonl"))
    control.pause()
    worker.join(0.6)
    assert worker.is_alive()
    assert len(hub.requests("train.jsonl")) == before
    control.resume()
    worker.join(20)
    assert JOBS.get(studio.db(), job).status == "completed"
    assert texts(studio, DATASETS.select(studio.db())[0]) == [r["text"] for r in made[:29_000]]


def cancelled_while(
    studio: Studio, config: DownloadDatasetConfig, ready: Callable[[], bool]
) -> RecordingReporter:
    """Cancel the job once `ready`; it must end within a second."""
    job, control, report = (
        studio.submit("download_dataset", config),
        JobControl(),
        RecordingReporter(),
    )
    ended: list[float] = []

    def work() -> None:
        studio.execute(job, report, control)
        ended.append(time.monotonic())

    worker = threading.Thread(target=work)
    worker.start()
    wait_until(ready)
    asked = time.monotonic()
    control.cancel()
    worker.join(10)
    assert ended
    assert ended[0] - asked < 1.0
    assert JOBS.get(studio.db(), job).status == "cancelled"
    return report


@pytest.mark.parametrize("amount", ["everything", "rows"])
def test_a_cancel_acts_at_once_even_when_the_server_is_silent(
    hub: LocalHub, studio: Studio, hf_home: Path, amount: str
) -> None:
    content = jsonl(rows(30_000))
    hub.add("datasets", "o/set", {"train.jsonl": content})
    hub.faults("train.jsonl").stall_after = 1_000_000
    config = DownloadDatasetConfig(repo="o/set", amount=amount, count=29_000)
    stream = amount == "rows"
    report = cancelled_while(
        studio,
        config,
        lambda: (
            hub.sent.get("train.jsonl", 0) >= 1_000_000
            and (stream or part_bytes(hf_home) > 700_000)
        ),
    )
    assert nothing_is_stored(studio)
    notes = [str(event.values["sentence"]) for event in report.events if event.kind == "note"]
    if not stream:
        assert any("stay in the cache; a retry goes on from there" in note for note in notes)
        hub.files.clear()
        download(studio, "o/set")
        assert hub.sent["train.jsonl"] <= 1.1 * len(content)
    else:
        assert not [path for path in hf_home.rglob("*") if path.is_file()]


def test_a_cancel_of_the_index_leaves_the_dataset(
    hub: LocalHub, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mistudio.jobs import download_dataset

    def cancelled(*_: object) -> bool:
        row = DATASETS.select(studio.db())[0]
        with pytest.raises(InUse, match="Download dataset two"):
            delete_dataset(studio, row.id)
        raise Cancelled

    languages(hub)
    monkeypatch.setattr(download_dataset, "index_after", cancelled)
    with pytest.raises(Cancelled):
        download(studio, "o/two")
    row = DATASETS.select(studio.db())[0]
    assert (row.status, texts(studio, row)) == ("ready", ["Guten Tag", "Hallo", "Ja"])
    delete_dataset(studio, row.id)
    assert nothing_is_stored(studio)


def test_a_job_that_was_killed_while_indexing_asks_for_nothing_again(
    hub: LocalHub, studio: Studio
) -> None:
    languages(hub)
    row = download(studio, "o/two")
    DATASETS.update(studio.db(), row.id, is_indexed=0)
    job = JOBS.select(studio.db())[0]
    JOBS.update(studio.db(), job.id, status="interrupted")
    asked = len(hub.log)
    studio.request(job.id, "resume")
    assert studio.execute(job.id) == "completed"
    assert [one.is_indexed for one in DATASETS.select(studio.db())] == [True]
    assert len(hub.log) == asked


def test_a_stream_goes_on_where_ranges_are_refused(hub: LocalHub, studio: Studio) -> None:
    made = rows(20_000)
    hub.add("datasets", "o/set", {"train.jsonl": jsonl(made)})
    hub.refuses_ranges = True
    assert preview(studio, "o/set").first[0]["id"] == "0"
    row = download(studio, "o/set", amount="rows", count=15_000)
    assert texts(studio, row) == [one["text"] for one in made[:15_000]]


@pytest.mark.parametrize("statuses", [[500, 503], [429]])
@pytest.mark.parametrize("kind", ["dataset", "model"])
def test_a_job_asks_a_hub_in_trouble_again(
    hub: LocalHub,
    studio: Studio,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    statuses: list[int],
) -> None:
    from mistudio.hub import ranges

    monkeypatch.setattr(ranges, "WAITS_S", (0.01, 0.01, 0.01))
    languages(hub)
    folder = save_tiny_llama(tmp_path / "source")
    hub.add("models", "o/two", {path.name: path.read_bytes() for path in folder.iterdir()})
    config = {
        "dataset": DownloadDatasetConfig(repo="o/two"),
        "model": DownloadModelConfig(repo="o/two"),
    }[kind]
    hub.retry_after_s = 0
    hub.statuses = list(statuses)
    report = RecordingReporter()
    run(studio, f"download_{kind}", config, report)
    told = "\n".join(str(e.values["sentence"]) for e in report.events if e.kind == "note")
    assert told.count("It is asked again.") == len(statuses)
    phases = [str(event.values["phase"]) for event in report.events if event.kind == "progress"]
    assert "Waiting 0 s to try again" in phases


def test_a_hub_that_stays_in_trouble_fails_the_job_for_a_retry_by_hand(
    hub: LocalHub, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mistudio.hub import ranges

    monkeypatch.setattr(ranges, "WAITS_S", (0.01, 0.01, 0.01))
    languages(hub)
    hub.status_all = 500
    with pytest.raises(StudioError, match=r"The Hub has a problem \(500\)"):
        download(studio, "o/two")
    job = JOBS.select(studio.db())[0]
    assert (job.status, job.error_code, job.retryable) == ("failed", "hub_problem", True)
    assert len(hub.log) == 4


def test_without_an_answer_the_cache_is_used_at_once(hub: LocalHub, studio: Studio) -> None:
    languages(hub)
    download(studio, "o/two")
    hub.status_all = 500
    report = RecordingReporter()
    result = run(studio, "download_dataset", DownloadDatasetConfig(repo="o/two"), report)
    assert result["samples"] == 3
    told = [str(event.values["sentence"]) for event in report.events if event.kind == "note"]
    assert "The Hub has a problem (500). Try again later. The files in the cache are used." in told
    assert preview(studio, "o/two").text_column == ("content",)


@pytest.mark.parametrize("amount", ["everything", "rows"])
def test_a_disk_that_fills_while_rows_are_stored_pauses_the_job(
    hub: LocalHub, studio: Studio, monkeypatch: pytest.MonkeyPatch, amount: str
) -> None:
    from mistudio.core import disk_room
    from mistudio.ml.data import hub_ingest

    made = rows(3000)
    hub.add("datasets", "o/set", {"train.jsonl": jsonl(made)})
    room = [10**12]
    monkeypatch.setattr(disk_room, "free_bytes", lambda path: room[0])
    monkeypatch.setattr(hub_ingest, "DISK_PERIOD_S", 0.0)
    report, control = RecordingReporter(), JobControl()
    said = report.progress

    def progress(fraction: float, phase: str, **more: Any) -> None:
        if phase == "Reading" and not paused.is_set():
            room[0] = 0
        said(fraction, phase, **more)

    noted = report.note

    def note(sentence: str, *, level: str = "info") -> None:
        noted(sentence, level=level)
        if "the job is paused" in sentence:
            paused.set()

    paused = threading.Event()
    report.progress = progress  # type: ignore[method-assign]
    report.note = note  # type: ignore[method-assign]
    config = DownloadDatasetConfig(repo="o/set", amount=amount, count=2900)
    job = studio.submit("download_dataset", config)
    worker = threading.Thread(target=lambda: (
        studio.execute(job, report, control), studio.store.release()))  # fmt: skip
    worker.start()
    assert paused.wait(20)
    assert JOBS.get(studio.db(), job).status == "paused"
    room[0] = 10**12
    studio.request(job, "resume")
    worker.join(20)
    assert JOBS.get(studio.db(), job).status == "completed"
    assert DATASETS.select(studio.db())[0].num_samples == (3000 if amount == "everything" else 2900)
    assert any("Only 0 B are free" in str(event.values) for event in report.events)


def test_too_little_room_is_said_before_anything_is_fetched(
    hub: LocalHub, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("datasets", "o/set", {"train.jsonl": jsonl(rows(3000))})
    usage = type(shutil.disk_usage("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(10_000_000, 8_700_000, 1_300_000))
    with pytest.raises(StudioError, match=r"Needs \S+ kB, 300.0 kB are free") as raised:
        download(studio, "o/set")
    assert raised.value.code == DiskFull.code
    assert nothing_is_stored(studio)
    assert not hub.sent


CHILD = """
import sys
from mistudio.core.config import from_dict
from mistudio.core.dataset_configs import DownloadDatasetConfig
from mistudio.core.paths import Paths
from mistudio.hub import setup
from mistudio.jobs.runner import Studio

setup.configure()
studio = Studio(Paths.at(sys.argv[1]))
studio.execute(studio.submit("download_dataset", DownloadDatasetConfig(repo="o/set")))
"""


def test_a_killed_download_goes_on_where_it_was(
    hub: LocalHub, studio: Studio, hf_home: Path
) -> None:
    made = rows(40_000)
    content = jsonl(made)
    hub.add("datasets", "o/set", {"train.jsonl": content})
    hub.faults("train.jsonl").stall_after = 3 * len(content) // 4
    environment = {**os.environ, "HF_ENDPOINT": hub.url}
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(studio.paths.home)], env=environment)
    try:
        wait_until(lambda: part_bytes(hf_home) > 3 * len(content) // 4 - 300_000)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    hub.files.clear()
    assert [row.status for row in DATASETS.select(studio.db())] == ["downloading"]
    studio.recover()
    assert not DATASETS.select(studio.db())
    job = JOBS.select(studio.db())[0]
    assert job.status == "interrupted"
    studio.request(job.id, "resume")
    assert studio.execute(job.id) == "completed"
    assert texts(studio, DATASETS.select(studio.db())[0]) == [row["text"] for row in made]
    assert hub.sent["train.jsonl"] <= 1.1 * len(content)
