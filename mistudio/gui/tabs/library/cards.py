"""Cards of the dataset and model lists: a stored object, and a job that will add one."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QHBoxLayout, QSizePolicy, QVBoxLayout, QWidget

from mistudio.gui.style import set_property
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import Card, IconLabel, button, label, row, set_icon
from mistudio.gui.widgets.elided import Elided
from mistudio.gui.widgets.pill import Pill
from mistudio.gui.widgets.progress import ProgressBar
from mistudio.store.records import JobRow

_HELD = ("paused", "interrupted")
_BAR_COLORS = {"paused": "yellow", "interrupted": "yellow", "failed": "red"}
_KEPT = {"failed": "It failed.", "cancelled": "Cancelled; Retry goes on with what is kept."}


class ObjectCard(Card):
    """Icon, name, a line of facts, pill, bar while something is under way, and delete.

    `opened` follows a click, Return or Space if the card can be opened.
    """

    opened = Signal(str)
    delete_asked = Signal(str)

    def __init__(
        self, object_id: str, icon: str, color: str, parent: QWidget | None = None
    ) -> None:
        super().__init__("list", parent, padding=16, clickable=True)
        self.object_id = object_id
        px = appearance().px
        self.box.setSpacing(px(10))
        self.name = Elided("card")
        self.facts = label("", "muted", wrap=True)
        self.extra = label("", "muted", wrap=True)
        self.extra.hide()
        words = QVBoxLayout()
        words.setSpacing(px(4))
        for part in (self.name, self.facts, self.extra):
            words.addWidget(part)
        words.addStretch(1)
        self.pill = Pill()
        self.side = QHBoxLayout()
        self.side.setSpacing(px(4))
        self.side.addWidget(self.pill)
        self.delete = button("", self._ask_delete, variant="ghost", icon="trash", tip="Delete")
        self.side.addWidget(self.delete)
        line = QHBoxLayout()
        line.setSpacing(px(12))
        line.addWidget(IconLabel(icon, color, 32))
        line.addLayout(words, 1)
        line.addLayout(self.side)
        self.box.addLayout(line)
        self.bar = ProgressBar(color)
        self.bar.hide()
        self.box.addWidget(self.bar)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Minimum)
        self.clicked.connect(self._open)

    def show_object(self, name: str, facts: str, state: str, *, extra: str = "") -> None:
        """Show what the object is now."""
        self.name.set_text(name)
        self.facts.setText(facts)
        self.extra.setText(extra)
        self.extra.setVisible(bool(extra))
        self.pill.set_state(state)
        self.delete.setAccessibleName(f"Delete {name}")
        self.setAccessibleName(f"{name}, {self.pill.accessibleName()}, {facts}")

    def show_progress(self, percent: float | None) -> None:
        """Show the bar at a percentage, or none."""
        self.bar.setVisible(percent is not None)
        self.bar.set_value(percent)

    def _ask_delete(self) -> None:
        self.delete_asked.emit(self.object_id)

    def _open(self) -> None:
        self.opened.emit(self.object_id)


class JobCard(ObjectCard):
    """A job that will add an object: how far it is, and what can be done with it.

    `asked(job id, verb)` follows a button: pause, resume, now, cancel, retry, dismiss.
    """

    asked = Signal(str, str)

    def __init__(self, job_id: str, icon: str, color: str, parent: QWidget | None = None) -> None:
        super().__init__(job_id, icon, color, parent)
        self._clickable = False
        set_property(self, "hoverable", False)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.unsetCursor()
        self.now = button("Retry now", self._ask_now, icon="retry", tip="Try again at once")
        self.pause = button("Pause", self._ask_pause, icon="pause")
        self.delete.setText("Cancel")
        self.delete.setToolTip("Cancel this job")
        set_icon(self.delete, "close")
        self.side.removeWidget(self.delete)
        self.box.addLayout(row(self.now, self.pause, self.delete, None))
        self._cancelling = False
        self._status = ""

    def show_job(self, job: JobRow, progress: tuple[float, str] | None, note: str = "") -> None:
        """Show the job's state and what it told last; `note` is its last sentence."""
        self._status = job.status
        percent, phase = progress or (job.progress, job.phase or "Starting")
        ended = job.status in ("failed", "cancelled")
        self._cancelling = self._cancelling and job.status in ("running", "paused")
        waits = job.status == "queued"
        self.show_object(job.title, "Waits for its turn" if waits else phase, job.status)
        if ended:
            self.facts.setText(job.error_message or note or _KEPT[job.status])
        elif job.status == "interrupted":
            self.facts.setText("The program had ended; it can go on.")
        if self._cancelling:
            self.pill.set_state("cancelling", "Cancelling…")
        self._show_buttons(job, phase)
        self.bar.set_color(_BAR_COLORS.get(job.status, "blue"))
        self.show_progress(None if waits or ended else percent or 0.0)

    def _show_buttons(self, job: JobRow, phase: str) -> None:
        ended, held = job.status in ("failed", "cancelled"), job.status in _HELD
        self.delete.setText("Dismiss" if ended else "Cancel")
        self.delete.setToolTip("Take it off this list" if ended else "Cancel this job")
        self.delete.setDisabled(self._cancelling)
        self.pause.setText("Retry" if ended else "Resume" if held else "Pause")
        set_icon(self.pause, "retry" if ended else "play" if held else "pause")
        self.pause.setVisible(job.status != "queued")
        self.pause.setDisabled(self._cancelling)
        self.now.setVisible(job.status == "running" and phase.startswith("Waiting"))
        for part in (self.delete, self.pause, self.now):
            part.setAccessibleName(f"{part.text()} {job.title}")

    def _ask_pause(self) -> None:
        held = "resume" if self._status in _HELD else "pause"
        ended = self._status in ("failed", "cancelled")
        self.asked.emit(self.object_id, "retry" if ended else held)

    def _ask_now(self) -> None:
        self.asked.emit(self.object_id, "now")

    def _ask_delete(self) -> None:
        if self._status in ("failed", "cancelled"):
            self.asked.emit(self.object_id, "dismiss")
            return
        if self._status in ("running", "paused"):
            self._cancelling = True
            self.delete.setDisabled(True)
            self.pause.setDisabled(True)
            self.pill.set_state("cancelling", "Cancelling…")
        self.asked.emit(self.object_id, "cancel")
