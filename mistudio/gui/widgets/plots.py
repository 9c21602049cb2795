"""Curves in the palette in force, with their numbers as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import Signal, Slot
from PySide6.QtWidgets import QWidget

from mistudio.core.units import EM_DASH
from mistudio.gui.theme import SERIES, appearance, mix
from mistudio.gui.widgets.bounds import Bounds
from mistudio.gui.widgets.cards import button
from mistudio.gui.widgets.chart import Chart
from mistudio.gui.widgets.crosshair import Crosshair
from mistudio.gui.widgets.decimate import decimated

MAX_POINTS = 4_000  # drawn of a curve; more than any screen is wide


@dataclass
class _Series:
    color: str
    item: pg.PlotDataItem
    faint: bool = False
    points: bool = False
    xs: np.ndarray = field(default_factory=lambda: np.empty(0))
    ys: np.ndarray = field(default_factory=lambda: np.empty(0))
    bounds: Bounds | None = None


class CurvePlot(Chart):
    """Named curves over a common x. NaN breaks a curve.

    Of a long curve the lowest and highest value of each stretch in view are drawn. While the mouse
    is over the chart, the values below it stand beside the title; `hovered(x)` tells where it is.
    """

    hovered = Signal(object)

    def __init__(
        self,
        title: str,
        x_label: str = "step",
        parent: QWidget | None = None,
        *,
        digits: int = 4,
        log_y: bool = False,
        tells_last: bool = True,
        y_range: tuple[float, float] | None = None,
    ) -> None:
        """`tells_last`: the newest value of each curve stands beside the title; `y_range`: lowest
        and highest value shown, whatever the curves hold."""
        super().__init__(title, x_label, parent)
        self._digits, self._tells_last, self._y_range = digits, tells_last, y_range
        self._series: dict[str, _Series] = {}
        self._cursor: float | None = None
        self.crosshair = Crosshair(self.plot)
        self.crosshair.moved.connect(self.hovered)
        self.crosshair.moved.connect(self.set_cursor)
        self.log_button = button("log", variant="ghost", tip="Logarithmic y axis")
        self.log_button.setCheckable(True)
        self.log_button.toggled.connect(self._set_log)
        self.tools.insertWidget(2, self.log_button)
        self.plot.setDownsampling(auto=True, mode="peak")
        self.plot.setClipToView(True)
        self.log_button.setChecked(log_y)
        self.view.sigXRangeChanged.connect(self._on_zoomed)
        self._recolor()
        self.reset_view()

    def reset_view(self) -> None:
        super().reset_view()
        if self._y_range is not None:
            low, high = self._y_range
            self._plot_item.getViewBox().setYRange(low, high, padding=0.02)

    def add_series(
        self, name: str, color: str = "", *, faint: bool = False, points: bool = False
    ) -> None:
        """A curve in a role's colour (the next free one by default); a faint one has no legend.

        With `points` each measured value is marked, for a curve of few.
        """
        chosen = color or SERIES[len(self._series) % len(SERIES)]
        item = self.plot.plot([], [], connect="finite")
        item.setLogMode(False, self.log_button.isChecked())
        self._series[name] = _Series(chosen, item, faint, points)
        if points:
            item.setSymbol("o")
            item.setSymbolSize(appearance().px(5))
            item.setSymbolPen(None)
        self._paint(self._series[name])

    def set_color(self, name: str, color: str) -> None:
        """Give a curve another role's colour."""
        series = self._series[name]
        if series.color != color:
            series.color = color
            self._paint(series)
            self._write_legend()

    def names(self) -> list[str]:
        """The curves, in the order they were added."""
        return list(self._series)

    def set_digits(self, digits: int) -> None:
        """How many decimals the values beside the title have."""
        self._digits = digits

    def set_x_label(self, text: str) -> None:
        """Say what the horizontal axis is."""
        if text != self.x_label:
            self.x_label = text
            self._recolor()

    def remove_series(self, name: str) -> None:
        """Take a curve away."""
        series = self._series.pop(name)
        self.plot.removeItem(series.item)
        if series.bounds is not None:
            series.bounds.remove()
        self._write_legend()

    @Slot(object)
    def set_cursor(self, x: float | None) -> None:
        """Tell the values at `x` beside the title; None: the newest ones again."""
        self._cursor = x
        self.crosshair.show_at(x)
        self._write_legend()

    def value_at(self, name: str, x: float) -> float | None:
        """The value of a curve at the measured point that is nearest to `x`."""
        series = self._series[name]
        place = _place(series, x)
        return None if place is None else float(series.ys[place])

    def _paint(self, series: _Series) -> None:
        colors = appearance().colors
        color = colors.role(series.color)
        shown = mix(color, colors.card_settings, 0.4) if series.faint else color
        series.item.setPen(pg.mkPen(shown, width=1))
        if series.points:
            series.item.setSymbolBrush(pg.mkBrush(shown))
        if series.bounds is not None:
            series.bounds.paint(color)

    def set_data(
        self, name: str, xs: Sequence[float] | np.ndarray, ys: Sequence[float] | np.ndarray
    ) -> None:
        """Replace a curve's points; the curve is made if it is new."""
        if name not in self._series:
            self.add_series(name)
        series = self._series[name]
        series.xs = np.asarray(xs, dtype=np.float64)
        series.ys = np.asarray(ys, dtype=np.float64)
        self._draw_new(series)

    def set_bounds(self, name: str, lows: np.ndarray, highs: np.ndarray) -> None:
        """An interval around each point of a curve, as an upright line and in brackets behind its
        value; NaN: none. New points come without."""
        series = self._series[name]
        if series.bounds is None:
            series.bounds = Bounds(self.plot, log_y=self.log_button.isChecked())
            self._paint(series)
        series.bounds.set(series.xs, lows, highs)
        self._write_legend()
        if self._is_table():
            self._fill_table()

    def append(
        self, name: str, xs: Sequence[float] | np.ndarray, ys: Sequence[float] | np.ndarray
    ) -> None:
        """Add points at the right end of a curve."""
        if name not in self._series:
            self.add_series(name)
        series = self._series[name]
        series.xs = np.concatenate((series.xs, np.asarray(xs, dtype=np.float64)))
        series.ys = np.concatenate((series.ys, np.asarray(ys, dtype=np.float64)))
        self._draw_new(series)

    def clear(self) -> None:
        """Empty every curve; the curves stay."""
        for name in self._series:
            self.set_data(name, [], [])

    def points(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The points of a curve as given."""
        return self._series[name].xs, self._series[name].ys

    def last(self, name: str) -> float | None:
        """The newest finite value of a curve."""
        place = _place(self._series[name], None)
        return None if place is None else float(self._series[name].ys[place])

    def _draw_new(self, series: _Series) -> None:
        if series.bounds is not None:
            series.bounds.clear()
        self._draw(series)

    def _draw(self, series: _Series) -> None:
        xs, ys = self._in_view(series)
        series.item.setData(*decimated(xs, ys, MAX_POINTS))
        self._write_legend()
        if self._is_table():
            self._fill_table()

    def _in_view(self, series: _Series) -> tuple[np.ndarray, np.ndarray]:
        """The part of a long curve that a zoomed view shows, and one point beyond either side."""
        if len(series.xs) <= MAX_POINTS or self.view.autoRangeEnabled()[0]:
            return series.xs, series.ys
        low, high = self.shown()
        first = max(0, int(np.searchsorted(series.xs, low)) - 1)
        last = int(np.searchsorted(series.xs, high, side="right")) + 1
        return series.xs[first:last], series.ys[first:last]

    @Slot()
    def _on_zoomed(self) -> None:
        for series in self._series.values():
            if len(series.xs) > MAX_POINTS:
                series.item.setData(*decimated(*self._in_view(series), MAX_POINTS))

    def _write_legend(self) -> None:
        at = self._cursor
        if not self._tells_last and at is None:
            self._legend.setText("")
            return
        colors = appearance().colors
        named = {name: s for name, s in self._series.items() if not s.faint}
        parts, plain = list[str](), list[str]()
        if at is not None and named:
            first = next(iter(named.values()))
            place = first.xs[nearest(first.xs, at)] if len(first.xs) else at
            plain.append(f"{self.x_label} {place:,.6g}")
            parts.append(plain[0])
        for name, series in named.items():
            place = _place(series, at)
            told = EM_DASH if place is None else f"{series.ys[place]:.{self._digits}f}"
            if place is not None and series.bounds is not None:
                told += series.bounds.text(place, self._digits)
            shown = told if len(named) == 1 else f"{name} {told}"
            text = shown.replace("&", "&amp;").replace("<", "&lt;")
            parts.append(f'<span style="color:{colors.role(series.color)}">{text}</span>')
            plain.append(shown)
        self._legend.setText(" &nbsp; ".join(parts))
        self._legend.setToolTip(", ".join(plain))  # where there is no room for all of it

    def _set_log(self, on: bool) -> None:
        self.plot.setLogMode(False, on)

    def _fill_table(self) -> None:
        every = np.unique(np.concatenate([s.xs for s in self._series.values()] or [np.empty(0)]))
        titles, columns = [self.x_label], [every]

        def add(title: str, series: _Series, values: np.ndarray) -> None:
            column = np.full(len(every), np.nan)
            column[np.searchsorted(every, series.xs)] = values
            titles.append(title)
            columns.append(column)

        for name, series in self._series.items():
            add(name, series, series.ys)
            if series.bounds is not None and len(series.bounds.lows):
                add("95 % from", series, series.bounds.lows)
                add("95 % to", series, series.bounds.highs)
        self._model.set_columns(titles, columns)

    def _recolor(self) -> None:
        super()._recolor()
        for series in self._series.values():
            self._paint(series)
        self._write_legend()


def _place(series: _Series, x: float | None) -> int | None:
    """The point of a curve that is nearest to `x`, or its newest for None, of those known."""
    ys = series.ys
    if x is None and len(ys) and np.isfinite(ys[-1]):
        return len(ys) - 1
    known = np.flatnonzero(np.isfinite(ys) if x is None else np.isfinite(series.xs + ys))
    if not len(known):
        return None
    return int(known[-1] if x is None else known[nearest(series.xs[known], x)])


def nearest(xs: np.ndarray, x: float) -> int:
    """The place of the value nearest to `x` among ascending ones; 0 for none."""
    right = int(np.searchsorted(xs, x))
    if right == 0:
        return 0
    if right == len(xs) or x - xs[right - 1] <= xs[right] - x:
        return right - 1
    return right
