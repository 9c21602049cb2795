"""How densities of live features are spread, with a brush that narrows the table by frequency."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import Signal
from PySide6.QtGui import QColor
from PySide6.QtWidgets import QVBoxLayout, QWidget

from mistudio.gui.services import Services
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button
from mistudio.gui.widgets.histogram_plot import HistogramPlot
from mistudio.store.feature_keys import keys_of
from mistudio.store.records import FeatureSetRow

BINS = 60


class Densities(NamedTuple):
    """Counts of live features per bin of log10 of the share of tokens on which they fire."""

    edges: np.ndarray
    counts: np.ndarray


def read_densities(db: Any, found: FeatureSetRow) -> Densities:
    """The distribution over all live features of a set, whatever is filtered."""
    shares = keys_of(db, found).values("frequency")
    logs = np.log10(shares[shares > 0])
    if not logs.size:
        return Densities(np.empty(0), np.empty(0))
    low, high = np.floor(10 * logs.min()) / 10, np.ceil(10 * logs.max()) / 10
    counts, edges = np.histogram(logs, BINS, (low, max(high, low + 0.1)))
    return Densities(edges, counts)


class DensityPanel(QWidget):
    """The histogram; `brushed(low, high)` gives shares of tokens, None where an end is open."""

    brushed = Signal(object, object)

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._services = services
        self._shown: Densities | None = None
        self.plot = HistogramPlot(
            "Density of live features",
            "log10 of the share of tokens on which a feature fires; drag the edges to filter",
        )
        self.plot.shrink_to(96)
        self.plot.setToolTip("n: live features of the set, whatever the filters")
        self.region = pg.LinearRegionItem(movable=True)
        self.region.setZValue(10)
        self.plot.plot.addItem(self.region)
        self.plot.plot.setMouseEnabled(x=False, y=False)
        self.all_button = button("All", self.clear, variant="ghost", tip="Take the brush away")
        self.plot.tools.insertWidget(2, self.all_button)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(self.plot)
        self.setFixedHeight(appearance().px(190))
        self.region.sigRegionChangeFinished.connect(self._on_brushed)
        appearance().changed.connect(self._recolor)
        self._recolor()

    def show_set(self, found: FeatureSetRow) -> None:
        """Read a set's densities."""
        self._services.query.ask(lambda db: read_densities(db, found), self._show, key="densities")

    def _show(self, densities: Densities) -> None:
        self._shown = densities
        self.plot.set_counts(densities.edges, densities.counts)
        if len(densities.edges):
            self.region.setBounds((float(densities.edges[0]), float(densities.edges[-1])))
        self.plot.reset_view()
        self.set_range(None, None)

    def set_range(self, low: float | None, high: float | None) -> None:
        """Put the brush on shares of tokens; says nothing of it."""
        if self._shown is None or not len(self._shown.edges):
            return
        first, last = float(self._shown.edges[0]), float(self._shown.edges[-1])
        ends = (
            first if not low else float(np.clip(np.log10(low), first, last)),
            last if not high else float(np.clip(np.log10(high), first, last)),
        )
        self.region.blockSignals(True)
        self.region.setRegion(ends)
        self.region.blockSignals(False)

    def clear(self) -> None:
        """Let all densities pass again."""
        self.set_range(None, None)
        self.brushed.emit(None, None)

    def _on_brushed(self) -> None:
        if self._shown is None or not len(self._shown.edges):
            return
        region: Any = self.region.getRegion()
        low, high = float(region[0]), float(region[1])
        near = 1e-6
        self.brushed.emit(
            None if low <= self._shown.edges[0] + near else 10**low,
            None if high >= self._shown.edges[-1] - near else 10**high,
        )

    def _recolor(self) -> None:
        color = QColor(appearance().colors.blue)
        self.region.setBrush(QColor(color.red(), color.green(), color.blue(), 40))
        for line in self.region.lines:
            line.setPen(pg.mkPen(color, width=2))
            line.setHoverPen(pg.mkPen(appearance().colors.emerald, width=3))
