"""A vertical line that follows the mouse over a chart, for reading values off its curves."""

from __future__ import annotations

from typing import Any

import pyqtgraph as pg
from PySide6.QtCore import QEvent, QObject, Qt, Signal, Slot

from mistudio.gui.theme import appearance


class Crosshair(QObject):
    """`moved(x)` is the place under the mouse in the chart's own units, None when it left.

    `show_at` draws the line, so that several charts can follow one mouse.
    """

    moved = Signal(object)

    def __init__(self, plot: pg.PlotWidget) -> None:
        super().__init__(plot)
        self._plot = plot
        self._item: Any = plot.getPlotItem()
        self._line = pg.InfiniteLine(angle=90, movable=False)
        self._line.hide()
        self._item.addItem(self._line, ignoreBounds=True)
        scene: Any = plot.scene()
        scene.sigMouseMoved.connect(self._on_moved)
        plot.viewport().installEventFilter(self)
        appearance().changed.connect(self._recolor)
        self._recolor()

    def show_at(self, x: float | None) -> None:
        """Put the line at a place, or take it away."""
        self._line.setVisible(x is not None)
        if x is not None:
            self._line.setValue(x)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() == QEvent.Type.Leave:
            self.moved.emit(None)
        return False

    @Slot(object)
    def _on_moved(self, at: Any) -> None:
        view = self._item.getViewBox()
        inside = view.sceneBoundingRect().contains(at)
        self.moved.emit(float(view.mapSceneToView(at).x()) if inside else None)

    def _recolor(self) -> None:
        pen = pg.mkPen(appearance().colors.muted, width=1, style=Qt.PenStyle.DashLine)
        self._line.setPen(pen)
