"""The SAEs of a repository to choose from, narrowed by what is typed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtWidgets import QListWidget, QListWidgetItem, QVBoxLayout, QWidget

from mistudio.core.units import format_bytes
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import label

if TYPE_CHECKING:
    from mistudio.jobs.sae_pages import OfferedSae

MOST = 200  # lines; of more, further letters find the one that is meant
_PLACE = Qt.ItemDataRole.UserRole
HEIGHT = 150  # px at a 16-px font


class PlaceList(QWidget):
    """Folders with their format and bytes; hidden while there is at most one SAE."""

    chosen = Signal(str)  # the folder or file

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._offered: list[OfferedSae] = []
        self.list = QListWidget()
        self.list.setAccessibleName("SAEs of the repository")
        self.list.setToolTip("The SAEs of the repository; write a part of the folder to narrow it")
        self.list.setFixedHeight(appearance().px(HEIGHT))
        self.more = label("", "muted")
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(appearance().px(4))
        box.addWidget(self.list)
        box.addWidget(self.more)
        self.list.itemClicked.connect(self._on_item)
        self.list.itemActivated.connect(self._on_item)

    def offer(self, saes: Sequence[OfferedSae], words: str) -> None:
        """Show what a repository holds, those first that fit `words` if any does."""
        self._offered = list(saes)
        self.setVisible(len(saes) > 1)
        self.narrow(words)

    def is_empty(self) -> bool:
        """Whether nothing is offered."""
        return not self._offered

    @Slot(str)
    def narrow(self, words: str) -> None:
        """Show those whose folder holds every word, all if none does."""
        wanted = words.lower().split()
        fitting = [one for one in self._offered if all(w in one.place.lower() for w in wanted)]
        shown = fitting or self._offered
        self.list.clear()
        for one in shown[:MOST]:
            place = one.place or "the repository itself"
            item = QListWidgetItem(f"{place}   {one.format}, {format_bytes(one.size_bytes)}")
            item.setData(_PLACE, one.place)
            self.list.addItem(item)
        left = len(shown) - MOST
        self.more.setText(f"{left:,} more: write a part of the folder above." if left > 0 else "")
        self.more.setVisible(left > 0)

    def _on_item(self, item: QListWidgetItem) -> None:
        self.chosen.emit(str(item.data(_PLACE)))
