"""Exact figures of every feature while tokens with very many latents are stored in part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mistudio.ml.features.order import group_starts, rank_within
from mistudio.ml.features.statistics import (
    DEAD,
    DENSE,
    DENSE_ABOVE,
    ULTRA_RARE,
    ULTRA_RARE_BELOW,
)

EXACT = np.dtype(
    [
        ("count", "<i8"),
        ("active_samples", "<i8"),
        ("sum", "<f8"),
        ("sum_squares", "<f8"),
        ("max", "<f8"),
        ("token", "<i8"),  # where the maximum is, the first such place; -1 if there is none
    ]
)


class ExactCounts:
    """Counters of F features over everything that was read, kept beside a truncated store."""

    def __init__(self, features: int, row_length: int) -> None:
        self.table_F = np.zeros(features, EXACT)
        self.table_F["token"] = -1
        self._row_length = row_length

    def add(
        self,
        first_token: int,
        counts_T: NDArray[np.int64],
        features: NDArray[np.integer],
        activations: NDArray[np.float64],
    ) -> None:
        """Count tokens from `first_token` on, as they would be stored; rows must be whole."""
        if not features.size:
            return
        table_F, size = self.table_F, self.table_F.size
        token = np.repeat(np.arange(first_token, first_token + counts_T.size), counts_T)
        table_F["count"] += np.bincount(features, minlength=size)
        table_F["sum"] += np.bincount(features, activations, size)
        table_F["sum_squares"] += np.bincount(features, activations**2, size)
        order = np.lexsort((token, -activations, features))
        first = group_starts(features[order])
        best = order[first]
        found, value = features[best], activations[best]
        higher = value > table_F["max"][found]
        table_F["max"][found[higher]] = value[higher]
        table_F["token"][found[higher]] = token[best[higher]]
        pairs = np.unique(token // self._row_length * size + features)
        table_F["active_samples"] += np.bincount(pairs % size, minlength=size)

    def apply(self, statistics_F: NDArray[np.void], kept_tokens: int) -> None:
        """Put the exact figures into the statistics of what was stored."""
        table_F = self.table_F
        for name in ("count", "active_samples", "sum", "sum_squares"):
            statistics_F[name] = table_F[name]
        count = table_F["count"]
        statistics_F["frequency"] = count / kept_tokens
        statistics_F["mean_active"] = table_F["sum"] / np.maximum(count, 1)
        statistics_F["mean_all"] = table_F["sum"] / kept_tokens
        statistics_F["max"] = table_F["max"]
        live = table_F["token"] >= 0
        row, position = np.divmod(table_F["token"], self._row_length)
        statistics_F["max_row"] = np.where(live, row, -1)
        statistics_F["max_position"] = np.where(live, position, -1)
        frequency = statistics_F["frequency"]
        flags = statistics_F["flags"] & ~np.uint8(DEAD | ULTRA_RARE | DENSE)
        flags |= (count == 0).astype(np.uint8) * np.uint8(DEAD)
        rare = (count > 0) & (frequency < ULTRA_RARE_BELOW)
        flags |= rare.astype(np.uint8) * np.uint8(ULTRA_RARE)
        flags |= (frequency > DENSE_ABOVE).astype(np.uint8) * np.uint8(DENSE)
        statistics_F["flags"] = flags

    def save(self, path: Path) -> None:
        np.save(path, self.table_F)

    def load(self, path: Path) -> None:
        self.table_F = np.load(path, allow_pickle=False)


def strongest(
    counts_T: NDArray[np.int64], bits: NDArray[np.uint16], most: int
) -> NDArray[np.bool_]:
    """Which entries are among the `most` strongest of their token; ties keep the earlier ones.

    `bits` are the stored values' bit patterns, which rise with the values.
    """
    token = np.repeat(np.arange(counts_T.size), counts_T)
    order = np.lexsort((np.uint16(0xFFFF) - bits, token))
    kept = np.zeros(bits.size, bool)
    kept[order[rank_within(counts_T) < most]] = True
    return kept
