"""The figures of one steered text as tiles, each with its meaning and, if missing, the reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PySide6.QtCore import QSize
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QGridLayout, QWidget

from mistudio.core.steering_shown import (
    Variant,
    kl_word,
    overlap_word,
    ratio_word,
    similarity_word,
)
from mistudio.core.units import EM_DASH, format_decimal, format_percent
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import MetricTile

TIPS = {
    "kl": "How far steering moves the next-token distribution: the mean over the steered text's "
    "tokens of Σ p_steered · (log p_steered − log p_baseline), in nats, on the same tokens. "
    "Below 0.01 minimal, to 0.1 moderate, above large.",
    "perplexity": "Perplexity of the steered text minus that of the baseline, both read by the "
    "unsteered model: above 0 the text has become less likely to it.",
    "similarity": "Cosine of the sentence embeddings of the two texts. Above 0.9 near, above 0.7 "
    "related, below far.",
    "overlap": "Share of different words that the two texts have in common. Above 50 % alike, "
    "above 30 % partly alike, below different.",
    "ratio": "Mean length of the change beside the length of the activation it is added to. Above "
    "0.5 text is often fluent but wrong.",
    "acted": "Tokens that were changed, of all that were read or written; special and high-norm "
    "tokens are left alone unless ticked.",
}


class Tiles(QWidget):
    """Shows the figures of a variant."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.tiles = {
            "kl": MetricTile("KL (nats per token)", color="purple"),
            "perplexity": MetricTile("Perplexity change", color="emerald"),
            "similarity": MetricTile("Similarity", color="blue"),
            "overlap": MetricTile("Word overlap", color="emerald"),
            "ratio": MetricTile("‖Δ‖ / ‖x‖", color="yellow"),
            "acted": MetricTile("Acted on positions"),
        }
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setSpacing(appearance().px(8))
        self._columns = 0
        for tile in self.tiles.values():
            tile.keep_narrow()
        self._arrange(6)
        self.show_variant(None)

    def minimumSizeHint(self) -> QSize:
        return QSize(appearance().px(240), super().minimumSizeHint().height())

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        wide = self.width() // appearance().px(132)
        self._arrange(6 if wide >= 6 else 3 if wide >= 3 else 2)

    def _arrange(self, columns: int) -> None:
        if columns == self._columns:
            return
        self._columns = columns
        for column in range(6):
            self._grid.setColumnStretch(column, int(column < columns))
        for place, tile in enumerate(self.tiles.values()):
            self._grid.addWidget(tile, place // columns, place % columns)

    def show_variant(self, variant: Variant | None) -> None:
        """Fill the tiles; what was not measured is an em-dash with the reason."""
        m: Mapping[str, Any] = variant.metrics if variant else {}
        kl, change = m.get("kl"), m.get("perplexity_delta")
        self._tell("kl", format_decimal(kl), kl_word(kl), m, "kl")
        self.tiles["perplexity"].set_color("red" if (change or 0) > 0 else "emerald")
        shown = EM_DASH if change is None else f"{change:+.2f}"
        self._tell("perplexity", shown, _perplexities(m), m, "perplexity_delta")
        near = m.get("similarity")
        words = [similarity_word(near), str(m.get("similarity_by") or "")]
        told = ", ".join(word for word in words if word)
        self._tell("similarity", format_percent(near, 0), told, m, "similarity")
        overlap, ratio = m.get("word_overlap"), m.get("delta_ratio")
        self._tell("overlap", format_percent(overlap), overlap_word(overlap), m, "word_overlap")
        self._tell("ratio", format_decimal(ratio, 3), ratio_word(ratio), m, "delta_ratio")
        places: Mapping[str, float] = m.get("delta_ratios") or {}
        if len(places) > 1:
            each = ", ".join(f"{place} {value:.3f}" for place, value in places.items())
            self.tiles["ratio"].setToolTip(f"{TIPS['ratio']}\nBy layer: {each}.")
        acted, positions = m.get("acted"), m.get("positions")
        known = acted is not None and positions is not None
        share = format_percent(acted / positions, 0) if known and positions else ""
        self._tell("acted", f"{acted} of {positions}" if known else EM_DASH, share, m, "acted")

    def _tell(self, name: str, shown: str, detail: str, m: Mapping[str, Any], key: str) -> None:
        missing = m.get(key) is None
        why = _reason(m, key) if missing and m else ""
        self.tiles[name].set_value(shown, f"n/a: {why}" if why else detail)
        self.tiles[name].setToolTip(TIPS[name] + (f"\nNot measured: {why}." if why else ""))


def _reason(m: Mapping[str, Any], key: str) -> str:
    """Why a figure is missing."""
    if m.get("stopped_early") == "stopped":
        return "stopped before it was measured"
    if key == "similarity":
        return "no sentence model"
    if key == "delta_ratio":
        return "no token was changed"
    return "not measured by this run"


def _perplexities(metrics: Mapping[str, Any]) -> str:
    before, after = metrics.get("perplexity_baseline"), metrics.get("perplexity_steered")
    return "" if before is None or after is None else f"{before:.2f} → {after:.2f}"
