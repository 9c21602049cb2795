"""How variants are made: all cards together, each alone, at several strengths, over prompts."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QButtonGroup, QLineEdit, QVBoxLayout, QWidget

from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button
from mistudio.gui.widgets.elided import Combo
from mistudio.gui.widgets.flow import FlowRow
from mistudio.gui.widgets.layout import guard_wheel

BATCH = "batch"
OPERATORS = "operators"
MODES = (
    ("blended", "Blended", "All cards together, beside the baseline"),
    ("compare", "Compare", "Each card alone, a column each"),
    ("sweep", "Sweep", "The cards at 2 to 16 strengths: table and dose–response curve"),
    (OPERATORS, "Operators", "One card under several operators or strengths, a column each"),
    (BATCH, "Batch", "Blended for every line of the prompt field, as a table"),
)


class ModeRow(QWidget):
    """Edits the mode and, of a sweep, strengths and which card; `changed` follows every edit."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        px = appearance().px
        self._group = QButtonGroup(self)
        self.buttons = {}
        for value, shown, about in MODES:
            made = button(shown, variant="toggle", tip=about)
            self._group.addButton(made)
            self.buttons[value] = made
        self.buttons["blended"].setChecked(True)
        self.of = Combo()
        self.of.setAccessibleName("What is swept")
        self.of.setToolTip("All cards, or one of them alone")
        self.of.setMinimumWidth(px(150))
        guard_wheel(self.of)
        self.strengths = QLineEdit("0.25, 0.5, 1, 2")
        self.strengths.setAccessibleName("Strengths of the sweep")
        self.strengths.setToolTip("2 to 16 factors that multiply the strengths of the cards")
        self.strengths.setMinimumWidth(px(180))
        for made in self.buttons.values():
            made.toggled.connect(self._on_mode)
        self.of.currentIndexChanged.connect(self._tell)
        self.strengths.textChanged.connect(self._tell)
        flow = FlowRow(*self.buttons.values(), self.of, self.strengths)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addLayout(flow)
        self._arrange()

    def mode(self) -> str:
        return next(value for value, made in self.buttons.items() if made.isChecked())

    def set_mode(self, mode: str, strengths: str = "") -> None:
        """Choose another mode; unknown ones are blended."""
        self.buttons.get(mode, self.buttons["blended"]).setChecked(True)
        if strengths:
            self.strengths.setText(strengths.replace(",", ", ").replace("  ", " "))

    def swept(self) -> int:
        """The card that is swept alone, −1 for all."""
        return self.of.currentIndex() - 1

    def set_cards(self, titles: list[str]) -> None:
        """Offer these cards, keeping the choice."""
        shown = ["All cards ×", *(f"{title} ×" for title in titles)]
        if [self.of.itemText(i) for i in range(self.of.count())] == shown:
            return
        kept = self.of.currentText()
        self.of.blockSignals(True)
        self.of.clear()
        self.of.addItems(shown)
        self.of.setCurrentIndex(max(0, self.of.findText(kept)))
        self.of.blockSignals(False)

    def written_strengths(self) -> str:
        """The strengths as the setting is written."""
        return ",".join(part.strip() for part in self.strengths.text().split(",") if part.strip())

    def _on_mode(self, on: bool) -> None:
        if on:
            self._arrange()
            self._tell()

    def _arrange(self) -> None:
        for widget in (self.of, self.strengths):
            widget.setVisible(self.mode() == "sweep")

    def _tell(self) -> None:
        self.changed.emit()
