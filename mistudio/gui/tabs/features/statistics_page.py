"""The Statistics page of a feature: counts, rates, flags, weights, and how its activations lie."""

from __future__ import annotations

import math
from typing import Any

from PySide6.QtCore import Qt, Slot
from PySide6.QtWidgets import QGridLayout, QHBoxLayout, QVBoxLayout, QWidget

from mistudio.core.units import EM_DASH, format_count, format_percent
from mistudio.gui.services import Services
from mistudio.gui.tabs.features.columns import flags_text
from mistudio.gui.tabs.features.scrolling import scrolling
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import Card, label
from mistudio.gui.widgets.histogram_plot import HistogramPlot
from mistudio.jobs import feature_extras
from mistudio.jobs.feature_extras import Extras
from mistudio.store.records import SaeRow

MEANINGS = {
    "Tokens read": "Tokens of the feature set that count: no special tokens, padding, skipped "
    "positions or extreme norms.",
    "Active on": "Tokens on which the activation is above zero.",
    "Density": "Active tokens / tokens read. Of a feature that never fired 3/N bounds it with 95 % "
    "confidence.",
    "Active samples": "Rows of text on which it fires at least once.",
    "Largest activation": "In the SAE's units.",
    "Mean while active": "Mean over the tokens on which it fires.",
    "Mean over all tokens": "Mean over all tokens read, zeros included.",
    "Top tokens": "The tokens with the largest shares of its total activation.",
    "Flags": "dead: never fired; ultra-rare: below 1 in a million; dense: above 10 % of tokens; "
    "duplicate: another decoder row with cosine above 0.9; single-token: its strongest tokens are "
    "one string.",
    "Encoder–decoder cosine": "Cosine of the direction that it reads with the one that it writes.",
    "Decoder length ‖d‖": "Length of the decoder row in the model's units: what one unit of "
    "activation adds.",
    "d · b_dec": "Decoder row times decoder bias: how far it writes along the mean activation.",
    "Neuron alignment": "The three largest entries of the decoder row, and each one's share of "
    "the sum of all |entries|: a large share means that it follows one neuron.",
}

TRUNCATED = (
    "The store keeps only the strongest activations of each token: counts, sums and maxima are "
    "exact, the histograms and the profile are of what is kept."
)


class StatisticsPage(QWidget):
    """Numbers on the left, histograms of activations and the profile by place beside them."""

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
        "Encoder–decoder cosine",
        "Decoder length ‖d‖",
        "d · b_dec",
        "Neuron alignment",
    )

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._services = services
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
            title = label(name, "label")
            for part in (title, value):
                part.setToolTip(MEANINGS[name])
            grid.addWidget(title, line, 0, Qt.AlignmentFlag.AlignTop)
            grid.addWidget(value, line, 1)
            value.setAccessibleName(name)
        card.box.addLayout(grid)
        self.note = label("", "warning", wrap=True)
        self.note.hide()
        card.box.addWidget(self.note)
        card.box.addStretch(1)
        self.histogram = HistogramPlot("Activations above zero", "activation", color="purple")
        self.log_histogram = HistogramPlot(
            "By half octave", "log₂ activation", color="purple", write_counts=False
        )
        self.log_histogram.setToolTip("Every activation above zero, counted by its logarithm.")
        self.profile = HistogramPlot(
            "Mean activation by place in the row",
            "tenth of the row",
            color="blue",
            write_counts=False,
        )
        self.profile.setToolTip(
            "Mean over the tokens that count in each tenth of the row, zeros included: a feature "
            "of beginnings is high on the left."
        )
        charts = QVBoxLayout()
        charts.setSpacing(px(12))
        charts.addWidget(self.histogram, 5)
        below = QHBoxLayout()
        below.setSpacing(px(12))
        below.addWidget(self.log_histogram)
        below.addWidget(self.profile)
        charts.addLayout(below, 4)
        box = QHBoxLayout(self)
        box.setContentsMargins(0, px(8), 0, 0)
        box.setSpacing(px(16))
        box.addWidget(scrolling(card).area, 2)
        box.addLayout(charts, 3)

    def show_page(self, page: Any) -> None:
        """Show the statistics of a `FeaturePage`."""
        for name, value in described(page).items():
            self.values[name].setText(value)
        self.histogram.set_counts(page.activations.edges, page.activations.counts)

    def mark_own(self, largest: float | None) -> None:
        """Where the largest activation on one's own text lies; None: no text was read."""
        self.log_histogram.set_marker(None)
        if largest is None:
            self.histogram.set_marker(None)
        elif largest > 0:
            tip = f"Largest activation on the text of Try text: {largest:.4f}"
            self.histogram.set_marker(largest, f"your text: {largest:.4f}", tip)
            self.log_histogram.set_marker(math.log2(largest), "your text", tip)
        else:
            self.histogram.set_marker(0.0, "your text: 0", "It does not fire on your text.")

    def ask(self, sae: SaeRow, index: int) -> None:
        """Read what is not on the page."""
        studio = self._services.studio
        self._services.query.ask(
            lambda _db: feature_extras.extras(studio, sae, index),
            self.show_extras,
            on_error=self._on_error,
            key="extras",
        )

    @Slot(object)
    def show_extras(self, found: Extras) -> None:
        """Show the profile, the log histogram and what the weights say."""
        self.log_histogram.set_counts(found.log_histogram.edges, found.log_histogram.counts)
        self.profile.set_values(
            [float(edge) for edge in range(len(found.profile) + 1)],
            [value or 0.0 for value in found.profile],
        )
        for name, value in described_weights(found).items():
            self.values[name].setText(value)
        self.note.setText(TRUNCATED if found.is_truncated else "")
        self.note.setVisible(found.is_truncated)

    @Slot(str, str)
    def _on_error(self, sentence: str, details: str) -> None:
        self.values["Encoder–decoder cosine"].setText(sentence)
        self.values["Encoder–decoder cosine"].setToolTip(details)


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
        "Flags": flags_text(row) or "none",
    }


def described_weights(found: Extras) -> dict[str, str]:
    """What the weights say, as it reads, by its name."""
    weights = found.weights
    if weights is None:
        unknown = "not computed yet; open SAE health once"
        return {name: unknown for name in StatisticsPage.NAMES[-4:]}
    cosine = weights.encoder_cosine
    entries = [f"{e.neuron}: {e.value:+.3f} ({100 * e.share:.1f} %)" for e in weights.entries]
    return {
        "Encoder–decoder cosine": "not defined for a transcoder"
        if cosine is None
        else f"{cosine:.4f}",
        "Decoder length ‖d‖": f"{weights.norm:.4f}",
        "d · b_dec": f"{weights.bias_product:+.4f}",
        "Neuron alignment": "\n".join(entries) or EM_DASH,
    }


def density(count: int, n_tokens: int) -> str:
    """Share of tokens as percent and "1 in k"; of a feature that never fired the 95 % bound."""
    if not n_tokens:
        return EM_DASH
    if not count:
        return f"below {format_percent(min(1.0, 3 / n_tokens), 4)} (95 % bound, never fired)"
    return f"{format_percent(count / n_tokens, 4)} · 1 in {format_count(n_tokens / count)}"
