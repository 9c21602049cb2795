"""The plots of an activation set: norms of its tokens, mean and variance of its dimensions."""

from __future__ import annotations

import numpy as np
from PySide6.QtWidgets import QGridLayout, QWidget

from mistudio.gui.theme import appearance
from mistudio.gui.widgets.histogram_plot import HistogramPlot
from mistudio.gui.widgets.plots import CurvePlot
from mistudio.jobs.activation_pages import HookStatistics


class SetPlots(QWidget):
    """A histogram over the whole width, and two curves over the dimensions below it."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.norms = HistogramPlot(
            "Tokens by log10 of the norm", "log10 of the norm", color="emerald"
        )
        self.means = CurvePlot("Mean per dimension", "dimension", tells_last=False)
        self.variances = CurvePlot(
            "Variance per dimension", "dimension", log_y=True, tells_last=False
        )
        self.means.add_series("mean", "blue")
        self.variances.add_series("variance", "purple")
        for chart in (self.norms, self.means, self.variances):
            chart.shrink_to(120)
        grid = QGridLayout(self)
        grid.setContentsMargins(0, appearance().px(8), 0, 0)
        grid.setSpacing(appearance().px(8))
        grid.addWidget(self.norms, 0, 0, 1, 2)
        grid.addWidget(self.means, 1, 0)
        grid.addWidget(self.variances, 1, 1)
        grid.setRowStretch(0, 1)
        grid.setRowStretch(1, 1)

    def show_statistics(self, found: HookStatistics) -> None:
        """Show those of one layer and hook."""
        positive = np.maximum(found.norm_edges_B, np.finfo(np.float64).tiny)
        self.norms.set_counts(np.log10(positive), found.norm_counts_B)
        dimensions = np.arange(found.width)
        self.means.set_data("mean", dimensions, found.mean_D)
        self.variances.set_data("variance", dimensions, found.variance_D)
