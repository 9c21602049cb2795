"""Each measure as a line: a dot for every random feature, a mark for the run and its baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from PySide6.QtCore import QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPen, QPolygonF
from PySide6.QtWidgets import QSizePolicy, QWidget

from mistudio.core.steering_controls import MEASURES, number
from mistudio.gui.theme import appearance

LINE = 34  # px of a measure, at a 16-px font
NAME = 220  # px that its name takes
_MARKS = (("baseline", "unsteered"), ("means", "difference of means"), ("prompted", "prompt only"))


class _Line(NamedTuple):
    name: str
    random: tuple[float, ...]
    steered: float
    marks: dict[str, float]
    selective: bool


class ControlStrip(QWidget):
    """Dots of the controls, a diamond for the run (green if selective), ticks for the baselines."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.lines: list[_Line] = []
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setAccessibleName("Where the run stands among random features")

    def sizeHint(self) -> QSize:
        return QSize(320, appearance().px(LINE) * len(self.lines) + appearance().px(22))

    def show_measures(self, measures: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Draw these measures; those without a value of the run are left out."""
        self.lines = [
            _Line(
                MEASURES[name],
                tuple(m["random"]),
                float(m["steered"]),
                {key: float(m[key]) for key, _ in _MARKS if m[key] is not None},
                bool(m["selective"]),
            )
            for name, m in measures
            if m["steered"] is not None and m["random"]
        ]
        told = [
            f"{line.name}: {number(line.steered)}, random features {number(min(line.random))} to "
            f"{number(max(line.random))}"
            for line in self.lines
        ]
        self.setToolTip("\n".join(told))
        self.setAccessibleDescription(". ".join(told))
        self.updateGeometry()
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        look = appearance()
        colors = look.colors
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        font = painter.font()
        font.setPixelSize(look.px(13))
        painter.setFont(font)
        high, left = look.px(LINE), look.px(NAME)
        for place, line in enumerate(self.lines):
            middle = place * high + high / 2
            painter.setPen(QColor(colors.text))
            area = QRectF(0, place * high, left - look.px(8), high)
            flags = Qt.AlignmentFlag
            painter.drawText(area, flags.AlignLeft | flags.AlignVCenter, line.name)
            self._draw(painter, line, left, middle)
        self._legend(painter, left, len(self.lines) * high)
        painter.end()

    def _draw(self, painter: QPainter, line: _Line, left: int, middle: float) -> None:
        look = appearance()
        colors = look.colors
        inset = look.px(10)
        values = [*line.random, line.steered, *line.marks.values()]
        low, span = min(values), (max(values) - min(values)) or 1.0
        wide = self.width() - left - 2 * inset

        def x(value: float) -> float:
            return left + inset + wide * (value - low) / span

        painter.setPen(QPen(QColor(colors.track), 1))
        painter.drawLine(QPointF(left, middle), QPointF(self.width(), middle))
        dot = QColor(colors.muted)
        dot.setAlpha(150)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(dot)
        for value in line.random:
            painter.drawEllipse(QPointF(x(value), middle), look.px(3), look.px(3))
        for key, value in line.marks.items():
            painter.setPen(QPen(QColor(_color(key)), 2))
            painter.drawLine(
                QPointF(x(value), middle - look.px(9)), QPointF(x(value), middle + look.px(9))
            )
        painter.setPen(QPen(QColor(colors.card_settings), 1))
        painter.setBrush(QColor(colors.emerald if line.selective else colors.yellow))
        painter.drawPolygon(_diamond(x(line.steered), middle, look.px(7)))

    def _legend(self, painter: QPainter, left: int, top: float) -> None:
        look = appearance()
        font = painter.font()
        font.setPixelSize(look.px(11))
        painter.setFont(font)
        at = float(left)
        parts = [("◆ steered", look.colors.text), ("● random features", look.colors.muted)]
        parts += [(f"| {words}", _color(key)) for key, words in _MARKS]
        for words, color in parts:
            painter.setPen(QColor(color))
            painter.drawText(QPointF(at, top + look.px(15)), words)
            at += painter.fontMetrics().horizontalAdvance(words) + look.px(14)


def _color(key: str) -> str:
    colors = appearance().colors
    return {"baseline": colors.blue, "means": colors.purple, "prompted": colors.red}[key]


def _diamond(x: float, y: float, size: float) -> QPolygonF:
    return QPolygonF(
        [QPointF(x, y - size), QPointF(x + size, y), QPointF(x, y + size), QPointF(x - size, y)]
    )
