"""Submitting and running jobs: the same code under the window's lanes and the command line."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistudio.core.config import Config, from_dict, to_dict, validate
from mistudio.core.control import JobControl, Request
from mistudio.core.errors import (
    Cancelled,
    DiskFull,
    InUse,
    Left,
    OutOfMemory,
    StudioError,
    from_os_error,
    means_out_of_memory,
)
from mistudio.core.events import Reporter, SilentReporter
from mistudio.core.paths import Paths
from mistudio.core.redact import without_tokens
from mistudio.jobs import recovery
from mistudio.jobs.access_tokens import AccessTokens
from mistudio.jobs.context import JobContext, PersistingReporter, Result
from mistudio.jobs.heartbeat import Heartbeat
from mistudio.jobs.loaded_models import LoadedModels
from mistudio.store import jobs as rows
from mistudio.store import trainings
from mistudio.store.connection import Db
from mistudio.store.database import Store
from mistudio.store.jobs import JobState
from mistudio.store.records import JobRow, TrainingRow
from mistudio.store.tables import ACTIVATION_SETS, JOBS, TRAININGS

if TYPE_CHECKING:
    from mistudio.jobs.crew import Crew

log = logging.getLogger(__name__)


class Studio:
    """One data folder: its database, its job queue and the models this process holds."""

    def __init__(self, paths: Paths) -> None:
        """Open the data folder; raises `Damaged` or `Mismatch` if its database cannot be used."""
        self.paths = paths
        self.store = Store(paths.database, paths.backups)
        self.models = LoadedModels()
        self.tokens = AccessTokens()
        self._controls: dict[str, JobControl] = {}
        self.crew: Crew | None = None
        """the processes that this one trains together with, if it was started as one of several"""

    def db(self) -> Db:
        """The calling thread's connection."""
        return self.store.db()

    def close(self) -> None:
        """Let go of models and database."""
        self.models.unload()
        self.store.close()

    def submit(self, kind: str, config: Config, title: str = "") -> str:
        """Check a config and queue its job; returns the job's id.

        Raises `InvalidInput` with every violation, or what the job's own check raises.
        """
        from mistudio.jobs.registry import JOB_KINDS, title_of

        validate(config)
        known = JOB_KINDS[kind]
        target = known.prepare(self, config) if known.prepare else None
        return rows.add_job(
            self.db(),
            kind,
            known.lane,
            title or title_of(self.db(), known, config),
            to_dict(config),
            target_id=target,
        ).id

    def next_job(self, lane: str) -> str | None:
        """Id of the job that the lane would run now, if the lane is free."""
        if rows.holder(self.db(), lane) is not None and not rows.recover(self.db()):
            return None
        job = rows.next_queued(self.db(), lane)
        return job.id if job else None

    def log_file(self, job_id: str) -> Path:
        """Where the notes of a job are kept, as JSON lines."""
        return self.paths.logs / "jobs" / f"{job_id}.jsonl"

    def recover(self) -> list[JobRow]:
        """After a start: make good what an ended process left; returns its jobs."""
        return recovery.recover(self)

    def request(self, job_id: str, what: str) -> None:
        """Ask a job to pause, resume, cancel, stop, save or try again now, a queued one to move up.

        Acts at once where nothing runs.
        """
        job = JOBS.get(self.db(), job_id)
        state = JobState(job.status)
        waiting = state in (JobState.QUEUED, JobState.INTERRUPTED) or (
            state is JobState.PAUSED and job.pid is None
        )
        if what == "up":
            rows.move_up(self.db(), job_id)
            return
        if waiting:
            self._request_waiting(job, state, what)
            return
        if state not in (JobState.RUNNING, JobState.PAUSED):
            return
        control = self._controls.get(job_id)
        if control is not None:
            self.deliver(job_id, control, what)
        else:
            rows.ask(self.db(), job_id, what)

    def _request_waiting(self, job: JobRow, state: JobState, what: str) -> None:
        from mistudio.jobs.registry import JOB_KINDS

        if what == "cancel":
            rows.move(self.db(), job.id, state, JobState.CANCELLED)
            if job.target_id and job.kind in ("train", "sweep"):
                for training in trainings.of_job(self.db(), job.target_id):
                    self._settle_cancelled(training, state)
            elif job.target_id and job.kind == "extract_activations":
                from mistudio.jobs.extract_activations import settle_cancelled

                settle_cancelled(self, job.target_id)
        elif what in ("resume", "stop") and state is not JobState.QUEUED:
            stop = what == "stop" and JOB_KINDS[job.kind].early_finish
            request = "stop" if stop else None
            if job.target_id and job.kind in ("train", "sweep"):
                going = trainings.of_job(self.db(), job.target_id)
                self._check_resume([t for t in going if t.status in ("paused", "interrupted")])
            rows.move(self.db(), job.id, state, JobState.QUEUED, request=request)
            if job.target_id and job.kind in ("train", "sweep"):
                for training in trainings.of_job(self.db(), job.target_id):
                    if training.status in ("paused", "interrupted"):
                        TRAININGS.update(self.db(), training.id, status="queued")
            elif job.target_id and job.kind == "extract_activations":
                ACTIVATION_SETS.update(self.db(), job.target_id, status="queued")

    def _check_resume(self, found: list[TrainingRow]) -> None:
        """Raise `Mismatch` if one that is to go on would read another model than before."""
        from mistudio.jobs.same_model import check_resume

        check_resume(self, found)

    def _settle_cancelled(self, training: TrainingRow, state: JobState) -> None:
        """A cancelled run that never began leaves nothing; another keeps its checkpoints."""
        if training.status in ("completed", "stopped", "failed"):
            return
        if state is JobState.QUEUED and training.current_step == 0:
            TRAININGS.delete(self.db(), training.id)
        else:
            TRAININGS.update(self.db(), training.id, status="interrupted")

    def deliver(self, job_id: str, control: JobControl, what: str) -> None:
        """Hand a request to a job that runs in this process."""
        from mistudio.jobs.registry import JOB_KINDS

        job = JOBS.get(self.db(), job_id)
        in_place = not JOB_KINDS[job.kind].ends_turn_on_pause
        if what == "pause":
            control.pause()
            if in_place:
                rows.move(self.db(), job_id, JobState.RUNNING, JobState.PAUSED, pid=os.getpid())
        elif what == "resume":
            control.resume()
            if in_place:
                rows.move(self.db(), job_id, JobState.PAUSED, JobState.RUNNING)
        elif what == "save":
            control.save_now()
        elif what == "now":
            control.hurry()
        elif what == "stop":
            control.stop()
        elif what == "cancel":
            control.cancel()

    def retry(self, job_id: str) -> str:
        """Queue a new job with the settings of a finished one; returns its id."""
        from mistudio.jobs.registry import JOB_KINDS

        old = JOBS.get(self.db(), job_id)
        config = from_dict(JOB_KINDS[old.kind].config_class, old.config)
        new = self.submit(old.kind, config, old.title)
        JOBS.update(self.db(), new, retry_of=job_id, retry_count=old.retry_count + 1)
        return new

    def resume_training(self, training_id: str) -> str:
        """Queue the continuation of a paused or interrupted run; returns the job's id.

        Of a queued one it is the job that waits: who queued it may be gone. Raises `InUse` while
        it is running, or if it has already ended, `Mismatch` if its model is another one by now.
        """
        training = TRAININGS.named(self.db(), training_id)
        if training.status in ("initializing", "training", "stopping"):
            raise InUse("This training is already running.")
        if training.status in ("completed", "stopped"):
            raise InUse(f"This training has already ended ({training.status}).")
        self._check_resume([training])
        held = JOBS.select(
            self.db(),
            "target_id IN (?, ?) AND status IN ('queued', 'paused', 'interrupted')",
            [training.id, training.group_id],
            limit=1,
        )
        if held:
            if held[0].status != JobState.QUEUED.value:
                self.request(held[0].id, "resume")
            return held[0].id
        TRAININGS.update(self.db(), training.id, status="queued")
        return rows.add_job(
            self.db(),
            "train",
            "gpu",
            f"Train {training.name}",
            training.config,
            target_id=training.id,
        ).id

    def execute(
        self,
        job_id: str,
        reporter: Reporter | None = None,
        control: JobControl | None = None,
        *,
        wait: bool = False,
    ) -> str:
        """Run a queued job in this thread to the end of its turn; returns the job's state.

        With `wait`, holds until the lane is free; without, returns "queued" if it is not.
        """
        reporter = reporter or SilentReporter()
        control = control or JobControl()
        self._controls[job_id] = control
        try:
            if not self._claim(job_id, reporter, control, wait):
                return JOBS.get(self.db(), job_id).status
            return self._run(JOBS.get(self.db(), job_id), reporter, control)
        finally:
            self._controls.pop(job_id, None)

    def _claim(self, job_id: str, reporter: Reporter, control: JobControl, wait: bool) -> bool:
        told = ""
        while not rows.claim(self.db(), job_id, os.getpid()):
            job = JOBS.get(self.db(), job_id)
            if job.status != "queued" or not wait:
                return False
            if control.requested() in (Request.CANCEL, Request.STOP):
                self.request(job_id, "cancel")
                return False
            if not rows.recover(self.db()):
                first = rows.holder(self.db(), job.lane)
                if first is not None and first.id != told:
                    told = first.id
                    reporter.note(f"Waits for: {first.title}.")
                time.sleep(0.3)
        return True

    def _run(self, job: JobRow, reporter: Reporter, control: JobControl) -> str:
        from mistudio.jobs.registry import JOB_KINDS

        known = JOB_KINDS[job.kind]
        kept = PersistingReporter(reporter, self.db(), job, self.log_file(job.id))
        ctx = JobContext(self, job, kept, control)
        heart = Heartbeat(self, job.id, control)
        heart.beat()
        heart.start()
        try:
            result = known.run(ctx, from_dict(known.config_class, job.config))
            if ctx.held:
                return self._finish(job, JobState.PAUSED, phase="paused", result=result)
            return self._finish(
                job, JobState.COMPLETED, progress=100.0, phase="finished", result=result
            )
        except Left:
            state = JobState.INTERRUPTED if known.resumable else JobState.CANCELLED
            return self._finish(job, state, phase=state.value)
        except Cancelled:
            return self._finish(job, JobState.CANCELLED, phase="cancelled")
        except Exception as error:
            failure = as_studio_error(error)
            failure.sentence = without_tokens(failure.sentence)
            failure.details = without_tokens(failure.details)
            if failure.code == "bug":
                log.exception("job %s (%s) broke", job.id, job.kind)
            kept.note(failure.sentence, level="error")
            return self._finish(
                job,
                JobState.FAILED,
                phase="failed",
                error_code=failure.code,
                error_message=failure.sentence,
                error_details=failure.details,
                retryable=int(failure.retryable),
            )
        finally:
            heart.stop()

    def _finish(self, job: JobRow, state: JobState, **values: Any) -> str:
        import json

        if "result" in values:
            values["result"] = json.dumps(values["result"], ensure_ascii=False)
        values.setdefault("eta_s", None)
        for source in (JobState.RUNNING, JobState.PAUSED):
            if source is not state and rows.move(self.db(), job.id, source, state, **values):
                break
        return JOBS.get(self.db(), job.id).status

    def run_now(self, kind: str, config: Config, reporter: Reporter, control: JobControl) -> Result:
        """Submit a job and run it here to its end; returns its result.

        Raises the `StudioError` that made it fail, or `Cancelled`.
        """
        return self.finish_now(self.submit(kind, config), reporter, control)

    def finish_now(self, job_id: str, reporter: Reporter, control: JobControl) -> Result:
        """Run a queued job here to its end; returns its result or raises why there is none.

        `status` is the job's, unless the result tells another of what was made (a model that is
        "incompatible").
        """
        self.execute(job_id, reporter, control, wait=True)
        job = JOBS.get(self.db(), job_id)
        if job.status == "failed":
            failure = StudioError(
                job.error_message or "The job failed.", details=job.error_details or ""
            )
            failure.code = job.error_code or "error"
            raise failure
        if job.status == "cancelled":
            raise Cancelled
        return {"status": job.status, **(job.result or {}), "job": job.id}


def as_studio_error(error: Exception) -> StudioError:
    """Any exception as one sentence; an unexpected one gets the code "bug" and its traceback."""
    if isinstance(error, StudioError):
        return error
    if isinstance(error, OSError):
        return from_os_error(error, "finish this job")
    if means_out_of_memory(error):
        return OutOfMemory(
            "There is not enough memory for this. Use a smaller batch or model, or close others.",
            details=str(error),
        )
    if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
        return DiskFull("The disk is full. Free some space and retry.", details=str(error))
    return StudioError(
        f"Something unexpected went wrong ({type(error).__name__}). "
        "The report in the job's details helps to mend it.",
        details="".join(traceback.format_exception(error)),
        code="bug",
    )


def interrupt_note(lost: list[JobRow]) -> str:
    """The sentence that a start shows after an unexpected end, or ""."""
    if not lost:
        return ""
    count = len(lost)
    noun = "job" if count == 1 else "jobs"
    return f"miStudio ended unexpectedly; {count} {noun} can go on."
