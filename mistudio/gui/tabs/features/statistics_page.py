"""The Statistics page of a feature: counts, rates, flags and the histogram of its activations."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QGridLayout, QHBoxLayout, QWidget

from mistudio.core.units import EM_DASH, format_count, format_percent
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import Card, label
from mistudio.gui.widgets.plots import HistogramPlot


class StatisticsPage(QWidget):
    """Numbers on the left, the histogram of non-zero activations beside them."""

    NAMES = (
        "Tokens read",
        "Active on",
        "Density",
        "Active samples",
        "Largest activation",
        "Mean while active",
        "Mean over all tokens",
        "Top tokens",
        "Flags",
    )

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        px = appearance().px
        card = Card("settings", padding=16)
        grid = QGridLayout()
        grid.setHorizontalSpacing(px(16))
        grid.setVerticalSpacing(px(8))
        grid.setColumnStretch(1, 1)
        self.values = {
            name: label(EM_DASH, "mono", wrap=True, selectable=True) for name in self.NAMES
        }
        for line, (name, value) in enumerate(self.values.items()):
            grid.addWidget(label(name, "label"), line, 0, Qt.AlignmentFlag.AlignTop)
            grid.addWidget(value, line, 1)
            value.setAccessibleName(name)
        card.box.addLayout(grid)
        card.box.addStretch(1)
        self.histogram = HistogramPlot("Activations above zero", "activation", color="purple")
        box = QHBoxLayout(self)
        box.setContentsMargins(0, px(8), 0, 0)
        box.setSpacing(px(16))
        box.addWidget(card, 2)
        box.addWidget(self.histogram, 3)

    def show_page(self, page: Any) -> None:
        """Show the statistics of a `FeaturePage`."""
        for name, value in described(page).items():
            self.values[name].setText(value)
        self.histogram.set_counts(page.activations.edges, page.activations.counts)


def described(page: Any) -> dict[str, str]:
    """Every number as it reads, by its name."""
    row, n = page.row, page.n_tokens
    overall = row.mean * row.count / n if n else None
    return {
        "Tokens read": format_count(n),
        "Active on": f"{format_count(row.count)} tokens",
        "Density": density(row.count, n),
        "Active samples": format_count(row.active_samples),
        "Largest activation": f"{row.max:.4f}" if row.count else EM_DASH,
        "Mean while active": f"{row.mean:.4f}" if row.count else EM_DASH,
        "Mean over all tokens": EM_DASH if overall is None else f"{overall:.3g}",
        "Top tokens": row.top_tokens or EM_DASH,
        "Flags": row.flags or "none",
    }


def density(count: int, n_tokens: int) -> str:
    """Share of tokens as percent and "1 in k"; of a feature that never fired the 95 % bound."""
    if not n_tokens:
        return EM_DASH
    if not count:
        return f"below {format_percent(min(1.0, 3 / n_tokens), 4)} (95 % bound, never fired)"
    return f"{format_percent(count / n_tokens, 4)} · 1 in {format_count(n_tokens / count)}"
