"""Frames and small displays: card, metric tile, empty state, label with a role."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QSize, Qt, Signal
from PySide6.QtGui import QKeyEvent, QMouseEvent
from PySide6.QtWidgets import (
    QBoxLayout,
    QFrame,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from mistudio.core.units import EM_DASH
from mistudio.gui import icons, style
from mistudio.gui.theme import appearance


def label(text: str, role: str = "", *, wrap: bool = False, selectable: bool = False) -> QLabel:
    """A plain-text label with a style role: title, section, card, label, muted, small, mono …"""
    made = QLabel(text)
    made.setTextFormat(Qt.TextFormat.PlainText)
    made.setWordWrap(wrap)
    if role:
        made.setProperty("role", role)
    if selectable:
        made.setTextInteractionFlags(
            Qt.TextInteractionFlag.TextSelectableByMouse
            | Qt.TextInteractionFlag.TextSelectableByKeyboard
        )
    return made


def button(
    text: str,
    clicked: Callable[..., object] | None = None,
    *,
    variant: str = "secondary",
    icon: str = "",
    tip: str = "",
) -> QPushButton:
    """A push button; variants primary, secondary, danger, warning, info (coloured text), toggle
    (checkable), ghost, link.

    `clicked` is a bound method of a QObject, so that the connection ends with it; a parameter of
    it, if any, receives the checked state.
    """
    made = QPushButton(text)
    made.setProperty("variant", variant)
    made.setCheckable(variant == "toggle")
    made.setAutoDefault(False)
    made.setToolTip(tip)
    if not text:
        made.setAccessibleName(tip)
    if icon:
        set_icon(made, icon)
    if clicked is not None:
        made.clicked.connect(clicked)
    return made


_ICON_ROLES = {"primary": "on_fill", "danger": "on_fill", "warning": "yellow", "info": "blue"}


def set_icon(target: QPushButton, name: str) -> None:
    """Give a button an icon that follows the theme and the font; text keeps a distance from it."""
    variant = target.property("variant")
    role = _ICON_ROLES.get(str(variant), "label")
    px = appearance().px
    size, gap = px(18), px(4) if target.text() else 0
    target.setProperty("iconName", name)
    target.setIconSize(QSize(size + gap, size))
    target.setIcon(icons.spaced_icon(name, role, size, gap))


class Card(QFrame):
    """A rounded frame; `kind` list (lists and forms), settings (settings, tiles), nested, info.

    Its `box` is a vertical layout (horizontal on request). With `clickable=True` it takes focus,
    and a click, Return or Space emits `clicked`.
    """

    clicked = Signal()

    def __init__(
        self,
        kind: str = "list",
        parent: QWidget | None = None,
        *,
        horizontal: bool = False,
        padding: float = 20,
        clickable: bool = False,
    ) -> None:
        super().__init__(parent)
        self.setProperty("kind", kind)
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        direction = QBoxLayout.Direction
        self.box = QBoxLayout(direction.LeftToRight if horizontal else direction.TopToBottom, self)
        pad = appearance().px(padding)
        self.box.setContentsMargins(pad, pad, pad, pad)
        self.box.setSpacing(appearance().px(12))
        self._clickable = clickable
        if clickable:
            self.setProperty("hoverable", True)
            self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
            self.setCursor(Qt.CursorShape.PointingHandCursor)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        inside = self.rect().contains(event.position().toPoint())
        if self._clickable and event.button() == Qt.MouseButton.LeftButton and inside:
            self.clicked.emit()
        super().mouseReleaseEvent(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if self._clickable and event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Space):
            self.clicked.emit()
        else:
            super().keyPressEvent(event)


class MetricTile(Card):
    """A named number in a role's colour; the unknown is an em-dash."""

    def __init__(
        self, name: str, value: str = EM_DASH, color: str = "text", parent: QWidget | None = None
    ) -> None:
        super().__init__("settings", parent, padding=12)
        self.box.setSpacing(appearance().px(4))
        self._name = label(name, "small")
        self._value = label(value, f"metric-{color}", selectable=True)
        self._detail = label("", "small")
        self._detail.hide()
        for part in (self._name, self._value, self._detail):
            self.box.addWidget(part)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def set_value(self, value: str, detail: str = "") -> None:
        """Show another value, and a small line below it if there is one."""
        self._value.setText(value)
        self._detail.setText(detail)
        self._detail.setVisible(bool(detail))

    def set_color(self, color: str) -> None:
        """Show the value in another role's colour."""
        style.set_property(self._value, "role", f"metric-{color}")

    def value(self) -> str:
        return self._value.text()

    def keep_narrow(self) -> None:
        """Let the small texts wrap and never widen the tile; heights follow the row."""
        for part in (self._name, self._detail):
            part.setWordWrap(True)
            part.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)


