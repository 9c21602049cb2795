"""Icons drawn from our own SVG files in the colour that the text beside them has."""

from __future__ import annotations

from functools import lru_cache

from PySide6.QtCore import QByteArray, QRectF, Qt
from PySide6.QtGui import QGuiApplication, QIcon, QPainter, QPixmap
from PySide6.QtSvg import QSvgRenderer

from mistudio.core.paths import resources
from mistudio.gui.theme import appearance


@lru_cache(maxsize=128)
def _source(name: str) -> str:
    return (resources() / "icons" / f"{name}.svg").read_text(encoding="utf-8")


@lru_cache(maxsize=512)
def pixmap(name: str, color: str, size: int, ratio: float = 1.0) -> QPixmap:
    """The icon `name` in `color`, `size` logical pixels square.

    Raises FileNotFoundError for an unknown name.
    """
    side = max(1, round(size * ratio))
    image = QPixmap(side, side)
    image.fill(Qt.GlobalColor.transparent)
    renderer = QSvgRenderer(QByteArray(_source(name).replace("currentColor", color).encode()))
    painter = QPainter(image)
    renderer.render(painter, QRectF(0, 0, side, side))
    painter.end()
    image.setDevicePixelRatio(ratio)
    return image


def _ratio() -> float:
    app = QGuiApplication.instance()
    return app.devicePixelRatio() if isinstance(app, QGuiApplication) else 1.0


@lru_cache(maxsize=512)
def _icon(name: str, color: str, disabled: str) -> QIcon:
    found = QIcon()
    for size in (16, 24):
        found.addPixmap(pixmap(name, color, size, _ratio()))
        found.addPixmap(pixmap(name, disabled, size, _ratio()), QIcon.Mode.Disabled)
    return found


@lru_cache(maxsize=512)
def _spaced(name: str, color: str, disabled: str, size: int, gap: int) -> QIcon:
    found = QIcon()
    for shade, mode in ((color, QIcon.Mode.Normal), (disabled, QIcon.Mode.Disabled)):
        drawn = pixmap(name, shade, size, _ratio())
        wider = QPixmap(drawn.width() + round(gap * _ratio()), drawn.height())
        wider.setDevicePixelRatio(_ratio())
        wider.fill(Qt.GlobalColor.transparent)
        painter = QPainter(wider)
        painter.drawPixmap(0, 0, drawn)
        painter.end()
        found.addPixmap(wider, mode)
    return found


def icon(name: str, role: str = "label") -> QIcon:
    """The icon `name` in the colour of a role of the palette in force."""
    colors = appearance().colors
    return _icon(name, colors.role(role), colors.disabled_text)


def spaced_icon(name: str, role: str, size: int, gap: int) -> QIcon:
    """As `icon`, `size` px square and with `gap` px of nothing before the text that follows."""
    colors = appearance().colors
    return _spaced(name, colors.role(role), colors.disabled_text, size, gap)


def program_icon() -> QIcon:
    """The program's own icon in all its sizes, as the desktop's menu shows it."""
    found = QIcon()
    for file in sorted((resources() / "desktop" / "icons").rglob("mistudio.png")):
        found.addFile(str(file))
    return found


def clear_cache() -> None:
    """Drop every drawn pixmap; called before the application object goes."""
    pixmap.cache_clear()
    _icon.cache_clear()
    _spaced.cache_clear()
