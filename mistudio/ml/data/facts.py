"""What a dataset's text amounts to: counts, lengths and splits, as kept in info.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

_BINS = 20
_CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True)
class DatasetFacts:
    """What storing a dataset found; lengths in characters."""

    num_samples: int
    characters: int
    bytes: int  # of the text as UTF-8
    length_min: int
    length_median: float
    length_mean: float
    length_max: int
    histogram_edges: list[float]  # 21 edges of 20 bins
    histogram_counts: list[int]
    text_column: str  # several are joined by ", "
    columns: list[str]  # the others
    format: str
    bad_bytes: int = 0
    empty_documents: int = 0  # left out
    split_documents: int = 0  # longer than a million characters, cut at line ends
    skipped_rows: int = 0  # unreadable ones, left out because that was asked for
    splits: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    """name -> [first document, behind the last], in the order of the documents"""
    estimated_tokens: int = 0  # four characters each

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, as in info.json."""
        return asdict(self)


class LengthCounts:
    """How often each length occurred: exact statistics in memory that does not grow."""

    def __init__(self, longest: int) -> None:
        self._counts_L = np.zeros(longest + 1, dtype=np.int64)

    def add(self, lengths_N: np.ndarray) -> None:
        """Count documents of these lengths, each at most `longest`."""
        found, counts = np.unique(lengths_N, return_counts=True)
        self._counts_L[found] += counts

    def summary(self) -> dict[str, Any]:
        """The length fields of `DatasetFacts`; there must be a document."""
        lengths_U = np.flatnonzero(self._counts_L)
        counts_U = self._counts_L[lengths_U]
        total, characters = int(counts_U.sum()), int((lengths_U * counts_U).sum())
        ends_U = np.cumsum(counts_U)
        middle = np.searchsorted(ends_U, [(total - 1) // 2, total // 2], side="right")
        bins, edges = np.histogram(lengths_U, bins=_BINS, weights=counts_U)
        return {
            "num_samples": total,
            "characters": characters,
            "length_min": int(lengths_U[0]),
            "length_median": float(lengths_U[middle].mean()),
            "length_mean": characters / total,
            "length_max": int(lengths_U[-1]),
            "histogram_edges": [float(edge) for edge in edges],
            "histogram_counts": [int(count) for count in bins],
            "estimated_tokens": max(1, round(characters / _CHARACTERS_PER_TOKEN)),
        }


def ordered_splits(names: Sequence[str]) -> list[str]:
    """Split names with train, validation and test first, the others in the order given."""
    usual = [name for name in ("train", "validation", "test") if name in names]
    return usual + [name for name in names if name not in usual]
