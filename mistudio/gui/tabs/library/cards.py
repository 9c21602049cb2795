"""Cards of the dataset and model lists: a stored object, and a job that will add one."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QHBoxLayout, QSizePolicy, QVBoxLayout, QWidget

from mistudio.core.units import EM_DASH
from mistudio.gui.style import set_property
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import Card, IconLabel, button, label, set_icon
from mistudio.gui.widgets.pill import Pill
from mistudio.gui.widgets.progress import ProgressBar
from mistudio.store.records import JobRow


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
    """An import that waits or runs; its delete button cancels it."""

    def __init__(self, job_id: str, icon: str, color: str, parent: QWidget | None = None) -> None:
        super().__init__(job_id, icon, color, parent)
        self._clickable = False
        set_property(self, "hoverable", False)
        self.unsetCursor()
        self.delete.setText("Cancel")
        self.delete.setToolTip("Cancel this job")
        set_icon(self.delete, "close")
        self._cancelling = False

    def show_job(self, job: JobRow, progress: tuple[float, str] | None) -> None:
        """Show the job's state and what it told last."""
        percent, phase = progress or (job.progress, job.phase or "Starting")
        waits = job.status == "queued"
        state = "cancelling" if self._cancelling else job.status
        self.show_object(job.title, "Waits for its turn" if waits else phase, state)
        self.delete.setAccessibleName(f"Cancel {job.title}")
        self.delete.setDisabled(self._cancelling)
        self.show_progress(None if waits else percent or 0.0)

    def _ask_delete(self) -> None:
        self._cancelling = True
        self.delete.setDisabled(True)
        self.pill.set_state("cancelling", "Cancelling…")
        super()._ask_delete()


class Elided(QWidget):
    """One line of text that ends in … where the room does; the tooltip has all of it."""

    def __init__(self, role: str = "", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._text = EM_DASH
        self._line = label("", role)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(self._line)
        self._line.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)

    def text(self) -> str:
        return self._text

    def set_text(self, text: str) -> None:
        """Show another text."""
        self._text = text
        self._elide()

    def resizeEvent(self, event: object) -> None:
        self._elide()

    def _elide(self) -> None:
        metrics = self._line.fontMetrics()
        shown = metrics.elidedText(self._text, Qt.TextElideMode.ElideRight, self.width())
        self._line.setText(shown)
        self.setToolTip(self._text if shown != self._text else "")
