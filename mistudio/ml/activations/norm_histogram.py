"""Counts of norms in bins that are even in the logarithm: medians without keeping the values."""

from __future__ import annotations

import numpy as np

_LOWEST, _HIGHEST = -24, 24  # powers of two between which norms are told apart


class LogBins:
    """Bins of 2^(1/per_octave) width from 2^-24 to 2^24; the outer ones take what lies beyond."""

    def __init__(self, per_octave: int) -> None:
        self.per_octave = per_octave
        self.count = (_HIGHEST - _LOWEST) * per_octave

    def index(self, norm_T: np.ndarray) -> np.ndarray:
        """Bin of each norm, int64 [T]."""
        with np.errstate(divide="ignore"):
            place_T = (np.log2(norm_T) - _LOWEST) * self.per_octave
        return np.clip(place_T, 0, self.count - 1).astype(np.int64)

    def edge(self, index: float) -> float:
        """The norm at a (fractional) bin number."""
        return float(2.0 ** (_LOWEST + index / self.per_octave))

    def median(self, counts_B: np.ndarray) -> float:
        """The median of what was counted, interpolated inside its bin; nan if nothing was."""
        total = int(counts_B.sum())
        if total == 0:
            return float("nan")
        reached_B = np.cumsum(counts_B)
        at = int(np.searchsorted(reached_B, total / 2))
        before = int(reached_B[at - 1]) if at else 0
        return self.edge(at + (total / 2 - before) / int(counts_B[at]))

    def coarse(self, counts_B: np.ndarray, most: int) -> tuple[list[float], list[int]]:
        """Edges and counts of at most `most` even bins around what was counted."""
        used = np.flatnonzero(counts_B)
        if len(used) == 0:
            return [0.0, 1.0], [0]
        low, high = int(used[0]), int(used[-1]) + 1
        step = -(-(high - low) // most)
        high = low + -(-(high - low) // step) * step
        padded = np.zeros(high, dtype=np.int64)
        padded[: min(high, self.count)] = counts_B[:high]
        counts = padded[low:high].reshape(-1, step).sum(1)
        return [self.edge(i) for i in range(low, high + 1, step)], [int(n) for n in counts]
