"""The slider of a strength, with its ends named and red where over-steering is expected."""

from __future__ import annotations

from PySide6.QtCore import QRect, QSize, Qt
from PySide6.QtGui import QColor, QPainter, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QSlider, QVBoxLayout, QWidget

from mistudio.core.steering_scales import STEPS
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.layout import guard_wheel


class _Scale(QWidget):
    """A line below the slider: grey, red behind `red` steps; and three words under it."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.red: int | None = None
        self.words: tuple[str, str, str] = ("", "", "")
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def sizeHint(self) -> QSize:
        return QSize(120, appearance().px(20))

    def paintEvent(self, event: QPaintEvent) -> None:
        look = appearance()
        painter = QPainter(self)
        inset = look.px(8)  # the groove ends where the middle of the handle does
        wide, thick = self.width() - 2 * inset, look.px(3)
        painter.fillRect(inset, 0, wide, thick, QColor(look.colors.track))
        if self.red is not None and self.red <= STEPS:
            side = round(wide * (STEPS - self.red) / (2 * STEPS))
            red = QColor(look.colors.red_fill)
            painter.fillRect(inset, 0, side, thick, red)
            painter.fillRect(inset + wide - side, 0, side, thick, red)
        font = painter.font()
        font.setPixelSize(look.px(11))
        painter.setFont(font)
        painter.setPen(QColor(look.colors.muted))
        area = QRect(inset, thick, wide, self.height() - thick)
        flags = Qt.AlignmentFlag
        for word, side_ in zip(
            self.words, (flags.AlignLeft, flags.AlignHCenter, flags.AlignRight), strict=True
        ):
            painter.drawText(area, side_ | flags.AlignVCenter, word)
        painter.end()


class StrengthSlider(QWidget):
    """A slider of −50…50 steps over its scale."""

    def __init__(self, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(-STEPS, STEPS)
        self.slider.setPageStep(10)
        self.slider.setAccessibleName(name)
        self.slider.setMinimumWidth(appearance().px(96))
        guard_wheel(self.slider)
        self.scale = _Scale()
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(0)
        box.addWidget(self.slider)
        box.addWidget(self.scale)

    def describe(self, words: tuple[str, str, str], red: int | None, tip: str) -> None:
        """Name the ends and the middle, and say from which step on it is red."""
        self.scale.words, self.scale.red = words, red
        warned = "" if red is None else "\nRed: the push is expected to pass half of |x|."
        self.slider.setToolTip(tip + warned)
        self.scale.setToolTip(tip + warned)
        self.scale.update()

    def show_steps(self, steps: float) -> None:
        """Move the handle without telling."""
        self.slider.blockSignals(True)
        self.slider.setValue(round(max(-STEPS, min(STEPS, steps))))
        self.slider.blockSignals(False)
