"""Paints the plain rows of a table without asking its model cell by cell and role by role."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from PySide6.QtCore import QPointF, QRect, Qt
from PySide6.QtGui import (
    QColor,
    QFont,
    QFontInfo,
    QFontMetricsF,
    QPainter,
    QRegion,
    QTextLayout,
)
from PySide6.QtWidgets import QStyle

from mistudio.gui.theme import appearance

if TYPE_CHECKING:
    from mistudio.gui.widgets.row_table import Column, RowTable
    from mistudio.gui.widgets.token_text import TokenLine

DrawLine = Callable[[QPainter, "TokenLine", QRect, QFont], None]
KEPT = 4096  # shortened texts
LATE = "…"  # shown in a row that is not loaded yet


class _Pen(NamedTuple):
    """A font with what placing a text on one line in a row needs."""

    font: QFont
    metrics: QFontMetricsF
    letter: float
    """width of each ASCII character, 0 if they differ"""
    height: int

    @classmethod
    def of(cls, font: QFont) -> _Pen:
        metrics = QFontMetricsF(font)
        fixed = QFontInfo(font).fixedPitch()
        height = math.ceil(metrics.height())
        return cls(font, metrics, metrics.horizontalAdvance("0") if fixed else 0.0, height)

    def width(self, text: str) -> float:
        if self.letter and text.isascii():
            return self.letter * len(text)
        return self.metrics.horizontalAdvance(text)


class _Place(NamedTuple):
    """A column in view and where its text stands, pixels from the left."""

    column: Column
    left: int
    width: int
    inner_left: int
    inner_width: int


class RowPainter:
    """Draws rows as the style does those that are neither selected, current nor under the mouse.

    A view of thousands of cells asks ten roles of each while it scrolls; this asks each column
    once for its text. What it draws is the same to the pixel.
    """

    def __init__(self, view: RowTable, draw_line: DrawLine) -> None:
        self._view, self._draw_line = view, draw_line
        self._short: dict[tuple[str, int, bool], str] = {}
        self._lines: dict[tuple[str, bool], tuple[int, float]] = {}
        self._pens: dict[bool, _Pen] = {}
        self._fonts: tuple[QFont, ...] = ()

    def paint(self, region: QRegion, special: set[int]) -> QRegion:
        """Draw the rows that a region touches; returns where the style has to draw instead:
        the rows in `special`, and those with a text of several lines."""
        view, box, left_out = self._view, region.boundingRect(), QRegion()
        first, total = view.rowAt(box.top()), view.rows.rowCount()
        places = self._places(box)
        if first < 0 or not places:
            return left_out
        self._make_pens()
        high, across = view.rowHeight(first), view.viewport().width()
        top, position = view.rowViewportPosition(first), first
        painter = QPainter(view.viewport())
        while top <= box.bottom() and position < total:
            drawn = position not in special and self._row(painter, places, position, top, high)
            if not drawn:
                left_out += QRect(0, top, across, high)
            top, position = top + high, position + 1
        painter.end()
        return left_out & region

    def _make_pens(self) -> None:
        """Measure the fonts again when they are others."""
        plain = self._view.font()
        fonts = (plain, self._view.rows.number_font().resolve(plain))
        if fonts != self._fonts:
            self._fonts = fonts
            self._pens = {bool(numeric): _Pen.of(font) for numeric, font in enumerate(fonts)}
            self._short.clear()
            self._lines.clear()

    def _places(self, box: QRect) -> list[_Place]:
        view, style = self._view, self._view.style()
        margin = style.pixelMetric(QStyle.PixelMetric.PM_FocusFrameHMargin, None, view) + 1
        pad = appearance().px(10) + margin
        found: list[_Place] = []
        for number, column in enumerate(view.rows.columns):
            left, width = view.columnViewportPosition(number), view.columnWidth(number)
            if width and left <= box.right() and left + width > box.left():
                found.append(_Place(column, left, width, left + pad, width - 2 * pad))
        return found

    def _row(
        self, painter: QPainter, places: list[_Place], position: int, top: int, high: int
    ) -> bool:
        """Draw a row; False, with nothing drawn, if it has a text of several lines."""
        row, late = self._view.rows.row(position), LATE
        cells: list[tuple[_Place, str]] = []
        for place in places:
            column = place.column
            told = late if row is None else "" if column.tokens else column.show(row)
            if "\n" in told or "\u2028" in told:
                return False
            cells.append((place, told))
        colors = appearance().colors
        for place, text in cells:
            column = place.column
            if row is not None and column.tokens is not None:
                box = QRect(place.left, top, place.width, high)
                self._draw_line(painter, column.tokens(row), box, self._pens[False].font)
            elif text:
                role: Any = "" if row is None else column.role
                role = role if isinstance(role, str) else role(row)
                painter.setPen(QColor(colors.role(role) if role else colors.text))
                self._text(painter, self._pens[column.numeric], place, text, top, high)
        return True

    def _text(
        self, painter: QPainter, pen: _Pen, place: _Place, text: str, top: int, high: int
    ) -> None:
        width = pen.width(text)
        height, ascent = self._line(pen, text, place.column.numeric)
        if width > place.inner_width:
            text = self._shortened(pen, text, place.inner_width, place.column.numeric)
            width = pen.width(text)
        left = place.inner_left + (place.inner_width - width if place.column.numeric else 0.0)
        painter.setFont(pen.font)
        base = top + high // 2 - height // 2 + ascent
        painter.drawText(QPointF(left, base), text)

    def _line(self, pen: _Pen, text: str, numeric: bool) -> tuple[int, float]:
        """Height and ascent of a line: those of the font, or of taller ones that stand in for it
        where it lacks a character."""
        if text.isascii():
            return pen.height, pen.metrics.ascent()
        found = self._lines.get((text, numeric))
        if found is None:
            if len(self._lines) >= KEPT:
                self._lines.clear()
            layout = QTextLayout(text, pen.font)
            layout.beginLayout()
            line = layout.createLine()
            layout.endLayout()
            found = self._lines[text, numeric] = math.ceil(line.height()), line.ascent()
        return found

    def _shortened(self, pen: _Pen, text: str, width: int, numeric: bool) -> str:
        key = (text, width, numeric)
        found = self._short.get(key)
        if found is None:
            if len(self._short) >= KEPT:
                self._short.clear()
            found = pen.metrics.elidedText(text, Qt.TextElideMode.ElideRight, width)
            self._short[key] = found
        return found
