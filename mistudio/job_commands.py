"""Commands of the queue: list, show, log, pause, resume, cancel, retry."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable

from mistudio.commands import finish_here, finish_training, with_signals
from mistudio.console import Console
from mistudio.jobs.runner import Studio
from mistudio.store import jobs as job_rows
from mistudio.store.tables import JOBS

Arguments = argparse.Namespace


def list_jobs(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Jobs, active ones first."""
    studio.recover()
    rows = [
        {
            "id": job.id,
            "kind": job.kind,
            "title": job.title,
            "status": job.status,
            "progress": job.progress,
            "phase": job.phase,
            "error": job.error_message,
        }
        for job in job_rows.list_jobs(studio.db())
    ]
    console.table("jobs", rows, ("id", "title", "status", "progress", "phase", "error"))


def show_job(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Everything known of one job."""
    console.result(dataclasses.asdict(JOBS.get(studio.db(), arguments.job)))


def job_log(studio: Studio, console: Console, arguments: Arguments) -> None:
    """The notes of one job."""
    job = JOBS.get(studio.db(), arguments.job)
    file = studio.log_file(job.id)
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    console.result({"job": job.id, "lines": lines}, lines or ["No notes."])


def ask_job(what: str) -> Callable[[Studio, Console, Arguments], None]:
    """A verb that leaves a request for a job."""

    def verb(studio: Studio, console: Console, arguments: Arguments) -> None:
        JOBS.get(studio.db(), arguments.job)
        studio.request(arguments.job, what)
        job = JOBS.get(studio.db(), arguments.job)
        console.result({"job": job.id, "status": job.status, "request": what})

    return verb


def retry_job(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Run a finished job again with the same settings."""
    new = studio.retry(arguments.job)
    console.result(with_signals(lambda c: finish_here(studio, console, new, c), hold=False))


def resume_job(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Let a held job go on where it runs; one that no process runs any more goes on here."""
    JOBS.get(studio.db(), arguments.job)
    studio.request(arguments.job, "resume")
    job = JOBS.get(studio.db(), arguments.job)
    if job.status != "queued":
        console.result({"job": job.id, "status": job.status, "request": "resume"})
        return
    finish_training(
        console,
        with_signals(
            lambda control: finish_here(studio, console, job.id, control),
            hold=job.kind in ("train", "sweep"),
        ),
    )
