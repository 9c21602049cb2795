"""A small read-only table with figures to the right, that can be copied as text."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QWidget

from mistudio.gui.style import mono_font
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.facts_table import FactsTable

_ANY_HEIGHT = (1 << 24) - 1


class FigureTable(FactsTable):
    """Columns in `numeric` hold figures; a cell's tooltip is its text."""

    def __init__(
        self,
        titles: Sequence[str],
        name: str,
        parent: QWidget | None = None,
        *,
        numeric: Collection[int] = (),
        most: int = 12,
        stretch: int = 0,
        fills: bool = False,
        yields: bool = False,
    ) -> None:
        """`fills`: takes the height there is, instead of that of its rows; `yields`: is at most
        as tall as its rows, and scrolls where there is less room."""
        super().__init__(titles, name, parent, most=most, stretch=stretch)
        self._fills, self._yields = fills, yields
        self._titles, self._numeric = tuple(titles), tuple(numeric)
        self._right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        self.setWordWrap(False)
        self.setTabKeyNavigation(False)
        for column in self._numeric:
            head = self.horizontalHeaderItem(column)
            if head is not None:
                head.setTextAlignment(self._right)

    def set_rows(self, rows: Sequence[Sequence[str]], tips: Sequence[str] = ()) -> None:
        super().set_rows(rows, tips)
        if self._fills or self._yields:
            self.setMinimumHeight(min(appearance().px(120), self.maximumHeight()))
        if self._fills:
            self.setMaximumHeight(_ANY_HEIGHT)
        for line, texts in enumerate(rows):
            for column, text in enumerate(texts):
                item = self.item(line, column)
                if item is None:
                    continue
                if not tips:
                    item.setToolTip(text)
                if column in self._numeric:
                    item.setTextAlignment(self._right)
                    item.setFont(mono_font(13))

    def as_text(self) -> str:
        """Headings and cells, tab-separated."""
        return "\n".join("\t".join(line) for line in ([*self._titles], *self.texts()))
