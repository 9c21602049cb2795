"""The head of a feature's window: title, label, note, star, hide, previous and next."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QLineEdit, QVBoxLayout, QWidget

from mistudio.core.label_methods import SOURCES
from mistudio.core.units import format_percent
from mistudio.gui.tabs.features.colours import ColourButton
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label, row, set_icon
from mistudio.store.features import FeatureRow

BESIDE = "The feature beside this one in table order"


class DetailHead(QWidget):
    """Edits what the user writes about a feature; text is told on Return and when focus leaves."""

    label_edited = Signal(int, str)
    note_edited = Signal(int, str)
    star_clicked = Signal()
    hide_clicked = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._row: FeatureRow | None = None
        self.title = label("Feature", "title")
        self.star = button(
            "Favourite", self.star_clicked.emit, icon="star", tip="Star it, or take the star away"
        )
        self.hider = button(
            "Hide",
            self.hide_clicked.emit,
            icon="eye_off",
            tip="Leave it out of the table; Hidden there shows it again",
        )
        self.colour = ColourButton()
        self.previous = button("Previous (K)", icon="chevron_left", tip=f"{BESIDE}: K, ← or Alt+←")
        self.next = button("Next (J)", icon="chevron_right", tip=f"{BESIDE}: J, → or Alt+→")
        self.label_edit = self._line("Label", "What does it fire on?", 512)
        self.note_edit = self._line("Note", "Your note", 4000)
        self.source = label("", "small")
        self.label_edit.editingFinished.connect(self._commit_label)
        self.note_edit.editingFinished.connect(self._commit_note)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(appearance().px(8))
        self._tools = row(self.title, None, self.star, self.colour, self.hider)
        for way in (self.previous, self.next):
            self._tools.addWidget(way)
        box.addLayout(self._tools)
        line = row(label("Label", "label"), self.label_edit, self.source)
        line.addWidget(label("Note", "label"))
        line.addWidget(self.note_edit)
        line.setStretch(1, 3)
        line.setStretch(4, 2)
        box.addLayout(line)

    def add_tool(self, tool: QWidget) -> None:
        """Put another control before previous and next."""
        self._tools.insertWidget(self._tools.count() - 2, tool)
        self.setTabOrder(self.hider, tool)  # made last, it would come behind the lines below
        self.setTabOrder(tool, self.previous)
        self.setTabOrder(self.previous, self.next)
        self.setTabOrder(self.next, self.label_edit)

    def _line(self, name: str, placeholder: str, longest: int) -> QLineEdit:
        made = QLineEdit()
        made.setAccessibleName(name)
        made.setPlaceholderText(placeholder)
        made.setMaxLength(longest)
        made.setToolTip(f"{placeholder}; Return keeps it")
        return made

    def show_row(self, row: FeatureRow) -> None:
        """Show a feature; text that is being edited stays while the feature is the same."""
        same = self._row is not None and self._row.index == row.index
        for edit, text in ((self.label_edit, row.label), (self.note_edit, row.notes)):
            if not (same and edit.isModified()):
                edit.setText(text or "")
        self._row = row
        self.source.setText(_told(row))
        set_icon(self.star, "star_on" if row.is_favorite else "star")
        self.star.setText("Favourite" if row.is_favorite else "Add star")
        self.colour.show_colour(row.colour)
        set_icon(self.hider, "eye" if row.is_hidden else "eye_off")
        self.hider.setText("Show in lists" if row.is_hidden else "Hide")

    def commit(self) -> None:
        """Tell what was edited and not told yet."""
        self._commit_label()
        self._commit_note()

    def _commit_label(self) -> None:
        if self._row is not None and self.label_edit.isModified():
            self.label_edit.setModified(False)
            self.label_edited.emit(self._row.index, self.label_edit.text())

    def _commit_note(self) -> None:
        if self._row is not None and self.note_edit.isModified():
            self.note_edit.setModified(False)
            self.note_edited.emit(self._row.index, self.note_edit.text())


def _told(row: FeatureRow) -> str:
    source = SOURCES.get(row.label_source or "", row.label_source or "")
    return source if row.label_score is None else f"{source} · {format_percent(row.label_score)}"
