"""Puts a theme on the application: Fusion, the palette, the font, the style sheet."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtGui import QColor, QFont, QGuiApplication, QPalette
from PySide6.QtWidgets import QApplication, QStyleFactory, QWidget

from mistudio.gui.stylesheet import mono_family, stylesheet
from mistudio.gui.theme import DARK, LIGHT, Colors, appearance

_ROLE = QPalette.ColorRole
_OFF = QPalette.ColorGroup.Disabled


def palette(colors: Colors) -> QPalette:
    """The palette that Fusion draws with where the style sheet is silent."""
    made = QPalette()
    for role, color in (
        (_ROLE.Window, colors.page),
        (_ROLE.WindowText, colors.text),
        (_ROLE.Base, colors.input),
        (_ROLE.AlternateBase, colors.card_nested),
        (_ROLE.Text, colors.text),
        (_ROLE.Button, colors.card),
        (_ROLE.ButtonText, colors.text),
        (_ROLE.BrightText, colors.on_fill),
        (_ROLE.ToolTipBase, colors.card),
        (_ROLE.ToolTipText, colors.text),
        (_ROLE.PlaceholderText, colors.muted),
        (_ROLE.Highlight, colors.emerald_fill),
        (_ROLE.HighlightedText, colors.on_fill),
        (_ROLE.Link, colors.blue),
        (_ROLE.LinkVisited, colors.purple),
        (_ROLE.Light, colors.hover),
        (_ROLE.Midlight, colors.hover),
        (_ROLE.Mid, colors.border),
        (_ROLE.Dark, colors.border),
        (_ROLE.Shadow, colors.page),
        (_ROLE.Accent, colors.focus),
    ):
        made.setColor(role, QColor(color))
    for role in (_ROLE.WindowText, _ROLE.Text, _ROLE.ButtonText):
        made.setColor(_OFF, role, QColor(colors.disabled_text))
    made.setColor(_OFF, _ROLE.Highlight, QColor(colors.disabled_fill))
    return made


def mono_font(px: float = 14) -> QFont:
    """A fixed-width font; `px` at the 16-px body size."""
    font = QFont(mono_family())
    font.setStyleHint(QFont.StyleHint.Monospace)
    font.setPixelSize(appearance().px(px))
    return font


def apply(app: QApplication, theme: str, font_px: int) -> None:
    """Give the application a theme ("dark", "light", "system") at a body font size in pixels."""
    prepare(app, theme, font_px)
    complete(app)


def prepare(app: QApplication, theme: str, font_px: int) -> None:
    """All of `apply` but the style sheet, so that widgets can be made before `complete`.

    Under a style sheet every widget is styled anew each time that one above it gets a parent: a
    window that is made before takes half as long.
    """
    colors = resolve(theme)
    look = appearance()
    if app.style().name() != "fusion":
        app.setStyle(QStyleFactory.create("Fusion"))
    font = app.font()
    font.setPixelSize(font_px)
    app.setFont(font)
    app.setPalette(palette(colors))
    look.set(colors, font_px)


def complete(app: QApplication) -> None:
    """Put the style sheet of the theme in force on the application and its widgets."""
    app.setStyleSheet(stylesheet(appearance()))


def resolve(theme: str) -> Colors:
    """The palette a theme name stands for; "system" follows the desktop, dark if it is silent."""
    if theme == "light":
        return LIGHT
    if theme == "system":
        light = QGuiApplication.styleHints().colorScheme() == Qt.ColorScheme.Light
        return LIGHT if light else DARK
    return DARK


def set_property(widget: QWidget, name: str, value: object) -> None:
    """Set a style property of a widget that may already be shown, and restyle it."""
    if widget.property(name) == value:
        return
    widget.setProperty(name, value)
    widget.style().unpolish(widget)
    widget.style().polish(widget)
    widget.update()
