"""One running job in one line: state, phase, progress, rate and time left, and its Cancel."""

from __future__ import annotations

from PySide6.QtWidgets import QHBoxLayout, QWidget

from mistudio.core.units import format_duration
from mistudio.gui.reporting import Drained
from mistudio.gui.services import Services
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label
from mistudio.gui.widgets.pill import Pill
from mistudio.gui.widgets.progress import ProgressBar
from mistudio.store.records import JobRow


class JobLine(QWidget):
    """Follows one job, from its row and from what the lanes tell of it; hidden without one."""

    def __init__(
        self, services: Services, working: str = "extracting", parent: QWidget | None = None
    ) -> None:
        """`working` is the state that a job at work is shown in."""
        super().__init__(parent)
        self._working = working
        self._services = services
        self.job_id = ""
        self._pill = Pill()
        self._phase = label("", "label")
        self._bar = ProgressBar("yellow")
        self._rate = label("", "small")
        self._cancel = button(
            "Cancel", self._on_cancel, icon="close", tip="End this job; what is whole of it stays"
        )
        self._resume = button(
            "Resume", self._on_resume, icon="play", tip="Let the job go on from what it has"
        )
        box = QHBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(appearance().px(12))
        box.addWidget(self._pill)
        box.addWidget(self._phase)
        box.addWidget(self._bar, 1)
        for widget in (self._rate, self._resume, self._cancel):
            box.addWidget(widget)
        services.lanes.drained.connect(self._on_drained)
        self.hide()

    def show_job(self, job: JobRow | None) -> None:
        """Follow a job, or none."""
        self.job_id = job.id if job else ""
        self.setVisible(job is not None)
        if job is None:
            return
        self._pill.set_state(self._working if job.status == "running" else job.status)
        self._resume.setVisible(job.status in ("paused", "interrupted"))
        self._cancel.setEnabled(True)
        self._tell(job.progress or 0.0, job.phase or "waits for its turn", job.rate or "", None)

    def _on_drained(self, job_id: str, told: Drained) -> None:
        if job_id == self.job_id and told.progress is not None:
            now = told.progress
            self._pill.set_state(self._working)
            self._tell(100 * now.fraction, now.phase, now.rate, now.eta_s)

    def _tell(self, percent: float, phase: str, rate: str, eta_s: float | None) -> None:
        self._bar.set_value(percent)
        self._phase.setText(phase)
        left = "" if eta_s is None else f"{format_duration(eta_s)} left"
        self._rate.setText(" · ".join(part for part in (rate, left) if part))

    def _on_cancel(self) -> None:
        self._cancel.setEnabled(False)
        self._pill.set_state("cancelling", "Cancelling…")
        self._services.lanes.request(self.job_id, "cancel")
        self._services.publisher.publish("jobs", self.job_id)

    def _on_resume(self) -> None:
        self._services.lanes.request(self.job_id, "resume")
        self._services.publisher.publish("jobs", self.job_id)
