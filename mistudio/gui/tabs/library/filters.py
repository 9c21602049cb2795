"""The filter row of a list: text, state, one more property, and how many pass."""

from __future__ import annotations

from collections.abc import Iterable

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QSizePolicy, QWidget

from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import label
from mistudio.gui.widgets.elided import Combo
from mistudio.gui.widgets.layout import SearchField, guard_wheel

STATES = (
    ("", "All states"),
    ("ready", "Ready"),
    ("work", "In work"),
    ("failed", "Failed"),
)
_IN_WORK = ("queued", "running", "paused", "interrupted", "downloading", "ingesting", "importing")
_IN_WORK += ("checking", "cancelling")


def state_group(status: str) -> str:
    """Which of `STATES` a row's or job's status belongs to."""
    if status in ("ready", "loaded", "completed"):
        return "ready"
    return "work" if status in _IN_WORK else "failed"


class Filters(QWidget):
    """Says what passes; `changed` follows every edit.

    `every` names the choice that lets every value of the further property pass, such as
    "All sources"; "" leaves that combo out.
    """

    changed = Signal()

    def __init__(self, title: str, every: str = "", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        box = QHBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(appearance().px(8))
        self._noun = title.lower()
        self.search = SearchField(f"Search {title.lower()}")
        self.search.setMinimumWidth(appearance().px(180))
        self.search.searched.connect(self._tell)
        self.state = _combo("State", STATES)
        self.state.currentIndexChanged.connect(self._tell)
        self.further = _combo(every, (("", every),))
        self.further.currentIndexChanged.connect(self._tell)
        self.count = label("", "muted")
        box.addWidget(self.search, 1)
        box.addWidget(self.state)
        box.addWidget(self.further)
        box.addWidget(self.count)
        self.further.setVisible(bool(every))

    def offer(self, values: Iterable[str]) -> None:
        """Offer these values of the further property; the chosen one stays."""
        wanted = sorted({value for value in values if value})
        if wanted == [self.further.itemData(i) for i in range(1, self.further.count())]:
            return
        kept = self.further.currentData()
        self.further.blockSignals(True)
        while self.further.count() > 1:
            self.further.removeItem(1)
        for value in wanted:
            self.further.addItem(value, value)
        self.further.setCurrentIndex(max(0, self.further.findData(kept)))
        self.further.blockSignals(False)

    def passes(self, words: str, state: str, further: str = "") -> bool:
        """Whether something described by `words`, with a state of `STATES`, is to be shown."""
        wanted = self.search.text().casefold().split()
        fits = self.state.currentData() in ("", state)
        fits = fits and (self.further.currentData() or further) == further
        return fits and all(word in words.casefold() for word in wanted)

    def is_narrowed(self) -> bool:
        """Whether something may be left out."""
        return bool(
            self.search.text().strip() or self.state.currentData() or self.further.currentData()
        )

    def show_count(self, shown: int, total: int) -> None:
        """Say how many pass."""
        noun = self._noun.removesuffix("s") if total == 1 else self._noun
        passing = "" if shown == total else f"{shown:,} of "
        self.count.setText(f"{passing}{total:,} {noun}")

    def clear(self) -> None:
        """Let everything pass."""
        self.search.clear()
        self.state.setCurrentIndex(0)
        self.further.setCurrentIndex(0)
        self.changed.emit()

    def _tell(self, *told: object) -> None:
        self.changed.emit()


def _combo(name: str, choices: Iterable[tuple[str, str]]) -> QComboBox:
    made = Combo()
    made.setAccessibleName(name)
    made.setToolTip(f"{name}: which are listed")
    made.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToContents)
    made.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
    for value, shown in choices:
        made.addItem(shown, value)
    guard_wheel(made)
    return made
