"""Features that a feature's effect is compared with: as common, and as strong where they fire.

A single ablation changes predictions more or less whatever is ablated. So the same is done to
random features of like density and strength, each on its own strongest windows, and the feature
counts as selective only if its effect is beyond theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.ml.features.arrays import open_array
from mistudio.ml.features.feature_store import FeatureStore
from mistudio.ml.features.sampling import hash_tokens
from mistudio.ml.features.text_windows import top_places

LEAST = 19  # controls with which p can reach 0.05
WITHIN = 2.0  # factor within which density and strength must lie
SELECTIVE = 0.05


class Standing(NamedTuple):
    """Where an effect stands among those of its controls.

    `percentile` is the share of controls with a smaller effect, in percent; p is
    (1 + #{control >= observed}) / (controls + 1). Both None without controls.
    """

    percentile: float | None
    p: float | None
    controls: int

    @property
    def level(self) -> float:
        """Share of equals that are called selective with as many controls as these."""
        return level(self.controls)

    @property
    def selective(self) -> bool:
        """Whether the effect is beyond those of at least 95 % of enough controls."""
        return self.p is not None and self.p <= SELECTIVE


def level(controls: int) -> float:
    """The share of equals, none being special, that so many controls call selective.

    Where an effect is as likely to take each place among itself and its controls, p takes each
    multiple of 1 / (controls + 1) as often: 19 controls flag 5 % exactly, 29 flag 3.3 %.
    """
    return int(SELECTIVE * (controls + 1) + 1e-9) / (controls + 1)


def strengths(
    store: FeatureStore, norms_F: NDArray[np.float64], windows: int
) -> NDArray[np.float64]:
    """‖a d‖ of every feature: its mean activation at its `windows` strongest rows, times ‖d‖.

    0 for features that never fired.
    """
    top_FK = open_array(store.folder / "top_values.npy")[:, :windows].astype(np.float64)
    held_F = (top_FK > 0).sum(1)
    mean_F = top_FK.sum(1) / np.maximum(held_F, 1)
    if top_FK.shape[1] < windows:  # fewer examples were kept than windows are read
        counts_F = np.asarray(store.statistics["active_samples"])
        for feature in np.flatnonzero(counts_F > top_FK.shape[1]).tolist():
            mean_F[feature] = _mean_of_top(store, feature, windows)
    return mean_F * norms_F


def _mean_of_top(store: FeatureStore, feature: int, windows: int) -> float:
    rows, positions = top_places(store, feature, windows)
    tokens, values = store.entries(feature)
    wanted = (rows * store.row_length + positions).astype(tokens.dtype)
    return float(values[np.searchsorted(tokens, wanted)].mean())


def matched(
    counts_F: NDArray[np.int64],
    strengths_F: NDArray[np.float64],
    feature: int,
    most: int,
    seed: int,
) -> list[int]:
    """At most `most` other features within a factor of 2 in density and in strength.

    Chosen by a hash, so the same each time; fewer if there are fewer.
    """
    count, strength = counts_F[feature], strengths_F[feature]
    if not count or not strength:
        return []
    near_F = (counts_F <= WITHIN * count) & (counts_F * WITHIN >= count)
    near_F &= (strengths_F <= WITHIN * strength) & (strengths_F * WITHIN >= strength)
    near_F[feature] = False
    found = np.flatnonzero(near_F)
    hashes = hash_tokens(seed, found.astype(np.uint32), feature)
    return sorted(found[np.argsort(hashes, kind="stable")[:most]].tolist())


def standing(observed: float, controls: Sequence[float]) -> Standing:
    """Where an effect stands among those of its controls; ties count against it."""
    if not controls:
        return Standing(None, None, 0)
    values = np.asarray(controls)
    below = 100 * float((values < observed).mean())
    p = (1 + int((values >= observed).sum())) / (len(values) + 1)
    return Standing(below, p, len(values))