class EmptyState(QWidget):
    """What an empty list shows: an icon, a sentence and one action."""

    def __init__(
        self,
        icon: str,
        sentence: str,
        action: str = "",
        clicked: Callable[..., object] | None = None,
        parent: QWidget | None = None,
        *,
        tip: str = "",
    ) -> None:
        super().__init__(parent)
        box = QVBoxLayout(self)
        box.setContentsMargins(*(appearance().px(32),) * 4)
        box.setSpacing(appearance().px(16))
        self._icon_name = icon
        self._picture = QLabel()
        self._picture.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.sentence = label(sentence, "muted", wrap=True)
        self.sentence.setAlignment(Qt.AlignmentFlag.AlignCenter)
        # stretches, not an aligned layout: that one ignores how tall the wrapped sentence is
        box.addStretch(1)
        box.addWidget(self._picture)
        box.addWidget(self.sentence)
        self.button = button(action, clicked, variant="primary", tip=tip)
        box.addWidget(self.button, 0, Qt.AlignmentFlag.AlignHCenter)
        box.addStretch(1)
        self.button.setVisible(bool(action))
        appearance().changed.connect(self._draw)
        self._draw()

    def offer_tour(self, clicked: Callable[..., object]) -> None:
        """Put a way to the tab's tour below the action."""
        self.tour_button = button(
            "Take the tour", clicked, variant="link", tip="What this tab is for, in five sentences"
        )
        box = self.layout()
        assert isinstance(box, QVBoxLayout)
        box.insertWidget(box.count() - 1, self.tour_button, 0, Qt.AlignmentFlag.AlignHCenter)

    def _draw(self) -> None:
        look = appearance()
        self._picture.setPixmap(
            icons.pixmap(self._icon_name, look.colors.muted, look.px(48), self.devicePixelRatioF())
        )


class IconLabel(QLabel):
    """An icon in a role's colour that follows the theme."""

    def __init__(
        self, name: str, role: str = "label", size: float = 20, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._name, self._role, self._size = name, role, size
        appearance().changed.connect(self._draw)
        self._draw()

    def set(self, name: str, role: str) -> None:
        """Show another icon."""
        if (name, role) != (self._name, self._role):
            self._name, self._role = name, role
            self._draw()

    def _draw(self) -> None:
        look = appearance()
        side = look.px(self._size)
        self.setPixmap(
            icons.pixmap(self._name, look.colors.role(self._role), side, self.devicePixelRatioF())
        )
        self.setFixedSize(side, side)


def row(*widgets: QWidget | None, spacing: float = 8) -> QHBoxLayout:
    """A horizontal layout of widgets; None is a stretch."""
    box = QHBoxLayout()
    box.setContentsMargins(0, 0, 0, 0)
    box.setSpacing(appearance().px(spacing))
    for widget in widgets:
        if widget is None:
            box.addStretch(1)
        else:
            box.addWidget(widget)
    return box


def restyle_icons(root: QWidget) -> None:
    """Draw the icons of every button below `root` again, after the theme changed."""
    for found in root.findChildren(QPushButton):
        name = found.property("iconName")
        if name:
            set_icon(found, str(name))
