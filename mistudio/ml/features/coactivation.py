"""Which features fire together: exact counts and correlations over the whole SAE.

The row store is read on the tokens where a feature is active; nothing is sampled, no matrix of
features by features is made. With x_i(t) a feature's activation, zeros included,
over N kept tokens, n_i the tokens on which it is active and n_ij those on which both are:

    pearson  (N Σxy - Σx Σy) / sqrt((N Σx² - (Σx)²) (N Σy² - (Σy)²))
    cosine   Σxy / sqrt(Σx² Σy²)
    pmi      log(n_ij N / (n_i n_j)), in nats; not given below `LEAST_SHARED` shared tokens
    jaccard  n_ij / (n_i + n_j - n_ij)
    phi      (N n_ij - n_i n_j) / sqrt(n_i n_j (N - n_i) (N - n_j)): Pearson's of being active
    p_j_i    n_ij / n_i, the share of this feature's tokens on which the other is active
    p_i_j    n_ij / n_j, the reverse
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.ml.features.feature_store import FeatureStore

MEASURES = ("pearson", "pmi", "jaccard", "cosine", "phi", "p_j_i", "p_i_j")
LEAST_SHARED = 5  # shared tokens below which PMI is not given
BLOCK = 1 << 17  # entries of the row store gathered at a time: some 4 MB


class CoActivation(NamedTuple):
    """A feature against all F: tokens on which both are active, and sums of products.

    `shared_F` int64 (the feature's own place holds its count), `products_F` Σxy in the SAE's
    units.
    """

    feature: int
    shared_F: NDArray[np.int64]
    products_F: NDArray[np.float64]


def coactivation(
    store: FeatureStore,
    feature: int,
    *,
    block: int = BLOCK,
    check: Callable[[], None] = lambda: None,
) -> CoActivation:
    """Count and sum over the tokens on which `feature` is active; time grows with their entries.

    Memory is that of one block of about `block` entries (at least the entries of one token).
    `check` is called once per block and may raise.
    """
    tokens_T, x_T = store.entries(feature)
    rows = store.row_store
    first_T = rows.splits[tokens_T]
    size_T = rows.splits[tokens_T.astype(np.int64) + 1] - first_T
    ends_T = np.cumsum(size_T)
    shared_F = np.zeros(store.n_features, np.int64)
    products_F = np.zeros(store.n_features)
    start, done = 0, 0
    while start < tokens_T.size:
        check()
        stop = int(np.searchsorted(ends_T, done + block, side="right"))
        stop = max(stop, start + 1)
        sizes = size_T[start:stop]
        # entry e of token t lies at first_T[t] + e
        offset = first_T[start:stop] - (ends_T[start:stop] - sizes - done)
        place = np.arange(int(ends_T[stop - 1]) - done) + np.repeat(offset, sizes)
        features = rows.features[place].astype(np.int64)
        products = _ACTIVATION[rows.values[place].view(np.uint16)]
        products *= np.repeat(x_T[start:stop], sizes)
        shared_F += np.bincount(features, minlength=shared_F.size)
        products_F += np.bincount(features, products, shared_F.size)
        start, done = stop, int(ends_T[stop - 1])
    return CoActivation(feature, shared_F, products_F * store.scale)


def _activations() -> NDArray[np.float64]:
    """The number of each fp16 bit pattern: looking up is faster than numpy's conversion."""
    with np.errstate(invalid="ignore"):  # signalling NaNs among the patterns
        return np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float64)


_ACTIVATION = _activations()


def measures(store: FeatureStore, found: CoActivation) -> dict[str, NDArray[np.float64]]:
    """Every measure of `MEASURES` of the feature with each of F; not a number where undefined."""
    total = float(store.kept_tokens)
    line_F = store.statistics
    n_F, sum_F = line_F["count"].astype(np.float64), line_F["sum"]
    squares_F = line_F["sum_squares"]
    i = found.feature
    n_i, sum_i, squares_i = n_F[i], sum_F[i], squares_F[i]
    shared_F = found.shared_F.astype(np.float64)
    spread_F = np.maximum(total * squares_F - sum_F**2, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        pearson_F = (total * found.products_F - sum_i * sum_F) / (
            np.sqrt(spread_F[i]) * np.sqrt(spread_F)
        )
        cosine_F = found.products_F / (np.sqrt(squares_i) * np.sqrt(squares_F))
        enough_F = np.where(shared_F >= LEAST_SHARED, shared_F, np.nan)
        pmi_F = np.log(enough_F * total / (n_i * n_F))
        jaccard_F = shared_F / (n_i + n_F - shared_F)
        phi_F = (total * shared_F - n_i * n_F) / (
            np.sqrt(n_i * (total - n_i)) * np.sqrt(n_F * (total - n_F))
        )
        j_given_i_F, i_given_j_F = shared_F / n_i, shared_F / n_F
    parts = (pearson_F, pmi_F, jaccard_F, cosine_F, phi_F, j_given_i_F, i_given_j_F)
    return {
        name: np.where(np.isfinite(part_F), part_F, np.nan)
        for name, part_F in zip(MEASURES, parts, strict=True)
    }


def strongest(found: CoActivation, values_F: NDArray[np.float64], top: int) -> list[int]:
    """The `top` features with the largest measure of those that share a token with the feature.

    Largest first, ties by index; the feature itself and undefined measures are left out.
    """
    candidates = np.flatnonzero(found.shared_F)
    candidates = candidates[(candidates != found.feature) & ~np.isnan(values_F[candidates])]
    values = values_F[candidates]
    if candidates.size > top:
        least = np.partition(values, -top)[-top]  # ties with it stay in, so that the order decides
        candidates, values = candidates[values >= least], values[values >= least]
    order = np.lexsort((candidates, -values))[:top]
    return candidates[order].tolist()
