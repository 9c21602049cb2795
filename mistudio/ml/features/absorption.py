"""Hints that another feature has absorbed one: it fires instead of it.

A feature that stands for a general property may stay silent where a more special one, whose
direction holds the general one too, fires. Without a probe of the property this cannot be
measured; what is listed here are the signs of it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mistudio.ml.features.coactivation import CoActivation
from mistudio.ml.features.decoder_rows import Neighbours
from mistudio.ml.features.feature_store import KEPT, FeatureStore

LEAST_COSINE = 0.3  # of the decoder rows
MOST_TOGETHER = 0.01  # P(this feature active | the other active)
LEAST_TOKENS = 50  # of the other feature
LEAST_WINDOWS = 0.5  # share of its strongest windows that hold a top token of this feature
LEAST_WEIGHT = 0.02  # share of this feature's activation that makes a token one of its top tokens
AROUND = 5  # tokens on each side of a window


class AbsorptionHint(NamedTuple):
    """A feature that may have absorbed another, with the signs of it.

    `cosine` of the decoder rows, the `tokens` on which it is active, the share `p` of these on
    which the other one is too, and how many of its strongest `examples` hold a top token of it.
    """

    feature: int
    cosine: float
    tokens: int
    p: float
    windows: int
    examples: int


def absorption_hints(
    store: FeatureStore, found: CoActivation, near: Neighbours
) -> list[AbsorptionHint]:
    """Hints among a feature's decoder neighbours, by falling cosine."""
    top = [t.token_id for t in store.top_tokens(found.feature) if t.weight >= LEAST_WEIGHT]
    hints: list[AbsorptionHint] = []
    for j, cosine in zip(near.features.tolist(), near.cosines.tolist(), strict=True):
        count = int(store.statistics["count"][j])
        if not cosine >= LEAST_COSINE or count < LEAST_TOKENS or not top:
            continue
        p = float(found.shared_F[j]) / count
        if p > MOST_TOGETHER:
            continue
        windows, examples = _windows_with(store, j, top)
        if windows >= LEAST_WINDOWS * examples:
            hints.append(AbsorptionHint(j, float(cosine), count, p, windows, examples))
    return hints


def _windows_with(store: FeatureStore, feature: int, wanted: list[int]) -> tuple[int, int]:
    """How many of a feature's strongest windows hold a wanted token, and how many there are."""
    found, windows = 0, store.top_places(feature)
    for row, position in windows:
        part = slice(max(0, position - AROUND), position + AROUND + 1)
        kept = store.mask_row(row)[part] == KEPT
        found += bool(np.isin(store.token_row(row)[part][kept], wanted).any())
    return found, len(windows)
