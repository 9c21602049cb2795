"""One row of a tokenisation at a time, as chips of original text."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QSpinBox, QWidget

from mistudio.gui.services import Services
from mistudio.gui.tabs.datasets.token_chips import TokenChips
from mistudio.gui.widgets.cards import Card, button, label, row
from mistudio.gui.widgets.layout import guard_wheel
from mistudio.jobs import dataset_pages
from mistudio.jobs.dataset_pages import Chip
from mistudio.store.records import TokenizationRow


class TokenView(Card):
    """Row number with Previous and Next, and the tokens of that row."""

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__("settings", parent, padding=16)
        self._services = services
        self._tokenization: TokenizationRow | None = None
        self.title = label("", "label", wrap=True)
        self.number = QSpinBox()
        self.number.setAccessibleName("Row")
        self.number.setPrefix("Row ")
        self.number.setGroupSeparatorShown(True)
        self.number.setAlignment(Qt.AlignmentFlag.AlignCenter)
        guard_wheel(self.number)
        self.number.valueChanged.connect(self._read)
        self.part = label("", "muted")
        self.previous = button("Previous", self.number.stepDown, icon="chevron_left")
        self.next = button("Next", self.number.stepUp, icon="chevron_right")
        line = row(self.title, self.part, self.number, self.previous, self.next)
        line.setStretch(0, 1)
        self.box.addLayout(line)
        self.chips = TokenChips()
        self.box.addWidget(self.chips)
        self.note = label("", "muted", wrap=True)
        self.box.addWidget(self.note)

    def tokenization_id(self) -> str:
        """Whose rows are shown, "" if none are."""
        return self._tokenization.id if self._tokenization else ""

    def clear(self) -> None:
        """Show nothing."""
        self._tokenization = None
        self.hide()

    def show_tokenization(self, tokenization: TokenizationRow, title: str) -> None:
        """Show the first row of a tokenisation."""
        self._tokenization = tokenization
        self.title.setText(title)
        self.number.blockSignals(True)
        self.number.setRange(1, max(1, tokenization.rows or 1))
        self.number.setValue(1)
        self.number.blockSignals(False)
        self.show()
        self._read()

    def _read(self) -> None:
        tokenization, index = self._tokenization, self.number.value() - 1
        if tokenization is None:
            return
        studio = self._services.studio
        self._services.query.ask(
            lambda _: dataset_pages.token_chips(studio, tokenization, index),
            self._on_chips,
            on_error=self._on_error,
            key="chips",
        )

    def _on_chips(self, chips: list[Chip]) -> None:
        self.chips.set_chips(chips)
        special = sum(chip.special for chip in chips)
        self.note.setText(
            f"{len(chips):,} pieces, {special:,} of them special tokens; "
            "point at one to see its id."
        )
        self.part.setText(self._part())

    def _part(self) -> str:
        """The part of the dataset that the shown row belongs to."""
        statistics = (self._tokenization.statistics if self._tokenization else None) or {}
        index = self.number.value() - 1
        for name, (first, behind) in statistics.get("parts", {}).items():
            if first <= index < behind:
                return f"{name} part"
        return ""

    def _on_error(self, sentence: str, details: str) -> None:
        self.chips.set_chips([])
        self.note.setText(sentence)
