"""Directions from two groups of activations: difference of means, and two kinds of PCA.

"mean" is mean(p) - mean(n), in the units of the stream. The other two read the lists as pairs
(p_i, n_i) and give a component of unit length: "pca" is the first principal component of the
differences p_i - n_i, along which the pairs differ most from each other; "pca-centred" that of the
2N points p_i - m_i and n_i - m_i around each pair's middle m_i, which keeps what all differences
share. A component has no sign: the pairs vote, so that p projects higher than n in most of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.core.errors import InvalidInput
from mistudio.ml.features.labels.auroc import auroc

HELD_OUT_FROM = 12  # prompts of each list from which some are held out
EVERY = 4  # of so many prompts the last one is held out


class Direction(NamedTuple):
    """A direction float64 [D]; `explained` is its share of the squared deviations, None of a mean.

    `votes` is the share of pairs in which p projects higher than n, None without pairs.
    """

    v_D: NDArray[np.float64]
    explained: float | None
    votes: float | None


class Separation(NamedTuple):
    """AUROC of projections: P(p > n) + P(p = n) / 2, on the prompts themselves and held out.

    `held_out` comes from a direction fitted without the prompts it is measured on, None if the
    lists are too short; `n_held_out` are the prompts of each list it rests on.
    """

    own: float
    held_out: float | None
    n_held_out: tuple[int, int]


def direction(
    positive_ND: NDArray[np.float64], negative_MD: NDArray[np.float64], method: str
) -> Direction:
    """The direction from negative to positive activations [N, D] and [M, D], in float64.

    Raises `InvalidInput` if a PCA gets lists of two lengths or too few pairs, or if there is no
    difference at all.
    """
    p_ND, n_MD = positive_ND.astype(np.float64), negative_MD.astype(np.float64)
    paired = len(p_ND) == len(n_MD)
    if method == "mean":
        v_D, explained = p_ND.mean(0) - n_MD.mean(0), None
    else:
        if not paired:
            raise InvalidInput(
                f"PCA compares pairs, but there are {len(p_ND):,} positive and {len(n_MD):,} "
                "negative prompts. Make the lists equally long, or take the difference of means."
            )
        if method == "pca":
            points = p_ND - n_MD
            least = 3
        else:
            half_ND = (p_ND - n_MD) / 2
            points = np.concatenate([half_ND, -half_ND])
            least = 2
        if len(p_ND) < least:
            raise InvalidInput(f"This kind of PCA takes at least {least} pairs of prompts.")
        v_D, explained = _first_component(points)
    if not np.linalg.norm(v_D) > 0:
        raise InvalidInput("Both lists give the same activations, so there is no direction.")
    if not paired:
        return Direction(v_D, explained, None)
    gap_N = (p_ND - n_MD) @ v_D
    votes = float(((gap_N > 0) + 0.5 * (gap_N == 0)).mean())
    if method != "mean" and (votes < 0.5 or (votes == 0.5 and gap_N.sum() < 0)):
        v_D, votes = -v_D, 1.0 - votes
    return Direction(v_D, explained, votes)


def separation(
    positive_ND: NDArray[np.float64],
    negative_MD: NDArray[np.float64],
    method: str,
    v_D: NDArray[np.float64],
    same: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
) -> Separation:
    """How well projections tell the lists apart, also on every fourth prompt held out.

    `same` numbers each prompt's text, so that a text that was also fitted on is not counted as
    held out.
    """
    own = _auroc(positive_ND @ v_D, negative_MD @ v_D)
    if min(len(positive_ND), len(negative_MD)) < HELD_OUT_FROM:
        return Separation(own, None, (0, 0))
    kept, out = [], []
    for side, x_ND in enumerate((positive_ND, negative_MD)):
        held_N = np.arange(len(x_ND)) % EVERY == EVERY - 1
        kept.append(x_ND[~held_N])
        if same is not None:
            held_N = held_N & ~np.isin(same[side], same[side][~held_N])
        out.append(x_ND[held_N])
    counts = (len(out[0]), len(out[1]))
    if min(counts) < 1:
        return Separation(own, None, counts)
    try:
        fitted = direction(kept[0], kept[1], method)
    except InvalidInput:  # the rest is too much alike, which the whole need not be
        return Separation(own, None, counts)
    return Separation(own, _auroc(out[0] @ fitted.v_D, out[1] @ fitted.v_D), counts)


def _first_component(points_KD: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Unit vector along which points deviate most from their mean, and its share of the squares."""
    centred = points_KD - points_KD.mean(0)
    _, values, rows = np.linalg.svd(centred, full_matrices=False)
    total = float((values**2).sum())
    # what rounding leaves of points that are all alike is no direction
    if total <= (1e-12 * np.abs(points_KD).max()) ** 2 * points_KD.size:
        return np.zeros(points_KD.shape[1]), 0.0
    return rows[0], float(values[0] ** 2) / total


def _auroc(positive_N: NDArray[np.float64], negative_M: NDArray[np.float64]) -> float:
    return float(auroc(positive_N[None], negative_M[None])[0])
