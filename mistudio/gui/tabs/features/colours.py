"""The colours that features are marked with: how they look, and the menu that chooses one.

A colour is always named beside its dot, so that nobody has to tell hues apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PySide6.QtCore import Signal
from PySide6.QtGui import QColor, QIcon, QPainter, QPixmap
from PySide6.QtWidgets import QMenu, QPushButton, QWidget

from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import set_icon
from mistudio.store.feature_conditions import COLOURS

_ROLES = {"green": "emerald"}  # the others are called as the theme calls them


def role_of(colour: str | None) -> str:
    """The theme's role of a colour; "" without one."""
    return _ROLES.get(colour, colour) if colour else ""


def colour_dot(colour: str | None) -> str:
    """A dot before a text that is drawn in the colour."""
    return "● " if colour else ""


def colour_icon(colour: str) -> QIcon:
    """A filled circle."""
    look = appearance()
    side = look.px(14)
    picture = QPixmap(side, side)
    picture.fill(QColor(0, 0, 0, 0))
    painter = QPainter(picture)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setBrush(QColor(look.colors.role(role_of(colour))))
    painter.setPen(QColor(look.colors.border))
    painter.drawEllipse(1, 1, side - 3, side - 3)
    painter.end()
    return QIcon(picture)


def fill_colours(menu: QMenu, chosen: str | None, slot: Callable[[], None]) -> None:
    """Offer every colour and none; an action's data is the colour, "" for none."""
    menu.clear()
    for colour in (*COLOURS, ""):
        action = menu.addAction(colour.capitalize() or "No colour")
        if colour:
            action.setIcon(colour_icon(colour))
        action.setCheckable(True)
        action.setChecked((chosen or "") == colour)
        action.setData(colour)
        action.triggered.connect(slot)


class ColourButton(QPushButton):
    """Shows the colour of a feature; its menu sets another: `painted(colour)`, "" for none."""

    painted = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("Colour", parent)
        self._colour: str | None = None
        self.setProperty("variant", "secondary")
        self.setAutoDefault(False)
        self.setToolTip("Mark the feature with a colour; the table filters by it")
        self.colour_menu = QMenu(self)
        self.colour_menu.aboutToShow.connect(self._fill)
        self.setMenu(self.colour_menu)
        appearance().changed.connect(self._draw)
        self._draw()

    def show_colour(self, colour: str | None) -> None:
        """Show what the feature is marked with."""
        self._colour = colour
        self.setText(colour.capitalize() if colour else "Colour")
        self._draw()

    def _draw(self) -> None:
        if self._colour:
            self.setProperty("iconName", "")
            self.setIcon(colour_icon(self._colour))
        else:
            set_icon(self, "dot")

    def _fill(self) -> None:
        fill_colours(self.colour_menu, self._colour, self._on_chosen)

    def _on_chosen(self) -> None:
        action: Any = self.sender()
        self.painted.emit(action.data())
