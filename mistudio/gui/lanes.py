"""The window's job lanes: one worker on one long-lived thread each for GPU and I/O jobs."""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable
from typing import Protocol

from PySide6.QtCore import QObject, QThread, QTimer, Signal, Slot

from mistudio.core.control import JobControl
from mistudio.core.events import Reporter
from mistudio.gui.collector import collect_anywhere, collect_here
from mistudio.gui.reporting import BufferedReporter, Drained

log = logging.getLogger(__name__)

LANES = ("gpu", "io")


class JobSource(Protocol):
    """What a lane needs of `jobs.runner.Studio`."""

    def next_job(self, lane: str) -> str | None:
        """The id of the job that this lane should run now, None if there is none."""
        ...

    def execute(self, job_id: str, reporter: Reporter, control: JobControl) -> object:
        """Run a queued job to its terminal state and return that state."""
        ...

    def request(self, job_id: str, request: str) -> object:
        """Record a pause, resume, cancel, stop or save request."""
        ...


def _nothing(*_given: object) -> None:
    """No warming up."""


class Running:
    """A job under way: its id, what it told since the last drain, and its control."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.reporter = BufferedReporter()
        self.control = JobControl()


class LaneWorker(QObject):
    """Takes queued jobs one by one; lives in a thread of its own and is woken by a signal."""

    started = Signal(str)
    finished = Signal(object, str)  # Running, final state: exactly once per started job
    broke = Signal(str, str)  # sentence, traceback: an error that is a bug

    def __init__(
        self,
        lane: str,
        source: JobSource,
        warm_up: Callable[[str], object],
        at_start: Callable[[], object] = _nothing,
    ) -> None:
        super().__init__()
        self._warm_up = warm_up
        self._at_start = at_start
        self.lane = lane
        self._source = source
        self._closing = threading.Event()
        self.running: Running | None = None  # replaced whole, read from the window thread

    def close(self) -> None:
        """Take no further job; called from the window thread."""
        self._closing.set()

    @Slot()
    def work(self) -> None:
        """Run queued jobs until there is none."""
        at_start, self._at_start = self._at_start, _nothing
        try:
            at_start()
            while not self._closing.is_set() and (job_id := self._source.next_job(self.lane)):
                self._run(job_id)
        except Exception as error:  # noqa: BLE001 - a lane outlives any failure
            self._tell(f"The {self.lane} lane could not take the next job.", error)

    def _run(self, job_id: str) -> None:
        running = Running(job_id)
        self.running = running
        self.started.emit(job_id)
        state = "failed"
        try:
            self._warm_up(job_id)
            state = str(self._source.execute(job_id, running.reporter, running.control))
        except Exception as error:  # noqa: BLE001 - reported, the next job still runs
            self._tell("A job ended by an error in miStudio itself.", error)
        finally:
            self.running = None
            self.finished.emit(running, state)

    def _tell(self, sentence: str, error: Exception) -> None:
        log.error("%s", sentence, exc_info=error)
        self.broke.emit(sentence, "".join(traceback.format_exception(error)))


class Lanes(QObject):
    """Both lanes, seen from the window thread.

    `drained(job_id, Drained)` carries what a running job told, five times a second (twice on a
    remote display); `finished(job_id, state)` follows the last drain of that job.
    """

    started = Signal(str)
    drained = Signal(str, object)
    finished = Signal(str, str)
    broke = Signal(str, str)
    _wake = Signal()

    def __init__(
        self,
        source: JobSource,
        parent: QObject | None = None,
        *,
        remote: bool = False,
        warm_up: Callable[[str], object] = _nothing,
        at_start: Callable[[], object] = _nothing,
    ) -> None:
        """`warm_up(job_id)` runs in a lane's thread before each job, such as an import of torch;
        `at_start` runs once in the I/O lane's thread, such as the import of a slow library."""
        super().__init__(parent)
        self._warm_up = warm_up
        self._at_start = at_start
        self._source = source
        self._workers: list[LaneWorker] = []
        self._threads: list[QThread] = []
        self._drain_timer = QTimer(self)
        self.set_remote(remote)
        self._drain_timer.timeout.connect(self.drain)
        self._poll_timer = QTimer(self)
        self._poll_timer.setInterval(1000)
        self._poll_timer.timeout.connect(self.nudge)

    def set_remote(self, on: bool) -> None:
        """Drain twice a second instead of five times."""
        self._drain_timer.setInterval(500 if on else 200)

    def start(self) -> None:
        """Start the threads; jobs that wait in the queue begin."""
        collect_here(self)
        for name in LANES:
            thread = QThread(self)
            thread.setObjectName(f"{name} lane")
            first = self._at_start if name == "io" else _nothing
            worker = LaneWorker(name, self._source, self._warm_up, first)
            worker.moveToThread(thread)
            self._wake.connect(worker.work)
            worker.started.connect(self.started)
            worker.finished.connect(self._on_finished)
            worker.broke.connect(self.broke)
            thread.start()
            self._workers.append(worker)
            self._threads.append(thread)
        self._drain_timer.start()
        self._poll_timer.start()
        self._wake.emit()

    @Slot()
    def nudge(self) -> None:
        """Let idle lanes look for work; call after submitting a job."""
        if any(worker.running is None for worker in self._workers):
            self._wake.emit()

    def running(self) -> list[str]:
        """Ids of the jobs that run in this window now."""
        return [w.running.job_id for w in self._workers if w.running is not None]

    def request(self, job_id: str, verb: str) -> None:
        """Ask for "pause", "resume", "cancel", "stop", "save" or "now" (end a waiting time)."""
        found = next((r for w in self._workers if (r := w.running) and r.job_id == job_id), None)
        if found is not None and verb == "cancel":
            found.control.cancel()
        self._source.request(job_id, verb)
        self.nudge()

    @Slot()
    def drain(self) -> None:
        """Pass on what running jobs told since the last time."""
        for worker in self._workers:
            if (running := worker.running) is not None:
                self._pass_on(running)

    def _pass_on(self, running: Running) -> None:
        taken: Drained = running.reporter.drain()
        if taken:
            self.drained.emit(running.job_id, taken)

    @Slot(object, str)
    def _on_finished(self, running: Running, state: str) -> None:
        self._pass_on(running)
        self.finished.emit(running.job_id, state)

    def close(self, pauses: Callable[[str], bool]) -> None:
        """Take no further job and end the running ones at their next safe point.

        A job whose id `pauses` accepts is paused, so that it can be resumed; of the others those
        that can go on later are left interrupted, the rest cancelled.
        """
        for worker in self._workers:
            worker.close()
            if (running := worker.running) is not None:
                if pauses(running.job_id):
                    running.control.pause()
                else:
                    running.control.leave()

    def is_idle(self) -> bool:
        """Whether no job runs in this window."""
        return all(worker.running is None for worker in self._workers)

    def join(self) -> None:
        """Stop the timers and end the threads, waiting for the jobs under way."""
        self._drain_timer.stop()
        self._poll_timer.stop()
        for worker in self._workers:
            worker.close()
        for thread in self._threads:
            thread.quit()
        for thread in self._threads:
            thread.wait()
        self._workers.clear()
        self._threads.clear()
        collect_anywhere(self)
