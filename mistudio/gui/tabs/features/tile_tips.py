"""What the large numbers of the Features tab are of: definition, n, and the feature set."""

from __future__ import annotations

from typing import Any

from mistudio.core.units import format_count
from mistudio.gui.tabs.features.columns import score_tip
from mistudio.store.records import FeatureSetRow


def tile_tips(page: Any) -> dict[str, str]:
    """For each tile of a `FeaturePage`'s window."""
    row, n = page.row, format_count(page.n_tokens)
    rests = f"Feature set {page.feature_set_id}"
    bound = "" if row.count or not page.n_tokens else f" At most {3 / page.n_tokens:.2g} (95 %)."
    return {
        "frequency": f"Active on {format_count(row.count)} of {n} tokens that count: no special "
        f"tokens, padding or extreme norms.{bound}\n{rests}",
        "interpretability": score_tip(row),
        "max": f"Largest activation on the {n} tokens that count, in the SAE's units.\n{rests}",
        "samples": f"Rows of text on which it fires at least once, of those that hold the {n} "
        f"tokens.\n{rests}",
    }


def set_tips(found: FeatureSetRow | None) -> dict[str, str]:
    """For each tile above the table, but that of the labels."""
    if found is None:
        return {}
    n, store = format_count(found.n_tokens), (found.store_hash or "")[:12]
    rests = f"\nFeature set {found.id}" + (f", store {store}…" if store else "")
    return {
        "found": f"Latents that fired on at least one of {n} tokens, of all latents of the SAE."
        f"{rests}",
        "tokens": f"Tokens that count: no special tokens, padding or extreme norms.{rests}",
        "rate": "Mean over all latents of the share of tokens on which each fires: L0 divided by "
        f"the number of latents.{rests}",
    }
