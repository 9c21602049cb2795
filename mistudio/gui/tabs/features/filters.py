"""The filter bar of the feature table: text, live or all, favourites, hidden, and conditions."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QBoxLayout, QComboBox, QHBoxLayout, QVBoxLayout, QWidget

from mistudio.gui.tabs.features.condition_chips import ConditionChips
from mistudio.gui.tabs.features.finder import LABELS, MODES, PLACEHOLDERS
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label
from mistudio.gui.widgets.editors import NumberBox
from mistudio.gui.widgets.layout import SearchField, guard_wheel
from mistudio.store.features import FeatureFilter

BESIDE = 960  # px at a 16-px font from which chips and tools share a line


class FilterBar(QWidget):
    """Edits a `FeatureFilter`; `changed` follows a pause in typing or a click."""

    changed = Signal()

    def __init__(self, stored: Any = None, parent: QWidget | None = None) -> None:
        """`stored`: what `state` gave earlier."""
        super().__init__(parent)
        self._typing = QTimer(self)
        self._typing.setSingleShot(True)
        self._typing.setInterval(300)
        self._typing.timeout.connect(self.changed)
        self.mode = QComboBox()
        self.mode.addItems(MODES)
        self.mode.setAccessibleName("What is searched")
        self.mode.setToolTip(
            "Search labels, notes and tokens; the text in which features fire; or by meaning"
        )
        guard_wheel(self.mode)
        self.search = SearchField(PLACEHOLDERS[0])
        self.search.searched.connect(self._on_clicked)
        self.live = QComboBox()
        self.live.addItems(["Live features", "All features"])
        self.live.setAccessibleName("Live or all features")
        self.live.setToolTip("Live features fire at least once on the text read.")
        guard_wheel(self.live)
        self.favorites = button(
            "Favourites", variant="toggle", icon="star", tip="Only starred features"
        )
        self.hidden = button("Hidden", variant="toggle", icon="eye_off", tip="Show hidden ones too")
        self.low, self.high = (self._percent(end) for end in ("Least", "Most"))
        self.chips = ConditionChips()
        self.tools = QHBoxLayout()
        self._lay_out()
        self._restore(stored)
        self.mode.currentIndexChanged.connect(self._on_mode)
        self.live.currentIndexChanged.connect(self._on_clicked)
        self.favorites.toggled.connect(self._on_clicked)
        self.hidden.toggled.connect(self._on_clicked)
        self.chips.changed.connect(self._on_clicked)
        for box in (self.low, self.high):
            box.lineEdit().textChanged.connect(self._typing.start)

    def _percent(self, end: str) -> NumberBox:
        box = NumberBox(whole=False, minimum=0.0, maximum=100.0)
        box.setAccessibleName(f"{end} frequency in percent")
        box.setToolTip(f"{end} activation frequency shown, in percent of tokens; empty: any")
        box.lineEdit().setPlaceholderText("any")
        box.setFixedWidth(appearance().px(96))
        return box

    def _lay_out(self) -> None:
        px = appearance().px
        self.first = QHBoxLayout()
        self.first.setSpacing(px(8))
        self.first.addWidget(self.mode)
        self.first.addWidget(self.search, 1)
        for widget in (self.live, self.favorites, self.hidden):
            self.first.addWidget(widget)
        self.tools.setSpacing(px(8))
        self.tools.addWidget(label("Frequency %", "label"))
        for widget in (self.low, label("to", "muted"), self.high):
            self.tools.addWidget(widget)
        second = self._second = QBoxLayout(QBoxLayout.Direction.LeftToRight)
        second.setSpacing(px(8))
        second.addWidget(self.chips, 1)
        second.addLayout(self.tools)
        second.setAlignment(self.tools, Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignLeft)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(px(6))
        box.addLayout(self.first)
        box.addLayout(second)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Chips above the tools where both have no room in one line."""
        super().resizeEvent(event)
        ways = QBoxLayout.Direction
        narrow = self.width() < appearance().px(BESIDE)
        self._second.setDirection(ways.TopToBottom if narrow else ways.LeftToRight)

    def _restore(self, stored: Any) -> None:
        if not isinstance(stored, dict):
            return
        self.live.setCurrentIndex(0 if stored.get("live_only", True) else 1)
        self.favorites.setChecked(bool(stored.get("favorites_only")))
        self.hidden.setChecked(bool(stored.get("show_hidden")))
        for box, name in ((self.low, "low"), (self.high, "high")):
            box.lineEdit().setText(str(stored.get(name, "")))
        self.chips.restore(stored.get("chips"))

    def restore(self, stored: Any) -> None:
        """Filter as `state` told earlier; says so once."""
        self.blockSignals(True)
        self.search.clear()
        self._restore(stored if isinstance(stored, dict) else {"chips": {}})
        self._typing.stop()
        self.blockSignals(False)
        self.changed.emit()

    def set_frequency(self, low: float | None, high: float | None) -> None:
        """Narrow the frequency, as shares of tokens; None leaves an end open."""
        for box, share in ((self.low, low), (self.high, high)):
            box.lineEdit().setText("" if share is None else f"{100 * share:.4g}")

    def state(self) -> dict[str, Any]:
        """What to remember; the text is not."""
        return {
            "live_only": self.live.currentIndex() == 0,
            "favorites_only": self.favorites.isChecked(),
            "show_hidden": self.hidden.isChecked(),
            "low": self.low.text_value(),
            "high": self.high.text_value(),
            "chips": self.chips.state(),
        }

    def wanted(self) -> FeatureFilter:
        """The filter as edited; a frequency that is no number does not narrow."""
        return FeatureFilter(
            text=self.search.text() if self.mode.currentIndex() == LABELS else "",
            live_only=self.live.currentIndex() == 0,
            favorites_only=self.favorites.isChecked(),
            show_hidden=self.hidden.isChecked(),
            min_frequency=_share(self.low),
            max_frequency=_share(self.high),
            conditions=self.chips.conditions(),
            any_of=self.chips.any_of(),
        )

    def narrows(self) -> bool:
        """Whether anything is filtered beyond what a fresh window filters."""
        return self.wanted() != FeatureFilter()

    def clear(self) -> None:
        """Back to all live features."""
        self.search.clear()
        self.live.setCurrentIndex(0)
        self.favorites.setChecked(False)
        self.hidden.setChecked(False)
        for box in (self.low, self.high):
            box.lineEdit().clear()
        self.chips.set_conditions(())
        self.changed.emit()

    def _on_mode(self) -> None:
        self.search.setPlaceholderText(PLACEHOLDERS[self.mode.currentIndex()])
        self.changed.emit()

    def _on_clicked(self) -> None:
        self.changed.emit()


def _share(box: NumberBox) -> float | None:
    try:
        return float(box.text_value()) / 100
    except ValueError:
        return None
