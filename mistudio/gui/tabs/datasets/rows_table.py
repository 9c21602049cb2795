"""First rows of something not stored yet, as a small table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QHeaderView, QTableWidget, QTableWidgetItem, QWidget

from mistudio.gui.theme import appearance

_COLUMNS = 30  # shown at most
_CELL = 160  # characters of a cell; its tooltip has more
_TIP = 1500
_NARROW, _WIDE = 90, 420  # px of a column


class RowsTable(QTableWidget):
    """Cells on one line; the tooltip has more of their text."""

    def __init__(self, name: str, parent: QWidget | None = None) -> None:
        super().__init__(0, 0, parent)
        self.setTabKeyNavigation(False)  # Tab leaves it
        self.setAccessibleName(name)
        self.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        self.setAlternatingRowColors(True)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setTextElideMode(Qt.TextElideMode.ElideRight)
        self.setHorizontalScrollMode(QTableWidget.ScrollMode.ScrollPerPixel)
        self.verticalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        header = self.horizontalHeader()
        header.setHighlightSections(False)
        header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)

    def show_rows(
        self, columns: Sequence[str], rows: Sequence[Mapping[str, str]], widest: str = ""
    ) -> None:
        """Show these rows; the column `widest`, else the last, takes the room that is left."""
        px, shown = appearance().px, list(columns)[:_COLUMNS]
        self.clear()
        self.setColumnCount(len(shown))
        self.setRowCount(len(rows))
        self.setHorizontalHeaderLabels(shown)
        for line, row in enumerate(rows):
            for column, name in enumerate(shown):
                text = row.get(name, "")
                item = QTableWidgetItem(" ".join(text[: 2 * _CELL].split())[:_CELL])
                item.setToolTip(text[:_TIP])
                self.setItem(line, column, item)
        self.resizeColumnsToContents()
        for column in range(len(shown)):
            wide = min(px(_WIDE), max(px(_NARROW), self.columnWidth(column)))
            self.setColumnWidth(column, wide)
        spare = self.viewport().width() - sum(self.columnWidth(c) for c in range(len(shown)))
        if widest in shown and spare > 0:
            column = shown.index(widest)
            self.setColumnWidth(column, self.columnWidth(column) + spare - 1)
        self.horizontalHeader().setStretchLastSection(True)
        head = self.horizontalHeader().sizeHint().height()
        lines = max(1, len(rows)) * self.verticalHeader().defaultSectionSize()
        self.setFixedHeight(head + lines + px(16))
