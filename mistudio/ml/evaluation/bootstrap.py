"""Documents drawn again: how far a figure would move on other text of the same kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mistudio.ml.data.row_table import RowTable

GROUPS = 1000  # documents are drawn one by one up to this many, beyond in as many groups
RESAMPLES = 1000
_ROWS = 1 << 14  # rows whose document numbers are read at a time

Sums = Mapping[str, np.ndarray]
"""Sums over tokens by name: [...] or, of vectors, [..., width]; leading axes are those of draws."""
Definition = Callable[[Sums], np.ndarray]


class Bootstrap:
    """Draws documents with replacement, 1000 times, from a fixed seed.

    Two bootstraps over the same documents draw the same, which is what pairs a comparison.
    """

    def __init__(self, present: np.ndarray, seed: int = 0) -> None:
        """`present` [G] tells which groups of documents hold tokens; only these are drawn."""
        self._present = np.flatnonzero(present)
        groups = len(self._present)
        share = np.full(max(groups, 1), 1 / max(groups, 1))
        drawn = np.random.default_rng(seed).multinomial(groups, share, size=RESAMPLES)
        self._weights_RG = drawn[:, :groups].astype(np.float64)

    def draw(self, per_group: Sums) -> dict[str, np.ndarray]:
        """The sums of each draw [R, ...] of sums per group [G, ...]."""
        return {
            name: self._weights_RG @ values[self._present] for name, values in per_group.items()
        }

    def interval(self, values_R: np.ndarray) -> list[float] | None:
        """The 95 % interval of a figure's draws; None if undefined, as with a single document."""
        finite = values_R[np.isfinite(values_R)]
        if finite.size == 0 or len(self._present) < 2:
            return None
        low, high = np.percentile(finite, [2.5, 97.5])
        return [float(low), float(high)]


def totals(per_group: Sums) -> dict[str, np.ndarray]:
    """The sums over all documents."""
    return {name: values.sum(0) for name, values in per_group.items()}


def figures(definitions: Mapping[str, Definition], sums: Sums) -> dict[str, np.ndarray]:
    """Every figure of the sums; where one is not defined it is not finite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return {name: np.asarray(define(sums)) for name, define in definitions.items()}


def with_intervals(
    definitions: Mapping[str, Definition], per_group: Sums
) -> tuple[dict[str, Any], dict[str, list[float] | None]]:
    """Figures over all documents as JSON values, and their 95 % intervals."""
    found = figures(definitions, totals(per_group))
    bootstrap = Bootstrap(per_group["n"] > 0)
    drawn = figures(definitions, bootstrap.draw(per_group))
    return (
        {name: plain(float(value)) for name, value in found.items()},
        {name: bootstrap.interval(values_R) for name, values_R in drawn.items()},
    )


def plain(value: Any) -> Any:
    """A JSON value: None in place of a number that is not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


class DocumentGroups:
    """Assigns tokens to the groups in which their documents are drawn."""

    def __init__(self, tokens: RowTable, rows: np.ndarray) -> None:
        documents = np.empty(0, dtype=np.int64)
        for start in range(0, len(rows), _ROWS):
            documents = np.union1d(documents, tokens.docs[rows[start : start + _ROWS]])
        self._documents = documents[documents >= 0]
        self._counted = np.zeros(max(1, len(self._documents)), dtype=bool)
        self.groups = max(1, min(GROUPS, len(self._documents)))

    def of(self, docs_BS: np.ndarray, keep_BS: np.ndarray) -> np.ndarray:
        """Groups [B, S] of tokens; the documents of those to `keep` are counted.

        A token of no document, such as BOS, goes with the last document of its row.
        """
        place_BS = self.places(docs_BS)
        self._counted[place_BS[keep_BS]] = True
        return place_BS % self.groups

    def places(self, docs_BS: np.ndarray) -> np.ndarray:
        """Which document of all, from 0, each token belongs to [B, S]; counts none of them."""
        owner_BS = np.where(docs_BS < 0, docs_BS.max(1, keepdims=True), docs_BS)
        place_BS = np.searchsorted(self._documents, np.maximum(owner_BS, 0))
        return np.minimum(place_BS, len(self._counted) - 1)

    @property
    def counted(self) -> int:
        """Documents of which at least one token was kept."""
        return int(self._counted.sum())


def documents_of(tokens: RowTable, place_N2: np.ndarray) -> np.ndarray:
    """The documents [N] of tokens given by row and position, numbered from 0 in their order."""
    rows, at_N = np.unique(place_N2[:, 0], return_inverse=True)
    places_BS = DocumentGroups(tokens, rows).places(np.asarray(tokens.docs[rows]))
    return places_BS[at_N, place_N2[:, 1]]
