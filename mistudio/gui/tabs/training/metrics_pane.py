"""Live curves of one run: loss, L0, dead latents, explained variance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PySide6.QtCore import Qt, Slot
from PySide6.QtGui import QShowEvent
from PySide6.QtWidgets import QGridLayout, QVBoxLayout, QWidget

from mistudio.gui.tabs.training.series import SMOOTHING, MetricSeries, smoothed
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label, row
from mistudio.gui.widgets.layout import WheelGuard
from mistudio.gui.widgets.plots import CurvePlot


class Curve(NamedTuple):
    """A chart: its column, title, colour role and digits in the legend."""

    column: str
    title: str
    color: str
    digits: int


CURVES = (
    Curve("loss", "Loss", "emerald", 4),
    Curve("l0", "L0", "blue", 1),
    Curve("dead", "Dead latents (%)", "red", 2),
    Curve("explained_variance", "Explained variance", "purple", 4),
)


class MetricsPane(QWidget):
    """Draws a `MetricSeries`; rows that arrive while it is hidden are drawn when it is shown."""

    def __init__(self, latents: int, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._latents = max(1, latents)
        self.series = MetricSeries()
        self.plots: dict[str, CurvePlot] = {}
        self._stale = True
        self._grid = QGridLayout()
        self._grid.setSpacing(appearance().px(16))
        self.smooth_button = button(
            "Smooth",
            variant="toggle",
            tip=f"Moving average of {SMOOTHING} points over the raw line",
        )
        self.smooth_button.toggled.connect(self._make_plots)
        self.empty = label("No step has been measured yet.", "muted")
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addLayout(row(self.empty, None, self.smooth_button))
        box.addLayout(self._grid)
        self._make_plots()

    @Slot()
    def _make_plots(self) -> None:
        """New charts: a chart has a fixed set of curves."""
        for old in self.plots.values():
            self._grid.removeWidget(old)
            old.hide()
            old.deleteLater()
        self.plots = {}
        for place, curve in enumerate(CURVES):
            plot = CurvePlot(curve.title, "step", digits=curve.digits)
            if self.smooth_button.isChecked():
                plot.add_series("raw", "muted")
                plot.add_series("smoothed", curve.color)
            else:
                plot.add_series(curve.title, curve.color)
            plot.plot.setMinimumHeight(appearance().px(170))
            view = plot.plot.viewport()
            view.installEventFilter(WheelGuard(view))  # the page scrolls on over a chart
            self.plots[curve.column] = plot
            self._grid.addWidget(plot, place // 2, place % 2)
        self._draw_if_seen()

    def set_history(self, rows: Sequence[Mapping[str, Any]], after: int = -1) -> None:
        """Take stored rows behind step `after`; those that arrived meanwhile stay behind them."""
        self.series.insert(rows, after)
        self._draw_if_seen()

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append measured rows."""
        if self.series.add(rows):
            self._draw_if_seen()

    def values(self, column: str) -> np.ndarray:
        """What a chart shows: the column, dead latents in percent of all."""
        found = self.series.column(column)
        return 100.0 * found / self._latents if column == "dead" else found

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        if self._stale:
            self._draw()

    def _draw_if_seen(self) -> None:
        self._stale = True
        minimized = bool(self.window().windowState() & Qt.WindowState.WindowMinimized)
        if self.isVisible() and not minimized:
            self._draw()

    def _draw(self) -> None:
        self._stale = False
        self.empty.setVisible(len(self.series) == 0)
        steps = self.series.column("step")
        for curve in CURVES:
            plot, values = self.plots[curve.column], self.values(curve.column)
            if self.smooth_button.isChecked():
                plot.set_data("raw", steps, values)
                plot.set_data("smoothed", steps, smoothed(values))
            else:
                plot.set_data(curve.title, steps, values)
