"""Tokens as chips that wrap: painted in one widget, so that long rows stay light."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt
from PySide6.QtGui import (
    QColor,
    QFont,
    QFontMetricsF,
    QGuiApplication,
    QHelpEvent,
    QKeyEvent,
    QKeySequence,
    QPainter,
    QPaintEvent,
    QResizeEvent,
)
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from mistudio.gui.style import mono_font
from mistudio.gui.theme import appearance, mix
from mistudio.gui.widgets.token_layout import MARKS

TINTS = ("blue", "purple", "emerald", "yellow")
TINT = 0.18  # of the ground of a chip
_WIDEST = 60  # characters shown of one chip


class ChipLike(Protocol):
    """A token, or several that share a character: of a stored row, or of a preview."""

    @property
    def text(self) -> str: ...
    @property
    def token_id(self) -> int: ...
    @property
    def special(self) -> bool: ...


class TokenChips(QWidget):
    """Chips in reading order; tooltips give ids, Ctrl+C copies the text."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._chips: tuple[ChipLike, ...] = ()
        self._widths: list[float] = []  # of the chips' boxes, measured once
        self._boxes: list[QRectF] = []
        self._heights: dict[int, int] = {}  # by width: a layout asks many times
        policy = QSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Minimum)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        appearance().changed.connect(self._measure)

    def set_chips(self, chips: Sequence[ChipLike]) -> None:
        """Show other tokens."""
        self._chips = tuple(chips)
        self.setAccessibleName("Tokens: " + self.text())
        self._measure()

    def text(self) -> str:
        """The original text of the row."""
        return "".join(chip.text for chip in self._chips)

    def _font(self) -> QFont:
        return mono_font(14)

    def _measure(self) -> None:
        metrics, pad = QFontMetricsF(self._font()), appearance().px(4)
        self._widths = [metrics.horizontalAdvance(shown(c)) + 2 * pad for c in self._chips]
        self._heights.clear()
        self._lay_out()
        self.updateGeometry()

    def _places(self, width: int) -> tuple[list[QRectF], int]:
        """The box of each chip when wrapped to a width, and the height that takes."""
        px, metrics = appearance().px, QFontMetricsF(self._font())
        tall, gap = metrics.height() + px(6), px(3)
        boxes: list[QRectF] = []
        left = top = 0.0
        for wanted in self._widths:
            wide = min(wanted, float(width))
            if left and left + wide > width:
                left, top = 0.0, top + tall + gap
            boxes.append(QRectF(left, top, wide, tall))
            left += wide + gap
        return boxes, round(top + tall) if boxes else round(tall)

    def _lay_out(self) -> None:
        width = max(self.width(), 80)
        self._boxes, self._heights[width] = self._places(width)
        self.update()

    def chip_at(self, place: QPointF) -> ChipLike | None:
        """The chip under a point."""
        for chip, box in zip(self._chips, self._boxes, strict=True):
            if box.contains(place):
                return chip
        return None

    def hasHeightForWidth(self) -> bool:
        return True

    def heightForWidth(self, width: int) -> int:
        width = max(width, 80)
        if width not in self._heights:
            self._heights[width] = self._places(width)[1]
        return self._heights[width]

    def sizeHint(self) -> QSize:
        return QSize(320, self.heightForWidth(max(self.width(), 320)))

    def minimumSizeHint(self) -> QSize:
        return QSize(80, self.fontMetrics().height())

    def resizeEvent(self, event: QResizeEvent) -> None:
        self._lay_out()
        super().resizeEvent(event)

    def paintEvent(self, event: QPaintEvent) -> None:
        colors = appearance().colors
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setFont(self._font())
        round_by = appearance().px(4)
        visible = QRectF(event.rect())
        for number, (chip, box) in enumerate(zip(self._chips, self._boxes, strict=True)):
            if not box.intersects(visible):
                continue
            tint = colors.role(TINTS[number % len(TINTS)])
            painter.setPen(Qt.PenStyle.NoPen)
            fill = colors.hover if chip.special else mix(tint, colors.card_settings, TINT)
            painter.setBrush(QColor(fill))
            painter.drawRoundedRect(box, round_by, round_by)
            painter.setPen(QColor(colors.label if chip.special else colors.text))
            painter.drawText(box, Qt.AlignmentFlag.AlignCenter, shown(chip))
        if self.hasFocus():
            painter.setPen(QColor(colors.focus))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRect(self.rect().adjusted(0, 0, -1, -1))
        painter.end()

    def event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            chip = self.chip_at(QPointF(event.pos()))
            QToolTip.showText(event.globalPos(), "" if chip is None else described(chip), self)
            return True
        return super().event(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.matches(QKeySequence.StandardKey.Copy):
            QGuiApplication.clipboard().setText(self.text())
        else:
            super().keyPressEvent(event)


def shown(chip: ChipLike) -> str:
    """The chip's text with visible line ends and spaces; a special token shows its id."""
    if chip.special or not chip.text:
        return f"#{chip.token_id}"
    text = chip.text[:_WIDEST].translate(MARKS)
    stripped = text.lstrip(" ")
    return "·" * (len(text) - len(stripped)) + stripped


def described(chip: ChipLike) -> str:
    """The tooltip: id, and what kind of token it is."""
    kind = "special token" if chip.special else "token"
    return f"{kind} {chip.token_id:,}" + (f"  “{chip.text}”" if chip.text else "")
