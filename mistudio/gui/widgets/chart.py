"""The frame of every chart: a titled plot with reset, a table of its numbers, theme colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import QAbstractTableModel, QModelIndex, QPersistentModelIndex, QSize, Qt
from PySide6.QtWidgets import (
    QHeaderView,
    QSizePolicy,
    QStackedWidget,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from mistudio.core.units import EM_DASH
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label, row

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


class Chart(QWidget):
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
        self._pages = QStackedWidget()
        self._pages.addWidget(self.plot)
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

    @property
    def view(self) -> Any:
        """pyqtgraph's view of the plot, whose types do not know its signals."""
        return self._plot_item.getViewBox()

    def shown(self) -> tuple[float, float]:
        """The part of the x axis that is seen."""
        low, high = self.view.viewRange()[0]
        return float(low), float(high)

    def show_between(self, low: float, high: float) -> None:
        """Show this part of the x axis."""
        self.view.setXRange(low, high, padding=0)

    def zoom(self, factor: float) -> None:
        """Show `factor` times as much of the x axis around its middle."""
        low, high = self.shown()
        half, middle = factor * (high - low) / 2, (low + high) / 2
        self.show_between(middle - half, middle + half)

    def _show_table(self, on: bool) -> None:
        if on:
            if self._pages.count() == 1:
                self._pages.addWidget(self._make_table())
            self._fill_table()
        self._pages.setCurrentIndex(1 if on else 0)

    def _make_table(self) -> QTableView:
        """The table, which few look at and which takes as long to make as half a plot."""
        table = QTableView()
        table.setTabKeyNavigation(False)  # Tab leaves it
        table.setModel(self._model)
        table.verticalHeader().hide()
        table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        return table

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
