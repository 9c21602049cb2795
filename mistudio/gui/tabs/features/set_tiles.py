"""The tiles above the feature table: figures of the set in use, and what each is of."""

from __future__ import annotations

from collections.abc import Mapping

from mistudio.core.units import format_count, format_percent
from mistudio.gui.tabs.features.overview import Overview
from mistudio.gui.widgets.cards import MetricTile
from mistudio.store.records import FeatureSetRow

INTERPRETABLE_TIP = (
    "Share of live features whose label has a held-out score above 80 %; a label without a score "
    "counts as not."
)


def set_tiles() -> dict[str, MetricTile]:
    """By name, in the order in which they stand."""
    tiles = {
        "found": MetricTile("Features found (live / all)", color="emerald"),
        "tokens": MetricTile("Tokens read", color="blue"),
        "interpretable": MetricTile("Interpretable", color="blue"),
        "rate": MetricTile("Mean activation rate", color="purple"),
    }
    tiles["interpretable"].setToolTip(INTERPRETABLE_TIP)
    return tiles


def fill_tiles(tiles: Mapping[str, MetricTile], found: Overview) -> None:
    """Show the figures of the set in use, and what they are of."""
    tokens = found.feature_set.n_tokens if found.feature_set else None
    tiles["found"].set_value(f"{format_count(found.live)} / {format_count(found.features)}")
    tiles["tokens"].set_value(format_count(tokens))
    labelled = found.interpretable
    tiles["interpretable"].set_value(format_percent(labelled.share if labelled else None))
    tiles["rate"].set_value(format_percent(found.mean_rate, 3))
    for name, tip in _tips(found.feature_set).items():
        tiles[name].setToolTip(tip)


def _tips(found: FeatureSetRow | None) -> dict[str, str]:
    """For each tile above the table, but that of the labels."""
    if found is None:
        return {}
    n, store = format_count(found.n_tokens), (found.store_hash or "")[:12]
    rests = f"\nFeature set {found.id}" + (f", store {store}…" if store else "")
    return {
        "found": f"Latents that fired on at least one of {n} tokens, of all latents of the SAE."
        f"{rests}",
        "tokens": "Tokens that count: no special tokens, padding, skipped positions or extreme "
        f"norms.{rests}",
        "rate": "Mean over all latents of the share of tokens on which each fires: L0 divided by "
        f"the number of latents.{rests}",
    }
