"""The 8-pixel progress bar, in a role's colours, with its percent beside it; and the toggle."""

from __future__ import annotations

from PySide6.QtCore import Property, QEasingCurve, QPropertyAnimation, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QLinearGradient, QPainter, QPaintEvent
from PySide6.QtWidgets import QAbstractButton, QSizePolicy, QWidget

from mistudio.core.units import EM_DASH
from mistudio.gui.theme import appearance


class ProgressBar(QWidget):
    """Progress 0–100 or unknown (None); `color` is emerald, blue, purple, yellow or red."""

    def __init__(
        self, color: str = "emerald", parent: QWidget | None = None, *, percent: bool = True
    ) -> None:
        super().__init__(parent)
        self._color = color
        self._percent = percent
        self._value: float | None = None
        self._shown = 0.0
        self._animation = QPropertyAnimation(self, b"shown", self)
        self._animation.setDuration(500)
        self._animation.setEasingCurve(QEasingCurve.Type.OutCubic)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def value(self) -> float | None:
        return self._value

    def text(self) -> str:
        """The percent as shown, one decimal."""
        return EM_DASH if self._value is None else f"{self._value:.1f} %"

    def set_value(self, value: float | None) -> None:
        """Show another percentage; moves there in half a second unless the display is remote."""
        if value == self._value:
            return
        self._value = None if value is None else min(100.0, max(0.0, value))
        self.setAccessibleName(f"Progress {self.text()}")
        target = self._value or 0.0
        self._animation.stop()
        if appearance().remote or not self.isVisible():
            self._set_shown(target)
        else:
            self._animation.setStartValue(self._shown)
            self._animation.setEndValue(target)
            self._animation.start()

    def set_color(self, color: str) -> None:
        """Paint in another role's colours."""
        if color != self._color:
            self._color = color
            self.update()

    def _get_shown(self) -> float:
        return self._shown

    def _set_shown(self, value: float) -> None:
        self._shown = value
        self.update()

    shown = Property(float, _get_shown, _set_shown)

    def sizeHint(self) -> QSize:
        return QSize(160, max(self.fontMetrics().height(), appearance().px(8)))

    def minimumSizeHint(self) -> QSize:
        return QSize(80, self.sizeHint().height())

    def paintEvent(self, event: QPaintEvent) -> None:
        look = appearance()
        colors, thick = look.colors, look.px(8)
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        right = 0
        if self._percent:
            right = self.fontMetrics().horizontalAdvance("100.0 %") + look.px(8)
            painter.setPen(QColor(colors.label))
            flags = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
            painter.drawText(self.rect(), flags, self.text())
        bar = QRectF(0, (self.height() - thick) / 2, self.width() - right, thick)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(colors.track))
        painter.drawRoundedRect(bar, thick / 2, thick / 2)
        if self._shown > 0:
            fill = QLinearGradient(bar.topLeft(), bar.topRight())
            fill.setColorAt(0, QColor(colors.fill(self._color)))
            fill.setColorAt(1, QColor(colors.role(self._color)))
            bar.setWidth(max(thick, bar.width() * self._shown / 100))
            painter.setBrush(fill)
            painter.drawRoundedRect(bar, thick / 2, thick / 2)
        painter.end()


class Toggle(QAbstractButton):
    """An on/off switch; keyboard: Space."""

    def __init__(self, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setCheckable(True)
        self.setAccessibleName(name)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAttribute(Qt.WidgetAttribute.WA_Hover)
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)

    def sizeHint(self) -> QSize:
        px = appearance().px
        return QSize(px(48) + 6, px(24) + 6)

    def paintEvent(self, event: QPaintEvent) -> None:
        look = appearance()
        colors = look.colors
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        body = QRectF(3, 3, look.px(48), look.px(24))
        fill = colors.emerald_fill if self.isChecked() else colors.toggle_off
        if not self.isEnabled():
            fill = colors.disabled_fill
        elif self.underMouse() and self.isChecked():
            fill = colors.primary_hover
        if self.hasFocus():
            painter.setPen(QColor(colors.focus))
            outer = body.adjusted(-2, -2, 2, 2)
            painter.drawRoundedRect(outer, outer.height() / 2, outer.height() / 2)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(fill))
        painter.drawRoundedRect(body, body.height() / 2, body.height() / 2)
        knob = look.px(16)
        gap = (body.height() - knob) / 2
        left = body.right() - gap - knob if self.isChecked() else body.left() + gap
        painter.setBrush(QColor(colors.on_fill if self.isEnabled() else colors.disabled_text))
        painter.drawEllipse(QRectF(left, body.top() + gap, knob, knob))
        painter.end()
