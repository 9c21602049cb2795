"""The filter row of a list: text, state, and how many pass."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QWidget

from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import label
from mistudio.gui.widgets.layout import SearchField, guard_wheel

STATES = (("", "All states"), ("ready", "Ready"), ("work", "In work"))


class Filters(QWidget):
    """Says what passes; `changed` follows every edit."""

    changed = Signal()

    def __init__(self, title: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        box = QHBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(appearance().px(8))
        self.search = SearchField(f"Search {title.lower()}")
        self.search.searched.connect(self._tell)
        self.state = QComboBox()
        self.state.setAccessibleName("State")
        for value, shown in STATES:
            self.state.addItem(shown, value)
        guard_wheel(self.state)
        self.state.currentIndexChanged.connect(self._tell)
        self.count = label("", "muted")
        box.addWidget(self.search, 1)
        box.addWidget(self.state)
        box.addWidget(self.count)

    def passes(self, words: str, state: str) -> bool:
        """Whether something described by `words`, "ready" or in "work", is to be shown."""
        wanted = self.search.text().casefold().split()
        fits = self.state.currentData() in ("", state)
        return fits and all(word in words.casefold() for word in wanted)

    def show_count(self, shown: int, total: int) -> None:
        """Say how many pass."""
        self.count.setText(f"{shown:,} of {total:,}" if shown != total else f"{total:,}")

    def clear(self) -> None:
        """Let everything pass."""
        self.search.clear()
        self.state.setCurrentIndex(0)
        self.changed.emit()

    def _tell(self, *told: object) -> None:
        self.changed.emit()
