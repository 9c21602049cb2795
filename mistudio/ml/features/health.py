"""How an SAE's features are doing as a whole, from a feature set's tables and the weights."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mistudio.ml.features.decoder_rows import DUPLICATE_ABOVE
from mistudio.ml.features.feature_store import FeatureStore
from mistudio.ml.features.statistics import DENSE_ABOVE, ULTRA_RARE_BELOW

DENSE_HINT_ABOVE = 0.01
BINS = 40
COSINES = np.linspace(-1.0, 1.0, BINS + 1)


def health(store: FeatureStore, geometry_F: NDArray[np.void]) -> dict[str, Any]:
    """Counts, shares and distributions of all F features, as JSON values.

    Shares of dead, ultra-rare, dense and duplicate features are of all features, that of
    single-token ones of the live. "density" is a histogram of log10(count / tokens) of the live
    features. "l0" is the mean number of active features per token. Distributions of the weights
    hold minimum, quartiles, maximum, mean and a histogram; None where nothing is known.
    """
    line_F = store.statistics
    count_F, total = line_F["count"], store.kept_tokens
    live_F = count_F > 0
    features, live = store.n_features, int(live_F.sum())
    frequency_F = line_F["frequency"]
    single = int((line_F["single_token"][live_F] > 0).sum())
    counts = {
        "dead": features - live,
        "ultra_rare": int((live_F & (frequency_F < ULTRA_RARE_BELOW)).sum()),
        "above_1_percent": int((frequency_F > DENSE_HINT_ABOVE).sum()),
        "dense": int((frequency_F > DENSE_ABOVE).sum()),
        "duplicate": int((geometry_F["cosine"][:, 0] > DUPLICATE_ABOVE).sum()),
    }
    return {
        "n_tokens": total,
        "features": features,
        "live": live,
        "counts": counts | {"single_token": single},
        "shares": {name: n / features for name, n in counts.items()}
        | {"single_token": single / live if live else None},
        "dead_bound": min(1.0, 3 / total) if total else None,
        "l0": float(count_F.sum() / total) if total else None,
        "density": _density(frequency_F[live_F]),
        "encoder_cosine": distribution(geometry_F["encoder_cosine"], COSINES),
        "norm": distribution(geometry_F["norm"]),
        "bias_product": distribution(geometry_F["bias_product"]),
        "bias_cosine": distribution(geometry_F["bias_cosine"], COSINES),
        "nearest_cosine": distribution(geometry_F["cosine"][:, 0], COSINES),
        "truncated": bool(store.summary.get("truncated")),
    }


def _density(frequencies: NDArray[np.float64]) -> dict[str, list[float]]:
    """Live features per half decade of density."""
    low = int(np.floor(np.log10(frequencies.min()))) if frequencies.size else -6
    edges = np.arange(2 * low, 1) / 2
    found = np.histogram(np.log10(frequencies), edges)[0] if frequencies.size else edges[:-1] * 0
    return {"edges": edges.tolist(), "counts": [int(n) for n in found]}


def distribution(
    values: NDArray[np.floating], edges: NDArray[np.float64] | None = None
) -> dict[str, Any] | None:
    """Five quantiles, mean and a histogram of the finite values; `n` counts them."""
    known = values[np.isfinite(values)].astype(np.float64)
    if not known.size:
        return None
    if edges is None:
        low, high = float(known.min()), float(known.max())
        # equal values, or equal but for rounding, get one bin that can be seen
        room = max(high - low, 1e-3 * max(abs(high), 1e-3))
        middle = (low + high) / 2
        edges = np.linspace(middle - room / 2, middle + room / 2, BINS + 1)
    inside = np.clip(known, edges[0], edges[-1])
    minimum, lower, median, upper, maximum = np.percentile(known, [0, 25, 50, 75, 100]).tolist()
    return {
        "n": int(known.size),
        "mean": float(known.mean()),
        "min": minimum,
        "lower": lower,
        "median": median,
        "upper": upper,
        "max": maximum,
        "edges": edges.tolist(),
        "counts": np.histogram(inside, edges)[0].tolist(),
    }
