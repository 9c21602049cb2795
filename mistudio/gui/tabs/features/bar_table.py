"""A table of features with one measure each: number, value, bar, and what the feature is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PySide6.QtCore import QModelIndex, QPersistentModelIndex, QRectF, Qt, Signal
from PySide6.QtGui import QColor, QKeyEvent, QPainter
from PySide6.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableWidget,
    QTableWidgetItem,
    QWidget,
)

from mistudio.gui.style import mono_font
from mistudio.gui.theme import appearance

BAR_HEIGHT = 6
BAR = 2  # column
_SHARE = Qt.ItemDataRole.UserRole + 1


@dataclass(frozen=True)
class BarRow:
    """A feature's line; `share` is the part of the bar that is filled, 0 to 1."""

    feature: int
    value: str
    share: float
    texts: tuple[str, ...]
    tip: str = ""


class _Bars(QStyledItemDelegate):
    """Paints the bar's column."""

    def __init__(self, color: str, width: int, parent: QWidget) -> None:
        super().__init__(parent)
        self._color, self._width = color, width

    def paint(
        self,
        painter: QPainter,
        option: QStyleOptionViewItem,
        index: QModelIndex | QPersistentModelIndex,
    ) -> None:
        super().paint(painter, option, index)
        look = appearance()
        area = option.rect  # type: ignore[attr-defined]
        full, thick = look.px(self._width), look.px(BAR_HEIGHT)
        left, top = area.left() + look.px(6), area.center().y() - thick / 2 + 1
        painter.fillRect(QRectF(left, top, full, thick), QColor(look.colors.card_nested))
        filled = QRectF(left, top, full * float(index.data(_SHARE) or 0.0), thick)
        painter.fillRect(filled, QColor(look.colors.fill(self._color)))


class BarTable(QTableWidget):
    """Rows of `BarRow`; `opened(feature)` comes on a click or on Return."""

    opened = Signal(int)

    def __init__(
        self,
        name: str,
        titles: Sequence[str],
        color: str,
        parent: QWidget | None = None,
        *,
        bar: int = 96,
    ) -> None:
        """`titles` of the feature, the measure, and the texts; the last takes the room left.

        `bar` is the width of a full bar at a 16-px font.
        """
        shown = [titles[0], titles[1], "", *titles[2:]]
        super().__init__(0, len(shown), parent)
        look = appearance()
        self.setAccessibleName(name)
        self.setHorizontalHeaderLabels(shown)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setTabKeyNavigation(False)
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(look.px(30))
        header = self.horizontalHeader()
        header.setHighlightSections(False)
        header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(len(shown) - 1, QHeaderView.ResizeMode.Stretch)
        header.setSectionResizeMode(BAR, QHeaderView.ResizeMode.Fixed)
        self.setColumnWidth(BAR, look.px(bar + 12))
        self.setItemDelegateForColumn(BAR, _Bars(color, bar, self))
        self._rows: tuple[BarRow, ...] = ()
        self.cellClicked.connect(self._on_cell)

    def set_measure(self, title: str) -> None:
        """Name the measure shown."""
        item = self.horizontalHeaderItem(1)
        if item is not None:
            item.setText(title)

    def set_rows(self, rows: Sequence[BarRow]) -> None:
        """Show these rows from the top."""
        self._rows = tuple(rows)
        self.clearSelection()
        self.setCurrentCell(-1, -1)
        self.setRowCount(len(rows))
        for place, row in enumerate(rows):
            self._put(place, 0, f"#{row.feature}", row, mono=True)
            self._put(place, 1, row.value, row, mono=True)
            bar = self._put(place, BAR, "", row)
            bar.setData(_SHARE, max(0.0, min(1.0, row.share)))
            for column, text in enumerate(row.texts, BAR + 1):
                self._put(place, column, text, row)
        self.scrollToTop()

    def _put(
        self, place: int, column: int, text: str, row: BarRow, *, mono: bool = False
    ) -> QTableWidgetItem:
        item = QTableWidgetItem(text)
        item.setToolTip(row.tip)
        if mono:
            item.setFont(mono_font(14))
        self.setItem(place, column, item)
        return item

    def rows(self) -> tuple[BarRow, ...]:
        """What is shown, from the top."""
        return self._rows

    def _on_cell(self, place: int, _column: int) -> None:
        self.opened.emit(self._rows[place].feature)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        row = self.currentRow()
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and row >= 0:
            self.opened.emit(self._rows[row].feature)
        else:
            super().keyPressEvent(event)
