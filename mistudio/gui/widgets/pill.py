"""The state of an object as icon, word and colour."""

from __future__ import annotations

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QColor, QFont, QFontMetrics, QPainter, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QWidget

from mistudio.gui import icons
from mistudio.gui.theme import appearance, mix

# state -> icon and colour role
STATES = {
    "queued": ("clock", "muted"),
    "sweep": ("table", "muted"),
    "downloading": ("download", "blue"),
    "importing": ("spinner", "yellow"),
    "ingesting": ("spinner", "yellow"),
    "tokenizing": ("spinner", "yellow"),
    "checking": ("spinner", "yellow"),
    "extracting": ("spinner", "yellow"),
    "finalizing": ("spinner", "yellow"),
    "stopping": ("spinner", "yellow"),
    "cancelling": ("spinner", "yellow"),
    "initializing": ("spinner", "blue"),
    "running": ("play", "emerald"),
    "training": ("play", "emerald"),
    "paused": ("pause", "yellow"),
    "ready": ("check_circle", "emerald"),
    "completed": ("check_circle", "emerald"),
    "loaded": ("check_circle", "emerald"),
    "stopped": ("stop", "blue"),
    "failed": ("x_circle", "red"),
    "error": ("x_circle", "red"),
    "incompatible": ("alert", "red"),
    "cancelled": ("minus_circle", "muted"),
    "interrupted": ("plug", "yellow"),
}


class Pill(QWidget):
    """A round label for a state of `STATES`; unknown states show their word in grey."""

    def __init__(
        self, state: str = "queued", word: str = "", parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._state = ""
        self._word = ""
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        appearance().changed.connect(self.updateGeometry)
        self.set_state(state, word)

    def state(self) -> str:
        return self._state

    def set_state(self, state: str, word: str = "") -> None:
        """Show another state; `word` replaces the state's own name."""
        shown = word or state.replace("_", " ").capitalize()
        if (state, shown) == (self._state, self._word):
            return
        self._state, self._word = state, shown
        self.setAccessibleName(shown)
        self.setToolTip(shown)
        self.updateGeometry()
        self.update()

    def _font(self) -> QFont:
        font = QFont(self.font())
        font.setPixelSize(appearance().px(14))
        return font

    def sizeHint(self) -> QSize:
        px = appearance().px
        text = QFontMetrics(self._font()).horizontalAdvance(self._word)
        return QSize(text + px(14) + px(6) + 2 * px(12), px(28))

    def minimumSizeHint(self) -> QSize:
        return self.sizeHint()

    def paintEvent(self, event: QPaintEvent) -> None:
        look = appearance()
        name, role = STATES.get(self._state, ("dot", "muted"))
        text = look.colors.role(role)
        fill = mix(text, look.colors.card_settings, 0.12)
        if role == "emerald":
            text, fill = look.colors.ready_text, look.colors.ready_fill
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(fill))
        round_by = self.height() / 2
        painter.drawRoundedRect(QRectF(self.rect()), round_by, round_by)
        side, pad = look.px(14), look.px(12)
        image = icons.pixmap(name, text, side, self.devicePixelRatioF())
        painter.drawPixmap(pad, (self.height() - side) // 2, image)
        painter.setPen(QColor(text))
        painter.setFont(self._font())
        area = self.rect().adjusted(pad + side + look.px(6), 0, 0, 0)
        painter.drawText(area, Qt.AlignmentFlag.AlignVCenter, self._word)
        painter.end()
