"""The life of jobs: queue, pause, cancel, failure, interruption, retry."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mistudio.core.config import Config
from mistudio.core.control import JobControl
from mistudio.core.dataset_configs import ImportDatasetConfig
from mistudio.core.errors import Cancelled, InvalidInput, StudioError
from mistudio.core.events import RecordingReporter
from mistudio.jobs import registry
from mistudio.jobs.context import JobContext, JobKind, Result
from mistudio.jobs.runner import Studio
from mistudio.store import jobs as rows
from mistudio.store.jobs import JobState
from mistudio.store.tables import JOBS
from tests.helpers.studio import new_studio


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    made = new_studio(tmp_path)
    yield made
    made.close()


class Script:
    """A job whose steps the test lets go one by one."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.steps = 80
        self.stepped = 0
        self.error: Exception | None = None

    def __call__(self, ctx: JobContext, config: Any) -> Result:
        self.started.set()
        if self.error is not None:
            raise self.error
        for _ in range(self.steps):
            ctx.control.check()
            self.stepped += 1
            threading.Event().wait(0.01)
        return {"steps": self.stepped}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    made = Script()
    monkeypatch.setitem(
        registry.JOB_KINDS, "script", JobKind("script", "io", "Script", Config, made)
    )
    return made


class Background:
    """A job running in a thread of its own."""

    def __init__(self, studio: Studio, job: str) -> None:
        self.status = ""
        self._studio = studio
        self._job = job
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.status = self._studio.execute(self._job)
        self._studio.store.release()

    def join(self) -> str:
        self._thread.join(20)
        return self.status


def test_a_finished_job_keeps_its_result(studio: Studio, script: Script) -> None:
    job = studio.submit("script", Config())
    assert JOBS.get(studio.db(), job).status == "queued"
    assert studio.next_job("io") == job
    assert studio.execute(job) == "completed"
    row = JOBS.get(studio.db(), job)
    assert (row.result, row.progress) == ({"steps": 80}, 100.0)
    assert row.started_at is not None
    assert row.finished_at is not None


def test_pause_holds_in_place_and_resume_goes_on(studio: Studio, script: Script) -> None:
    job = studio.submit("script", Config())
    running = Background(studio, job)
    assert script.started.wait(5)
    studio.request(job, "pause")
    assert JOBS.get(studio.db(), job).status == "paused"
    assert studio.next_job("io") is None, "a held job keeps its lane"
    studio.request(job, "resume")
    assert running.join() == "completed"


@pytest.mark.parametrize("held", [False, True])
def test_cancel_ends_a_running_and_a_held_job(studio: Studio, script: Script, held: bool) -> None:
    job = studio.submit("script", Config())
    running = Background(studio, job)
    assert script.started.wait(5)
    if held:
        studio.request(job, "pause")
    studio.request(job, "cancel")
    assert running.join() == "cancelled"
    assert script.stepped < script.steps


def test_a_request_of_another_process_arrives(studio: Studio, script: Script) -> None:
    script.steps = 2000
    job = studio.submit("script", Config())
    running = Background(studio, job)
    assert script.started.wait(5)
    rows.ask(studio.db(), job, "cancel")
    assert running.join() == "cancelled"


@pytest.mark.parametrize(("resumable", "state"), [(True, "interrupted"), (False, "cancelled")])
def test_closing_leaves_a_job_that_can_go_on(
    studio: Studio, script: Script, monkeypatch: pytest.MonkeyPatch, resumable: bool, state: str
) -> None:
    known = replace(registry.JOB_KINDS["script"], resumable=resumable)
    monkeypatch.setitem(registry.JOB_KINDS, "script", known)
    control = JobControl()
    control.leave()
    job = studio.submit("script", Config())
    assert studio.execute(job, control=control) == state
    assert script.stepped == 0


def test_a_queued_job_can_be_cancelled(studio: Studio, script: Script) -> None:
    job = studio.submit("script", Config())
    studio.request(job, "cancel")
    assert studio.execute(job) == "cancelled"
    assert script.stepped == 0


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (InvalidInput("Choose a file."), "invalid_input", "Choose a file."),
        (OSError(28, "No space left on device"), "disk_full", "The disk is full"),
        (MemoryError("x"), "out_of_memory", "not enough memory"),
        (KeyError("x"), "bug", "Something unexpected went wrong (KeyError)"),
    ],
)
def test_every_failure_is_a_sentence(
    studio: Studio, script: Script, error: Exception, code: str, sentence: str
) -> None:
    script.error = error
    job = studio.submit("script", Config())
    assert studio.execute(job) == "failed"
    row = JOBS.get(studio.db(), job)
    assert row.error_code == code
    assert sentence in (row.error_message or "")
    assert "Traceback" not in (row.error_message or "")


def test_an_internal_error_keeps_its_report(studio: Studio, script: Script) -> None:
    script.error = KeyError("x")
    job = studio.submit("script", Config())
    studio.execute(job)
    assert "Traceback" in (JOBS.get(studio.db(), job).error_details or "")


def test_a_retry_is_a_new_linked_job(studio: Studio, script: Script) -> None:
    script.error = InvalidInput("Choose a file.")
    job = studio.submit("script", Config())
    studio.execute(job)
    script.error = None
    again = studio.retry(job)
    assert studio.execute(again) == "completed"
    row = JOBS.get(studio.db(), again)
    assert (row.retry_of, row.retry_count) == (job, 1)
    assert JOBS.get(studio.db(), job).status == "failed"


def test_running_now_raises_what_made_it_fail(studio: Studio, script: Script) -> None:
    script.error = InvalidInput("Choose a file.")
    with pytest.raises(StudioError, match=r"Choose a file\.") as caught:
        studio.run_now("script", Config(), RecordingReporter(), JobControl())
    assert caught.value.code == "invalid_input"


def test_running_now_tells_a_cancel(studio: Studio, script: Script) -> None:
    control = JobControl()
    control.cancel()
    with pytest.raises(Cancelled):
        studio.run_now("script", Config(), RecordingReporter(), control)


def test_bad_settings_are_refused_before_anything_is_queued(studio: Studio) -> None:
    with pytest.raises(InvalidInput, match="File or folder is missing"):
        studio.submit("import_dataset", ImportDatasetConfig())
    assert rows.list_jobs(studio.db()) == []


def test_an_interrupted_job_can_be_resumed(studio: Studio, script: Script) -> None:
    job = studio.submit("script", Config())
    rows.claim(studio.db(), job, 2**22 - 3)
    assert [lost.id for lost in studio.recover()] == [job]
    studio.request(job, "resume")
    assert JOBS.get(studio.db(), job).status == JobState.QUEUED.value
    assert studio.execute(job) == "completed"
