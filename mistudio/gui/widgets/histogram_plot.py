"""A histogram in the palette in force, with its numbers as a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import Qt
from PySide6.QtGui import QColor
from PySide6.QtWidgets import QWidget

from mistudio.core.units import EM_DASH, format_short
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.chart import Chart

_WRITTEN_BARS = 24  # a histogram of more bars has no room for its counts


class HistogramPlot(Chart):
    """Counts per bin as bars."""

    def __init__(
        self,
        title: str,
        x_label: str = "value",
        parent: QWidget | None = None,
        *,
        color: str = "emerald",
        write_counts: bool = True,
        below_zero: str = "",
    ) -> None:
        """`write_counts`: where there are few bars, each has its count on top; `below_zero`: the
        colour of bars whose middle is negative."""
        super().__init__(title, x_label, parent)
        self._color, self._below_zero = color, below_zero
        self._edges = np.empty(0)
        self._counts = np.empty(0)
        self._bars: pg.BarGraphItem | None = None
        self._written: list[pg.TextItem] = []  # the counts, where there are few bars
        self._writes, self._named = write_counts, "count"
        self._marker: tuple[float, str, str] | None = None
        self._line: pg.InfiniteLine | None = None
        self._recolor()

    def set_counts(
        self, edges: Sequence[float] | np.ndarray, counts: Sequence[float] | np.ndarray
    ) -> None:
        """Show `n` counts between `n + 1` rising edges."""
        self._edges = np.asarray(edges, dtype=np.float64)
        self._counts = np.asarray(counts, dtype=np.float64)
        if len(self._edges) != len(self._counts) + 1 and len(self._counts):
            raise ValueError("a histogram needs one edge more than counts")
        self._tell()
        self._draw()
        if self._is_table():
            self._fill_table()

    def set_values(self, edges: Sequence[float], values: Sequence[float]) -> None:
        """Show a value per bin that is no count, so that their sum means nothing."""
        self._named = "value"
        self.set_counts(edges, values)

    def set_marker(self, value: float | None, name: str = "", tip: str = "") -> None:
        """A dashed line at a value, named beside the title and told in its tooltip; None: none."""
        self._marker = None if value is None else (value, name, tip)
        self.plot.setToolTip("" if value is None else tip)
        self._tell()
        self._draw()

    def marker(self) -> float | None:
        """Where the marker stands, if there is one."""
        return None if self._marker is None else self._marker[0]

    def _tell(self) -> None:
        """Beside the title: how many were counted, and what the marker is."""
        parts: list[str] = []
        if self._named == "count":
            total = f"{self._counts.sum():,.0f}" if len(self._counts) else EM_DASH
            parts.append(f"n = {total}")
        if self._marker is not None:
            text = self._marker[1].replace("&", "&amp;").replace("<", "&lt;")
            parts.append(f'<span style="color:{appearance().colors.yellow}">┆ {text}</span>')
        self._legend.setText(" · ".join(parts))

    def _draw(self) -> None:
        if self._bars is not None:
            self.plot.removeItem(self._bars)
            self._bars = None
        for text in self._written:
            self.plot.removeItem(text)
        self._written = []
        self._draw_marker()
        if len(self._counts):
            colors = appearance().colors
            fill = QColor(colors.fill(self._color))
            below = QColor(colors.fill(self._below_zero or self._color))
            middles = (self._edges[:-1] + self._edges[1:]) / 2
            self._bars = pg.BarGraphItem(
                x0=self._edges[:-1],
                x1=self._edges[1:],
                height=self._counts,
                brushes=[below if middle < 0 else fill for middle in middles],
                pen=pg.mkPen(colors.card_settings, width=1),
            )
            self.plot.addItem(self._bars)
        if self._writes and 0 < len(self._counts) <= _WRITTEN_BARS:
            self._write_counts()
            # room for the highest bar's count
            self._plot_item.getViewBox().setYRange(
                0, 1.25 * max(1.0, float(self._counts.max())), padding=0
            )

    def _draw_marker(self) -> None:
        if self._line is not None:
            self.plot.removeItem(self._line)
            self._line = None
        if self._marker is not None:
            colors = appearance().colors
            pen = pg.mkPen(colors.yellow, width=1, style=Qt.PenStyle.DashLine)
            self._line = pg.InfiniteLine(self._marker[0], angle=90, pen=pen)
            self._line.setZValue(10)
            self._line.setToolTip(self._marker[2])
            self.plot.addItem(self._line)

    def _write_counts(self) -> None:
        """Put each count on top of its bar."""
        for low, high, count in zip(self._edges, self._edges[1:], self._counts, strict=False):
            if count:
                text = pg.TextItem(
                    format_short(count), color=appearance().colors.label, anchor=(0.5, 1.0)
                )
                text.setPos((low + high) / 2, count)
                self._plot_item.addItem(text, ignoreBounds=True)
                self._written.append(text)

    def _fill_table(self) -> None:
        if len(self._counts):
            columns = [self._edges[:-1], self._edges[1:], self._counts]
            self._model.set_columns(["from", "to", self._named], columns)

    def _recolor(self) -> None:
        super()._recolor()
        self._tell()
        self._draw()
