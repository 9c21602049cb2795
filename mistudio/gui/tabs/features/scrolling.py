"""A column of widgets that scrolls vertically, without a frame."""

from __future__ import annotations

from typing import NamedTuple

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFrame, QScrollArea, QVBoxLayout, QWidget

from mistudio.gui.theme import appearance


class Scrolling(NamedTuple):
    """The scroll area and the layout inside, which ends in a stretch."""

    area: QScrollArea
    box: QVBoxLayout


def scrolling(*widgets: QWidget, spacing: float = 8, parent: QWidget | None = None) -> Scrolling:
    """Put widgets below each other into a scroll area."""
    px = appearance().px
    area = QScrollArea(parent)
    inner = QWidget(area.viewport())
    inner.setObjectName("column")
    box = QVBoxLayout(inner)
    box.setContentsMargins(0, 0, px(8), 0)
    box.setSpacing(px(spacing))
    for widget in widgets:
        box.addWidget(widget)
    box.addStretch(1)
    area.setWidgetResizable(True)
    area.setFrameShape(QFrame.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setWidget(inner)
    return Scrolling(area, box)
