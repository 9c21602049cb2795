"""What the large numbers of a feature's window are of: definition, n, and the feature set."""

from __future__ import annotations

from typing import Any

from mistudio.core.units import format_count
from mistudio.gui.tabs.features.columns import score_tip


def tile_tips(page: Any) -> dict[str, str]:
    """For each tile of a `FeaturePage`'s window."""
    row, n = page.row, format_count(page.n_tokens)
    rests = f"Feature set {page.feature_set_id}"
    bound = "" if row.count or not page.n_tokens else f" At most {3 / page.n_tokens:.2g} (95 %)."
    return {
        "frequency": f"Active on {format_count(row.count)} of {n} tokens that count: no special "
        f"tokens, padding, skipped positions or extreme norms.{bound}\n{rests}",
        "interpretability": score_tip(row),
        "max": f"Largest activation on the {n} tokens that count, in the SAE's units.\n{rests}",
        "samples": f"Rows of text on which it fires at least once, of those that hold the {n} "
        f"tokens.\n{rests}",
    }
