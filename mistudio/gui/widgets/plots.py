"""Curves and histograms in the palette in force, each with its numbers as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import QAbstractTableModel, QModelIndex, QPersistentModelIndex, QSize, Qt
from PySide6.QtGui import QColor
from PySide6.QtWidgets import (
    QHeaderView,
    QSizePolicy,
    QStackedWidget,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from mistudio.core.units import EM_DASH, format_short
from mistudio.gui.theme import SERIES, appearance
from mistudio.gui.widgets.cards import button, label, row

MAX_POINTS = 20_000
_WRITTEN_BARS = 24  # a histogram of more bars has no room for its counts

pg.setConfigOptions(antialias=False, useOpenGL=False)


class NumbersModel(QAbstractTableModel):
    """Columns of numbers for a chart's table."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._titles: list[str] = []
        self._columns: list[np.ndarray] = []

    def set_columns(self, titles: Sequence[str], columns: Sequence[np.ndarray]) -> None:
        """Show columns of equal length."""
        self.beginResetModel()
        self._titles, self._columns = list(titles), list(columns)
        self.endResetModel()

    def rowCount(self, parent: QModelIndex | QPersistentModelIndex = QModelIndex()) -> int:  # noqa: B008
        return len(self._columns[0]) if self._columns and not parent.isValid() else 0

    def columnCount(self, parent: QModelIndex | QPersistentModelIndex = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(self._columns)

    def data(
        self,
        index: QModelIndex | QPersistentModelIndex,
        role: int = Qt.ItemDataRole.DisplayRole,
    ) -> object:
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        if role != Qt.ItemDataRole.DisplayRole:
            return None
        value = float(self._columns[index.column()][index.row()])
        return EM_DASH if np.isnan(value) else f"{value:,.6g}"

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> object:
        if role != Qt.ItemDataRole.DisplayRole:
            return None
        return self._titles[section] if orientation == Qt.Orientation.Horizontal else section + 1


class _Chart(QWidget):
    """A titled pyqtgraph plot with reset, table view and theme colours."""

    def __init__(self, title: str, x_label: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.x_label = x_label
        self.plot = pg.PlotWidget(enableMenu=False)
        self._plot_item: Any = self.plot.getPlotItem()  # never None, though its type says so
        self.plot.setMouseEnabled(x=True, y=False)
        self.plot.hideButtons()
        self.plot.setMinimumHeight(appearance().px(140))
        self.plot.setAccessibleName(title)
        self._model = NumbersModel(self)
        self._table = QTableView()
        self._table.setModel(self._model)
        self._table.verticalHeader().hide()
        self._table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        self._pages = QStackedWidget()
        self._pages.addWidget(self.plot)
        self._pages.addWidget(self._table)
        self.title = label(title, "label")
        self._legend = label("", "small")
        self._legend.setTextFormat(Qt.TextFormat.RichText)
        self._legend.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.reset_button = button(
            "", self.reset_view, variant="ghost", icon="zoom_reset", tip="Show all of it"
        )
        self.table_button = button("", variant="ghost", icon="table", tip="Show as table")
        self.table_button.setCheckable(True)
        self.table_button.toggled.connect(self._show_table)
        self.tools = row(self.title, self._legend, self.reset_button, self.table_button)
        self.tools.setStretch(1, 1)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(appearance().px(4))
        box.addLayout(self.tools)
        box.addWidget(self._pages, 1)
        appearance().changed.connect(self._recolor)

    def sizeHint(self) -> QSize:
        px = appearance().px
        return QSize(px(320), px(220))

    def shrink_to(self, height: float) -> None:
        """Let the plot be as low as `height` px (at a 16-px font) where a page has little room."""
        self.plot.setMinimumHeight(appearance().px(height))
        # a page of wrapped texts asks for the wanted height, which would make it scroll
        self.setMinimumHeight(self.minimumSizeHint().height())
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Ignored)

    def reset_view(self) -> None:
        """Zoom to all data and follow it again."""
        self.plot.enableAutoRange()

    def _show_table(self, on: bool) -> None:
        if on:
            self._fill_table()
        self._pages.setCurrentIndex(1 if on else 0)

    def _is_table(self) -> bool:
        return self._pages.currentIndex() == 1

    def _fill_table(self) -> None:
        raise NotImplementedError

    def _recolor(self) -> None:
        colors = appearance().colors
        self.plot.setBackground(colors.card_settings)
        for side in ("bottom", "left"):
            axis = self.plot.getAxis(side)
            axis.setPen(pg.mkPen(colors.border, width=1))
            axis.setTextPen(pg.mkPen(colors.muted))
        look, bottom = appearance(), self.plot.getAxis("bottom")
        small = look.px(12)
        bottom.enableAutoSIPrefix(False)  # minutes are not to become thousandths of a minute
        bottom.setLabel(self.x_label, **{"color": colors.muted, "font-size": f"{small}px"})
        # pyqtgraph gives the labels four fifths of their height, which cuts large ones off
        bottom.setHeight(round(1.3 * look.font_px + 1.3 * small) + look.px(8))
        self.plot.showGrid(x=True, y=True, alpha=0.15)


@dataclass
class _Series:
    color: str
    item: pg.PlotDataItem
    xs: np.ndarray = field(default_factory=lambda: np.empty(0))
    ys: np.ndarray = field(default_factory=lambda: np.empty(0))


class CurvePlot(_Chart):
    """Named curves over a common x. NaN breaks a curve. At most 20,000 points are drawn of each."""

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
        self.log_button = button("log", variant="ghost", tip="Logarithmic y axis")
        self.log_button.setCheckable(True)
        self.log_button.toggled.connect(self._set_log)
        self.tools.insertWidget(2, self.log_button)
        self.plot.setDownsampling(auto=True, mode="peak")
        self.plot.setClipToView(True)
        self.log_button.setChecked(log_y)
        self._recolor()
        self.reset_view()

    def reset_view(self) -> None:
        super().reset_view()
        if self._y_range is not None:
            low, high = self._y_range
            self._plot_item.getViewBox().setYRange(low, high, padding=0.02)

    def add_series(self, name: str, color: str = "") -> None:
        """A curve in a role's colour (the next free one by default)."""
        chosen = color or SERIES[len(self._series) % len(SERIES)]
        pen = pg.mkPen(appearance().colors.role(chosen), width=1)
        item = self.plot.plot([], [], pen=pen, connect="finite")
        item.setLogMode(False, self.log_button.isChecked())
        self._series[name] = _Series(chosen, item)

    def set_data(
        self, name: str, xs: Sequence[float] | np.ndarray, ys: Sequence[float] | np.ndarray
    ) -> None:
        """Replace a curve's points; the curve is made if it is new."""
        if name not in self._series:
            self.add_series(name)
        series = self._series[name]
        series.xs = np.asarray(xs, dtype=np.float64)
        series.ys = np.asarray(ys, dtype=np.float64)
        self._draw(series)

    def append(
        self, name: str, xs: Sequence[float] | np.ndarray, ys: Sequence[float] | np.ndarray
    ) -> None:
        """Add points at the right end of a curve."""
        if name not in self._series:
            self.add_series(name)
        series = self._series[name]
        series.xs = np.concatenate((series.xs, np.asarray(xs, dtype=np.float64)))
        series.ys = np.concatenate((series.ys, np.asarray(ys, dtype=np.float64)))
        self._draw(series)

    def clear(self) -> None:
        """Empty every curve; the curves stay."""
        for name in self._series:
            self.set_data(name, [], [])

    def points(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The points of a curve as given."""
        return self._series[name].xs, self._series[name].ys

    def last(self, name: str) -> float | None:
        """The newest finite value of a curve."""
        finite = self._series[name].ys[np.isfinite(self._series[name].ys)]
        return float(finite[-1]) if len(finite) else None

    def _draw(self, series: _Series) -> None:
        stride = -(-len(series.xs) // MAX_POINTS) or 1
        series.item.setData(series.xs[::stride], series.ys[::stride])
        self._write_legend()
        if self._is_table():
            self._fill_table()

    def _write_legend(self) -> None:
        if not self._tells_last:
            return
        colors = appearance().colors
        parts, plain = list[str](), list[str]()
        for name, series in self._series.items():
            last = self.last(name)
            value = EM_DASH if last is None else f"{last:.{self._digits}f}"
            shown = value if len(self._series) == 1 else f"{name} {value}"
            parts.append(f'<span style="color:{colors.role(series.color)}">{shown}</span>')
            plain.append(shown)
        self._legend.setText(" &nbsp; ".join(parts))
        self._legend.setToolTip(", ".join(plain))  # where there is no room for all of it

    def _set_log(self, on: bool) -> None:
        self.plot.setLogMode(False, on)

    def _fill_table(self) -> None:
        every = np.unique(np.concatenate([s.xs for s in self._series.values()] or [np.empty(0)]))
        columns = [every]
        for series in self._series.values():
            column = np.full(len(every), np.nan)
            column[np.searchsorted(every, series.xs)] = series.ys
            columns.append(column)
        self._model.set_columns([self.x_label, *self._series], columns)

    def _recolor(self) -> None:
        super()._recolor()
        for series in self._series.values():
            series.item.setPen(pg.mkPen(appearance().colors.role(series.color), width=1))
        self._write_legend()


class HistogramPlot(_Chart):
    """Counts per bin as bars."""

    def __init__(
        self,
        title: str,
        x_label: str = "value",
        parent: QWidget | None = None,
        *,
        color: str = "emerald",
    ) -> None:
        super().__init__(title, x_label, parent)
        self._color = color
        self._edges = np.empty(0)
        self._counts = np.empty(0)
        self._bars: pg.BarGraphItem | None = None
        self._written: list[pg.TextItem] = []  # the counts, where there are few bars
        self._recolor()

    def set_counts(
        self, edges: Sequence[float] | np.ndarray, counts: Sequence[float] | np.ndarray
    ) -> None:
        """Show `n` counts between `n + 1` rising edges."""
        self._edges = np.asarray(edges, dtype=np.float64)
        self._counts = np.asarray(counts, dtype=np.float64)
        if len(self._edges) != len(self._counts) + 1 and len(self._counts):
            raise ValueError("a histogram needs one edge more than counts")
        total = f"{self._counts.sum():,.0f}" if len(self._counts) else EM_DASH
        self._legend.setText(f"n = {total}")
        self._draw()
        if self._is_table():
            self._fill_table()

    def _draw(self) -> None:
        if self._bars is not None:
            self.plot.removeItem(self._bars)
            self._bars = None
        for text in self._written:
            self.plot.removeItem(text)
        self._written = []
        if len(self._counts):
            colors = appearance().colors
            fill = QColor(colors.fill(self._color))
            self._bars = pg.BarGraphItem(
                x0=self._edges[:-1],
                x1=self._edges[1:],
                height=self._counts,
                brush=fill,
                pen=pg.mkPen(colors.card_settings, width=1),
            )
            self.plot.addItem(self._bars)
        if 0 < len(self._counts) <= _WRITTEN_BARS:
            self._write_counts()
            # room for the highest bar's count
            self._plot_item.getViewBox().setYRange(
                0, 1.12 * max(1.0, float(self._counts.max())), padding=0
            )

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
            self._model.set_columns(["from", "to", "count"], columns)

    def _recolor(self) -> None:
        super()._recolor()
        self._draw()
