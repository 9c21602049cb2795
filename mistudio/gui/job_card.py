"""One job in the jobs panel: icon, title, state, phase, bar, and what can be done with it."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QWidget

from mistudio.core.units import format_duration
from mistudio.gui.reporting import Progress
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import Card, IconLabel, button, label, row
from mistudio.gui.widgets.elided import Elided
from mistudio.gui.widgets.pill import Pill
from mistudio.gui.widgets.progress import ProgressBar
from mistudio.store.records import JobRow

KIND_ICONS = {
    "import_dataset": "database",
    "download_dataset": "download",
    "download_model": "download",
    "index_dataset": "search",
    "check_model": "chip",
    "report_model": "table",
    "prompt_lens": "eye",
    "extract_activations": "features",
    "probe_extraction": "clock",
    "verify_activations": "check_circle",
    "export_activations": "upload",
    "tokenize": "text",
    "add_sample": "bolt",
    "import_model": "chip",
    "train": "curve",
    "evaluate": "check_circle",
    "compare_saes": "table",
    "survival": "table",
    "sae_health": "table",
    "export_sae": "upload",
    "export_features": "upload",
    "import_explanations": "tag",
    "import_cache": "download",
    "import_sae": "download",
    "download_sae": "download",
    "harvest": "features",
    "steer": "sliders",
    "demo": "bolt",
}
WAITING = "Waiting"  # how the phase of a job begins that waits before another try
BAR_COLORS = {"paused": "yellow", "interrupted": "yellow", "failed": "red", "queued": "blue"}


class JobCard(Card):
    """Shows a job's row, overlaid by live progress; `asked(job id, verb)` tells of a button.

    Verbs: pause, resume, cancel, stop, now (end a waiting time), retry, up, log.
    """

    asked = Signal(str, str)

    def __init__(self, job: JobRow, early_finish: bool, parent: QWidget | None = None) -> None:
        super().__init__("list", parent, padding=12)
        self.job = job
        self._ending = "stop" if early_finish else "cancel"
        self._told_to_end = False
        self.box.setSpacing(appearance().px(6))
        self.title = Elided("label")
        self.pill = Pill(job.status)
        self.bar = ProgressBar()
        self.line = label("", "small", wrap=True)
        self.pause = button("Pause", self._on_pause, icon="pause")
        self.end = button(self._ending.capitalize(), self._on_end, icon="stop")
        self.retry = button("Retry", self._on_retry, icon="retry")
        self.now = button("Retry now", self._on_now, icon="retry")
        self.now.setToolTip("Try again without waiting any longer")
        self.now.hide()
        self.up = button("Move up", self._on_up, variant="ghost", icon="chevron_up")
        self.up.setToolTip("Run this job before the one that waits ahead of it")
        self.log = button(
            "Log", self._on_log, variant="ghost", icon="log", tip="What the job wrote"
        )
        top = row(IconLabel(KIND_ICONS.get(job.kind, "list"), "label"))
        top.addWidget(self.title, 1)
        top.addWidget(self.pill)
        self.box.addLayout(top)
        self.box.addWidget(self.bar)
        self.box.addWidget(self.line)
        self.box.addLayout(row(self.pause, self.end, self.now, self.retry, self.up, None, self.log))
        self.show_job(job, "")

    def show_job(self, job: JobRow, waits_for: str) -> None:
        """Show another state of the row; `waits_for` names what a queued job waits for."""
        self.job = job
        self.title.set_text(job.title)
        running, waiting = job.status == "running", job.status in ("paused", "interrupted")
        if running and self._told_to_end:
            self.pill.set_state("cancelling", f"{_ing(self._ending)}…")
        else:
            self._told_to_end = False
            self.pill.set_state(job.status)
        self.bar.set_color(BAR_COLORS.get(job.status, "emerald"))
        self.bar.set_value(job.progress)
        self.bar.setVisible(job.status not in ("completed", "cancelled"))
        self.line.setText(self._describe(job, waits_for))
        self.pause.setVisible(running or waiting)
        self.pause.setText("Resume" if waiting else "Pause")
        self.pause.setEnabled(not self._told_to_end)
        self.end.setVisible(running or waiting or job.status == "queued")
        self.end.setText("Cancel" if job.status == "queued" else self._ending.capitalize())
        self.end.setEnabled(not self._told_to_end)
        self.retry.setVisible(job.status in ("failed", "cancelled"))
        if not running:
            self.now.hide()
        self.up.setVisible(job.status == "queued")

    def show_progress(self, progress: Progress) -> None:
        """Show what the running job told last."""
        if self.job.status == "running":
            self.bar.set_value(min(99.9, 100 * progress.fraction))
            self.line.setText(_parts(progress.phase, progress.rate, progress.eta_s))
            self.now.setVisible(progress.phase.startswith(WAITING))

    def _describe(self, job: JobRow, waits_for: str) -> str:
        if job.status == "failed":
            return job.error_message or "It failed."
        if job.status == "queued":
            return f"Waits for: {waits_for}" if waits_for else "Begins as soon as its lane is free"
        if job.status == "running":
            return _parts(job.phase or "starting", job.rate or "", job.eta_s)
        if job.status == "interrupted":
            return "The program had ended; it can go on."
        return (job.finished_at or job.updated_at)[:19].replace("T", " ")

    def _on_pause(self) -> None:
        self.asked.emit(self.job.id, "pause" if self.job.status == "running" else "resume")

    def _on_end(self) -> None:
        verb = "cancel" if self.job.status == "queued" else self._ending
        if self.job.status == "running":
            self._told_to_end = True
            self.pill.set_state("cancelling", f"{_ing(self._ending)}…")
            self.end.setEnabled(False)
            self.pause.setEnabled(False)
        self.asked.emit(self.job.id, verb)

    def _on_retry(self) -> None:
        self.asked.emit(self.job.id, "retry")

    def _on_now(self) -> None:
        self.now.hide()
        self.asked.emit(self.job.id, "now")

    def _on_up(self) -> None:
        self.asked.emit(self.job.id, "up")

    def _on_log(self) -> None:
        self.asked.emit(self.job.id, "log")


def _ing(verb: str) -> str:
    return {"stop": "Stopping", "cancel": "Cancelling"}[verb]


def _parts(phase: str, rate: str, eta_s: float | None) -> str:
    left = "" if eta_s is None else f"{format_duration(eta_s)} left"
    return " · ".join(part for part in (phase, rate, left) if part)
