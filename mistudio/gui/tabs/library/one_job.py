"""One job that a dialog starts: its buttons, what it tells while it works, what went wrong."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import QObject, Signal, Slot
from PySide6.QtWidgets import QPushButton

from mistudio.core.config import Config
from mistudio.core.errors import StudioError
from mistudio.gui.reporting import Drained
from mistudio.gui.services import Services
from mistudio.gui.tabs.library.jobs import JobWatch
from mistudio.gui.widgets.cards import button, label
from mistudio.gui.widgets.progress import ProgressBar


class OneJob(QObject):
    """Submits one job at a time and follows it. `done(result)` comes when it has completed.

    `cancel_button`, `state` and `problem` are for the dialog to place; each is hidden while it has
    nothing to say, and so is `bar`, if there is one.
    """

    done = Signal(object)

    def __init__(
        self,
        services: Services,
        start_button: QPushButton,
        parent: QObject,
        *,
        failure: str,
        cancel: str = "Cancel",
        cancel_tip: str = "End this run",
        bar: ProgressBar | None = None,
    ) -> None:
        """`start_button` is disabled while the job works; `failure` is said if it says nothing."""
        super().__init__(parent)
        self._services, self._start, self._failure, self._bar = (
            services, start_button, failure, bar
        )  # fmt: skip
        self.id = ""
        self.cancel_button = button(cancel, self.cancel, icon="close", tip=cancel_tip)
        self.state = label("", "muted", wrap=True)
        self.problem = label("", "error", wrap=True, selectable=True)
        self.problem.hide()
        self._watch = JobWatch(services, self)
        self._watch.ended.connect(self._on_ended)
        services.lanes.drained.connect(self._on_drained)
        self._wait(False)

    def submit(self, kind: str, config: Config) -> bool:
        """Queue the job; False if it cannot be, and the problem says why."""
        try:
            self.id = self._watch.submit(kind, config)
        except StudioError as error:
            self.say(error.sentence)
            return False
        self.say("")
        self._wait(True)
        return True

    @Slot()
    def cancel(self) -> None:
        """End the job under way."""
        self.state.setText("Cancelling…")
        self._services.lanes.request(self.id, "cancel")

    def say(self, sentence: str) -> None:
        """Show what is wrong, "" for nothing."""
        self.problem.setText(sentence)
        self.problem.setVisible(bool(sentence))

    @Slot(str, object)
    def _on_drained(self, job_id: str, drained: Drained) -> None:
        if job_id != self.id or drained.progress is None:
            return
        told = drained.progress
        share = "" if self._bar is not None else f"{100 * told.fraction:.0f} %"
        self.state.setText(" · ".join(part for part in (share, told.phase, told.rate) if part))
        if self._bar is not None:
            self._bar.set_value(100 * told.fraction)

    @Slot(object)
    def _on_ended(self, job: Any) -> None:
        if job.id != self.id:
            return
        self._wait(False)
        if job.status == "completed" and job.result:
            self.done.emit(job.result)
        elif job.status == "failed":
            self.say(job.error_message or self._failure)

    def _wait(self, waiting: bool) -> None:
        self._start.setDisabled(waiting)
        self.cancel_button.setVisible(waiting)
        self.state.setText("Waits for its turn" if waiting else "")
        if self._bar is not None:
            self._bar.set_value(0.0)
            self._bar.setVisible(waiting)
            self.state.setVisible(waiting)
