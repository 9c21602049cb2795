"""A small read-only table of texts that is as high as its rows."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QTableWidget,
    QTableWidgetItem,
    QWidget,
)

from mistudio.gui.theme import appearance


class FactsTable(QTableWidget):
    """Rows of texts; `most` rows are seen at once, others by scrolling."""

    def __init__(
        self,
        titles: Sequence[str],
        name: str,
        parent: QWidget | None = None,
        *,
        most: int = 12,
        stretch: int = -1,
    ) -> None:
        """`stretch`: the column that takes the room the others leave; -1 shares it equally."""
        super().__init__(0, len(titles), parent)
        self._most = most
        self.setTabKeyNavigation(False)  # Tab leaves it
        self.setHorizontalHeaderLabels(list(titles))
        self.setAccessibleName(name)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setShowGrid(False)
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(appearance().px(34))
        self.horizontalHeader().setHighlightSections(False)
        modes = QHeaderView.ResizeMode
        self.horizontalHeader().setSectionResizeMode(
            modes.Stretch if stretch < 0 else modes.ResizeToContents
        )
        if stretch >= 0:
            self.horizontalHeader().setSectionResizeMode(stretch, modes.Stretch)
        self.horizontalHeader().setDefaultAlignment(
            Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
        )
        self.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)

    def set_titles(self, titles: Sequence[str]) -> None:
        """Show other columns; the rows are to be set after this."""
        self.setRowCount(0)
        self.setColumnCount(len(titles))
        self.setHorizontalHeaderLabels(list(titles))

    def set_rows(self, rows: Sequence[Sequence[str]], tips: Sequence[str] = ()) -> None:
        """Show these rows; the selected row stays."""
        current = self.currentRow()
        self.clearSpans()
        self.setRowCount(len(rows))
        for place, texts in enumerate(rows):
            for column, text in enumerate(texts):
                item = QTableWidgetItem(text)
                if tips:
                    item.setToolTip(tips[place])
                self.setItem(place, column, item)
        if 0 <= current < len(rows):
            self.selectRow(current)
        self.setFixedHeight(self._height())

    def head(self, places: Sequence[int]) -> None:
        """Set these rows off as headings of the rows below them."""
        for place in places:
            self.setSpan(place, 0, 1, self.columnCount())
            item = self.item(place, 0)
            if item is not None:
                font = item.font()
                font.setBold(True)
                item.setFont(font)
                item.setFlags(Qt.ItemFlag.ItemIsEnabled)

    def _height(self) -> int:
        """That of the heading and the rows seen at once, and of a scroll bar if it takes one."""
        header, shown = self.horizontalHeader(), max(1, min(self._most, self.rowCount()))
        lines = shown * self.verticalHeader().defaultSectionSize()
        wide = self.isVisible() and header.length() > self.viewport().width()
        bar = self.horizontalScrollBar().sizeHint().height() if wide else 0
        return header.sizeHint().height() + lines + bar + 6

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        if self.minimumHeight() == self.maximumHeight() and self.rowCount():
            self.setFixedHeight(self._height())

    def texts(self) -> list[list[str]]:
        """What the table says, row by row."""
        return [
            [item.text() if (item := self.item(r, c)) else "" for c in range(self.columnCount())]
            for r in range(self.rowCount())
        ]
