"""Intervals around the points of a curve, drawn as upright lines."""

from __future__ import annotations

import numpy as np
import pyqtgraph as pg

from mistudio.core.held_out_looks import bracket
from mistudio.gui.theme import appearance, mix


class Bounds:
    """The ends of an interval for each point of a curve, NaN where one has none."""

    def __init__(self, plot: pg.PlotWidget, *, log_y: bool) -> None:
        self._plot = plot
        self.lows, self.highs = np.empty(0), np.empty(0)
        self._lines = plot.plot([], [], connect="finite")
        self._lines.setLogMode(False, log_y)
        self._lines.setZValue(-1)  # below the points

    def set(self, xs: np.ndarray, lows: np.ndarray, highs: np.ndarray) -> None:
        """Show the intervals at these x; empty arrays show none."""
        self.lows, self.highs = lows, highs
        # NaN behind each pair of ends, where the line breaks
        ends = np.stack((lows, highs, np.full(len(lows), np.nan)), axis=1)
        self._lines.setData(np.repeat(xs, 3), ends.ravel())

    def drawn(self) -> tuple[np.ndarray, np.ndarray]:
        """x and y of the lines as drawn."""
        xs, ys = self._lines.getOriginalDataset()
        return (np.empty(0), np.empty(0)) if xs is None or ys is None else (xs, ys)

    def clear(self) -> None:
        """Show none."""
        if len(self.lows):
            self.set(*[np.empty(0)] * 3)

    def text(self, place: int, digits: int) -> str:
        """The interval of a point in brackets; nothing without one."""
        if place >= len(self.lows) or not np.isfinite(self.lows[place] + self.highs[place]):
            return ""
        return bracket((float(self.lows[place]), float(self.highs[place])), digits)

    def paint(self, color: str) -> None:
        """Draw in a colour's fainter shade."""
        self._lines.setPen(pg.mkPen(mix(color, appearance().colors.card_settings, 0.5), width=1))

    def remove(self) -> None:
        """Take the lines off the chart."""
        self._plot.removeItem(self._lines)
