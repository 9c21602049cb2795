"""Counts what is really repainted: by widget, how often and how many pixels."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from PySide6.QtCore import QEvent, QObject, QRect
from PySide6.QtGui import QPaintEvent
from PySide6.QtWidgets import QApplication, QWidget


@dataclass
class Painted:
    """One widget's repaints: times, and pixels of all of them together."""

    times: int = 0
    pixels: int = 0


class PaintCounter(QObject):
    """Sees every event of the application between `start` and `stop`.

    A repaint is one of the window, in which several widgets are painted. The filter costs some
    microseconds per event, so that waiting times are not measured beside it.
    """

    def __init__(self, window: QWidget) -> None:
        super().__init__(window)
        self._window = window
        self._began = 0.0
        self._updates = self._pixels = 0
        self._widgets: dict[str, Painted] = {}

    def start(self) -> None:
        """Begin a fresh count."""
        self._updates, self._pixels, self._widgets = 0, 0, {}
        self._began = time.monotonic()
        _app().installEventFilter(self)

    def stop(self) -> dict[str, Any]:
        """seconds, repaints_per_s, pixels_per_s, and `widgets`: name, times, pixels of each."""
        _app().removeEventFilter(self)
        seconds = time.monotonic() - self._began
        rows = [
            {"widget": name, "times": seen.times, "pixels": seen.pixels}
            for name, seen in sorted(self._widgets.items(), key=lambda item: -item[1].pixels)
        ]
        return {
            "seconds": round(seconds, 1),
            "repaints": self._updates,
            "repaints_per_s": round(self._updates / seconds, 2),
            "pixels_per_s": round(self._pixels / seconds),
            "widgets": rows,
        }

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        kind = event.type()
        if kind == QEvent.Type.Paint and isinstance(watched, QWidget):
            self._take(watched, event)
        return False

    def _take(self, widget: QWidget, event: QEvent) -> None:
        if isinstance(event, QPaintEvent):
            seen = self._widgets.setdefault(_name(widget), Painted())
            seen.times += 1
            pixels = sum(part.width() * part.height() for part in _parts(event))
            seen.pixels += pixels
            if widget is self._window:  # what lies in it is painted over the same place
                self._updates += 1
                self._pixels += pixels


def _app() -> QApplication:
    app = QApplication.instance()
    assert isinstance(app, QApplication)
    return app


def _parts(event: QPaintEvent) -> Iterable[QRect]:
    return event.region()  # type: ignore[return-value]  # its stubs do not tell that it iterates


# what stands for a part of the window: the first of these above a widget names it too
_PARTS = ("Header", "StatusBar", "JobsPanel", "TabPages", "BannerArea", "CurvePlot", "RunCard")


def _name(widget: QWidget) -> str:
    """The class of a widget and of the part of the window that it is in."""
    own = type(widget).__name__
    above = widget.parentWidget()
    while above is not None:
        if type(above).__name__ in _PARTS:
            return f"{type(above).__name__} › {own}"
        above = above.parentWidget()
    return own
