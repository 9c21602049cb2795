"""Live curves of one run, with axes, smoothing, zoom, a crosshair and export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PySide6.QtCore import Qt, QTimer, Slot
from PySide6.QtGui import QShowEvent
from PySide6.QtWidgets import QGridLayout, QVBoxLayout, QWidget

from mistudio.gui.tabs.training.chart_tools import ChartTools
from mistudio.gui.tabs.training.curves import (
    AXES,
    CURVES,
    FIRST_SHOWN,
    Curve,
    bounds_of,
    has_time,
    points_of,
    values_of,
    what_bounds,
)
from mistudio.gui.tabs.training.series import (
    MANY_DEAD,
    Columns,
    MetricSeries,
    is_rising,
    smoothed,
)
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label, row
from mistudio.gui.widgets.flow import FlowRow
from mistudio.gui.widgets.layout import WheelGuard
from mistudio.gui.widgets.plots import CurvePlot

APART_MS = 20  # between two charts, so that the last one is painted in a turn of its own
LONG = 20_000  # rows, from which on a turn of the event loop draws one chart only


class MetricsPane(QWidget):
    """Draws a `MetricSeries`; rows that arrive while it is hidden are drawn when it is shown."""

    def __init__(
        self, latents: int, shown: Sequence[str] = FIRST_SHOWN, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._latents = max(1, latents)
        self.series = MetricSeries()
        self.plots: dict[str, CurvePlot] = {}
        self._stale = True
        self._is_rising = False
        self._waiting: list[Curve] = []  # charts that are yet to be drawn
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(APART_MS)
        self._soon.timeout.connect(self._draw_next)
        self.charts = QWidget()
        self._grid = QGridLayout(self.charts)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setSpacing(appearance().px(16))
        self.toggles = {curve.column: self._toggle(curve, shown) for curve in CURVES}
        self.tools = ChartTools()
        self.tools.changed.connect(self._on_tools)
        self.tools.zoomed.connect(self.zoom)
        self.tools.reset.connect(self.reset_view)
        self.smooth_button = self.tools.smooth_button
        self.empty = label("No step has been measured yet.", "muted")
        self.rising = label("The loss is rising.", "text-yellow")
        self.rising.setToolTip(
            "The mean of the last 20 rows exceeds that of the 20 before by 3 standard errors"
        )
        self.dead = label("More than 5 % of the latents are dead.", "text-red")
        self._build()
        self._arrange()

    def _toggle(self, curve: Curve, shown: Sequence[str]) -> Any:
        made = button(curve.toggle, variant="toggle", tip=f"Show {curve.title}")
        made.setChecked(curve.column in shown)
        made.clicked.connect(self._arrange)
        return made

    def _build(self) -> None:
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        chosen = QWidget()
        chosen.setLayout(FlowRow(*self.toggles.values()))
        box.addWidget(chosen)
        box.addWidget(self.tools)
        box.addLayout(row(self.empty, self.rising, self.dead, None))
        box.addWidget(self.charts)
        self.rising.hide()
        self.dead.hide()

    def shown_charts(self) -> list[str]:
        """The columns whose charts are shown, in order."""
        return [name for name, toggle in self.toggles.items() if toggle.isChecked()]

    @Slot()
    def _arrange(self) -> None:
        """Show the chosen charts, two beside each other."""
        for plot in self.plots.values():
            self._grid.removeWidget(plot)
            plot.hide()
        # the places have their size before their charts come, so that none is painted twice
        self._grid.setColumnStretch(0, 1)
        self._grid.setColumnStretch(1, int(len(self.shown_charts()) > 1))
        self._on_arranged()
        self._draw_if_seen()

    def _place(self, column: str) -> CurvePlot:
        """The chart of a column in its place."""
        plot, place = self.plots[column], self.shown_charts().index(column)
        if self._grid.indexOf(plot) < 0:
            self._grid.addWidget(plot, place // 2, place % 2)
            plot.show()
        return plot

    def _on_arranged(self) -> None:
        """The choice of charts has changed."""

    def _make(self, curve: Curve) -> CurvePlot:
        plot = CurvePlot(curve.title, AXES[self.tools.axis()], self.charts, digits=curve.digits)
        self._set_curves(plot, curve)
        plot.plot.setMinimumHeight(appearance().px(170))
        plot.plot.setToolTip("Drag to pan, drag with the right button to zoom")
        view = plot.plot.viewport()
        view.installEventFilter(WheelGuard(view))  # the page scrolls on over a chart
        plot.hovered.connect(self._on_hovered)
        plot.view.sigRangeChangedManually.connect(lambda *_: self._follow(plot))
        return plot

    def _set_curves(self, plot: CurvePlot, curve: Curve) -> None:
        for name in list(plot.names()):
            plot.remove_series(name)
        if self._smooths(curve):
            plot.add_series("raw", curve.color, faint=True)
            plot.add_series("smoothed", curve.color)
        else:
            plot.add_series(curve.title, curve.color, points=curve.is_held_out)

    def _smooths(self, curve: Curve) -> bool:
        """Whether a curve is drawn smoothed; of a few points there is nothing to smooth."""
        return self.tools.smooths() and not curve.is_held_out

    @Slot()
    def _on_tools(self) -> None:
        for curve in CURVES:
            if (plot := self.plots.get(curve.column)) is not None:
                self._set_curves(plot, curve)
                plot.set_x_label(AXES[self.tools.axis()])
        self._draw_if_seen()

    @Slot(object)
    def _on_hovered(self, x: float | None) -> None:
        for plot in self.plots.values():
            plot.set_cursor(x)

    def _follow(self, moved: CurvePlot) -> None:
        """Let every chart show the part that the user chose in one."""
        for plot in self.plots.values():
            if plot is not moved:
                plot.show_between(*moved.shown())

    @Slot(float)
    def zoom(self, factor: float) -> None:
        """Show `factor` times as much of the x axis around its middle."""
        shown = [self.plots[name] for name in self.shown_charts() if name in self.plots]
        if shown:
            shown[0].zoom(factor)
            self._follow(shown[0])

    @Slot()
    def reset_view(self) -> None:
        """Show all of every curve and follow it again."""
        for plot in self.plots.values():
            plot.reset_view()

    def set_history(self, rows: Sequence[Mapping[str, Any]] | Columns, after: int = -1) -> None:
        """Take stored rows behind step `after`; those that arrived meanwhile stay behind them."""
        self.series.insert(rows, after)
        self._draw_if_seen()

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append measured rows."""
        if self.series.add(rows):
            self._draw_if_seen()

    def values(self, column: str) -> np.ndarray:
        """What a chart shows: the column, dead latents in percent of all."""
        return values_of(self.series, column, self._latents)

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
        """Draw every chart: at once, or one after the other where that takes long."""
        self._stale = False
        self.empty.setVisible(len(self.series) == 0)
        self.tools.offer_time(has_time(self.series))
        self._is_rising = is_rising(self.series.told("loss"))
        self.rising.setVisible(self._is_rising)
        dead = self.series.told("dead")[-1:] * (100.0 / self._latents)
        self.dead.setVisible(bool((dead > MANY_DEAD).any()))
        self._waiting = [c for c in CURVES if self.toggles[c.column].isChecked()]
        if len(self.series) > LONG or any(c.column not in self.plots for c in self._waiting):
            self._soon.start()
            return
        while self._waiting:
            self._draw_next()

    @Slot()
    def _draw_next(self) -> None:
        """Make or draw one chart; the rest is left to later turns of the event loop."""
        if not self._waiting:
            return
        if (curve := self._waiting[0]).column not in self.plots:
            self.plots[curve.column] = self._make(curve)
            self._soon.start()
            return
        self._waiting.pop(0)
        plot = self._place(curve.column)
        xs, values = points_of(self.series, curve.column, self.tools.axis(), self._latents)
        if self._smooths(curve):
            plot.set_data("raw", xs, values)
            plot.set_data("smoothed", xs, smoothed(values, self.tools.points()))
        else:
            plot.set_data(curve.title, xs, values)
            if bounds := bounds_of(self.series, curve.column, self.tools.axis()):
                plot.set_bounds(curve.title, *bounds)
            plot.title.setToolTip(what_bounds(self.series, curve.column))
        if curve.column == "loss":
            for name in plot.names():
                plot.set_color(name, "yellow" if self._is_rising else curve.color)
        if self._waiting:
            self._soon.start()
