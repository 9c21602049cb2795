"""Follows the jobs that a view submitted: their progress, and how each ended."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import QObject, Signal

from mistudio.core.config import Config
from mistudio.core.errors import StudioError
from mistudio.core.units import format_duration
from mistudio.gui.reporting import Drained
from mistudio.gui.services import Services
from mistudio.jobs import library_pages


class JobWatch(QObject):
    """Submits jobs and tells of these, and only these."""

    ended = Signal(object)  # the JobRow in its final or held state

    def __init__(self, services: Services, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._services = services
        self._followed: set[str] = set()
        services.lanes.finished.connect(self._on_finished)

    def submit(self, kind: str, config: Config) -> str:
        """Queue a job and follow it; raises `StudioError` for what cannot be queued."""
        job_id = self._services.submit(kind, config)
        self._followed.add(job_id)
        return job_id

    def _on_finished(self, job_id: str, state: str) -> None:
        if job_id in self._followed:
            self._followed.discard(job_id)
            studio = self._services.studio
            self._services.query.ask(lambda _: library_pages.job(studio, job_id), self._on_job)

    def _on_job(self, job: Any) -> None:
        if job is not None:
            self.ended.emit(job)


class LiveProgress(QObject):
    """The newest progress of every running job of this window, by job id."""

    moved = Signal(str)  # job id

    def __init__(self, services: Services, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._newest: dict[str, tuple[float, str]] = {}
        self._notes: dict[str, str] = {}
        services.lanes.drained.connect(self._on_drained)
        services.lanes.finished.connect(self._on_finished)

    def of(self, job_id: str) -> tuple[float, str] | None:
        """Percent, and phase with rate and time left; None before the job told any."""
        return self._newest.get(job_id)

    def note_of(self, job_id: str) -> str:
        """The last sentence that the job told, also after its end; "" if it told none."""
        return self._notes.get(job_id, "")

    def _on_drained(self, job_id: str, drained: Drained) -> None:
        if drained.notes:
            self._notes[job_id] = drained.notes[-1].sentence
        if drained.progress is not None:
            told = drained.progress
            left = "" if told.eta_s is None else f"{format_duration(told.eta_s)} left"
            phase = " · ".join(part for part in (told.phase, told.rate, left) if part)
            self._newest[job_id] = (100 * told.fraction, phase)
            self.moved.emit(job_id)

    def _on_finished(self, job_id: str, state: str) -> None:
        self._newest.pop(job_id, None)


def act_on_job(services: Services, job_id: str, verb: str) -> None:
    """Do what a button of a job's card asks for; what is refused becomes a banner."""
    try:
        if verb == "retry":
            services.studio.retry(job_id)
        elif verb == "dismiss":
            library_pages.hide_job(services.studio, job_id)
        else:
            services.lanes.request(job_id, verb)
    except StudioError as error:
        services.banner(error.sentence, level="error", details=error.details)
    services.lanes.nudge()
    services.publisher.publish("jobs", job_id)
