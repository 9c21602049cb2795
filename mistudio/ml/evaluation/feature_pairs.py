"""How alike the activations of each feature are on two readings of the same tokens."""

from __future__ import annotations

from typing import Any

import numpy as np

from mistudio.core.errors import InvalidInput
from mistudio.ml.evaluation.bootstrap import RESAMPLES
from mistudio.ml.sae.selection import SparseCodes

BOUNDS = (0.9, 0.5)  # correlations from which a feature counts as surviving
HISTOGRAM = np.linspace(-1.0, 1.0, 41)


class FeaturePairSums:
    """Sums over tokens per feature, in float64; memory is that of the features.

    With a and b a feature's activations, zeros included: Σa, Σa², Σb, Σb², Σab and the number of
    tokens on which both are active.
    """

    def __init__(self, n_latents: int) -> None:
        self.tokens = 0
        self._sums = {name: np.zeros(n_latents) for name in ("a", "aa", "b", "bb", "ab")}
        self._both_F = np.zeros(n_latents, dtype=np.int64)

    def add(self, first: SparseCodes, second: SparseCodes) -> None:
        """Take in the latents of the same tokens on both readings."""
        width = len(self._both_F)
        ids_a, values_a, places_a = _entries(first, width)
        ids_b, values_b, places_b = _entries(second, width)
        for name, ids, values in (("a", ids_a, values_a), ("b", ids_b, values_b)):
            self._sums[name] += np.bincount(ids, values, width)
            self._sums[2 * name] += np.bincount(ids, values**2, width)
        _, at_a, at_b = np.intersect1d(places_a, places_b, True, return_indices=True)
        shared = ids_a[at_a]
        self._sums["ab"] += np.bincount(shared, values_a[at_a] * values_b[at_b], width)
        self._both_F += np.bincount(shared, minlength=width)
        self.tokens += first.row_splits.numel() - 1

    def correlations(self) -> np.ndarray:
        """Pearson's correlation [F] over all tokens; not a number where a or b never changes."""
        s, n = self._sums, self.tokens
        spread_a, spread_b = (n * s[2 * name] - s[name] ** 2 for name in ("a", "b"))
        # what is left of equal numbers after rounding is no variation
        varies = (spread_a > 1e-12 * n * s["aa"]) & (spread_b > 1e-12 * n * s["bb"])
        with np.errstate(divide="ignore", invalid="ignore"):
            r_F = (n * s["ab"] - s["a"] * s["b"]) / (np.sqrt(spread_a) * np.sqrt(spread_b))
        return np.where(varies, np.clip(r_F, -1, 1), np.nan)

    def result(
        self, firings_a_F: np.ndarray, firings_b_F: np.ndarray, min_firings: int
    ) -> tuple[dict[str, Any], dict[str, list[Any]]]:
        """Figures of the features that fire at least `min_firings` times on the first reading.

        "survive" lists for each bound how many of these `features` reach that correlation, their
        share, and its 95 % interval: features drawn again ("drawn"), from a fixed seed. One of
        the `undefined` features, silent or constant on the second reading, survives no bound and
        counts as 0 in the median and the histogram. Jaccard is the tokens on which both fire over
        those on which either does, pooled over the features, and its median over them. The second
        value lists correlation, Jaccard and both firing counts of every feature, None where
        there is none. Raises `InvalidInput` if no feature fires often enough.
        """
        judged_F = firings_a_F >= min_firings
        features = int(judged_F.sum())
        if not features:
            raise InvalidInput(
                f"No feature fires {min_firings:,} times on these {self.tokens:,} tokens. Read "
                "more tokens, or ask for fewer firings."
            )
        r_F = self.correlations()
        either_F = firings_a_F + firings_b_F - self._both_F
        jaccard_F = np.where(either_F > 0, self._both_F / np.maximum(either_F, 1), np.nan)
        counted = np.nan_to_num(r_F[judged_F], nan=0.0)
        figures: dict[str, Any] = {
            "latents": len(r_F),
            "features": features,
            "min_firings": min_firings,
            "survive": [_share(counted, bound) for bound in BOUNDS],
            "drawn": "features",
            "undefined": int(np.isnan(r_F[judged_F]).sum()),
            "correlation_median": float(np.median(counted)),
            "correlation_histogram": np.histogram(counted, HISTOGRAM)[0].tolist(),
            "correlation_histogram_edges": HISTOGRAM.tolist(),
            "jaccard": float(self._both_F[judged_F].sum() / either_F[judged_F].sum()),
            "jaccard_median": float(np.median(jaccard_F[judged_F])),
        }
        return figures, {
            "correlation": _listed(r_F),
            "jaccard": _listed(jaccard_F),
            "firings_reference": firings_a_F.tolist(),
            "firings_judged": firings_b_F.tolist(),
        }


def _entries(codes: SparseCodes, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latents, values and distinct places of the active entries."""
    active = codes.values != 0  # a selected zero is inactive
    ids = codes.ids[active].cpu().numpy()
    rows = codes.rows[active].cpu().numpy()
    return ids, codes.values[active].double().cpu().numpy(), rows * width + ids


def _share(values: np.ndarray, bound: float) -> dict[str, Any]:
    """Values that reach a bound: count, share and interval over values drawn again.

    How many of n values drawn with replacement reach it is binomial, so no draw is carried out.
    """
    count, total = int((values >= bound).sum()), len(values)
    drawn = np.random.default_rng(0).binomial(total, count / total, RESAMPLES) / total
    interval = [float(value) for value in np.percentile(drawn, [2.5, 97.5])]
    return {"bound": bound, "count": count, "share": count / total, "interval": interval}


def _listed(values_F: np.ndarray) -> list[float | None]:
    return [round(value, 6) if value == value else None for value in values_F.tolist()]
