"""Features by the text in which they fire: occurrences of words -> tokens -> activations.

The score of feature i is the mean over occurrences of max over the occurrence's tokens of
a_i / a_i^max; on request times log(N / n_i), which favours rare features.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.core.search_words import SearchTerm
from mistudio.ml.features.arrays import open_array
from mistudio.ml.features.context_words import ContextWords
from mistudio.ml.features.feature_store import FeatureStore
from mistudio.ml.features.sampling import hash_tokens

CAP = 10_000  # occurrences read; of more a sample is drawn by hash


class FoundInText(NamedTuple):
    """Features with a score above 0, best first. `hits` occurrences were found, `used` read."""

    features: NDArray[np.int64]
    scores: NDArray[np.float64]
    firing: NDArray[np.int64]
    """on how many of the occurrences read each feature fires"""
    hits: int
    used: int


class ContextSearch:
    """Searches one feature set; not to be shared between threads."""

    def __init__(self, store: FeatureStore) -> None:
        """Raises `NotFound` if the text is not indexed."""
        self.words = ContextWords(store.folder, store.row_length)
        self._store = store
        self._splits, self._features, self._values = (
            open_array(store.folder / f"csr_{name}.npy")
            for name in ("splits", "features", "values")
        )
        statistics = store.statistics
        peaks = np.asarray(statistics["max"], np.float64)
        self._weight = store.scale / np.where(peaks > 0, peaks, 1.0)
        counts = np.asarray(statistics["count"], np.float64)
        self._rarity = np.log(store.kept_tokens / np.maximum(counts, 1))

    def find(
        self, terms: list[SearchTerm], *, rare: bool = False, limit: int = 1000, cap: int = CAP
    ) -> FoundInText:
        """The features that fire most on what the terms find; ties go to the smaller index."""
        first, last = self.words.find(terms)
        hits = first.size
        if hits > cap:
            hashes = hash_tokens(0, first, 0)
            kept = np.sort(np.argpartition(hashes, cap)[:cap])
            first, last = first[kept], last[kept]
        scores, firing = self._score(first.astype(np.int64), last.astype(np.int64))
        if rare:
            scores = scores * self._rarity
        order = np.argsort(-scores, kind="stable")[:limit]
        order = order[scores[order] > 0]
        return FoundInText(order, scores[order], firing[order], hits, first.size)

    def _score(
        self, first: NDArray[np.int64], last: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        size = self._store.n_features
        if not first.size:
            return np.zeros(size), np.zeros(size, np.int64)
        hit, token = _spread(first, last + 1)
        entry_token, entry = _spread(self._splits[token], self._splits[token + 1])
        hit = hit[entry_token]
        features = self._features[entry].astype(np.int64)
        values = self._values[entry].astype(np.float64) * self._weight[features]
        several = (last > first)[hit]
        sums = np.bincount(features[~several], values[~several], size).astype(np.float64)
        firing = np.bincount(features[~several], minlength=size)
        if several.any():
            key = hit[several] * size + features[several]
            order = np.argsort(key, kind="stable")
            key, values = key[order], values[several][order]
            starts = np.flatnonzero(np.append(True, key[1:] != key[:-1]))
            peak, features = np.maximum.reduceat(values, starts), key[starts] % size
            sums += np.bincount(features, peak, size)
            firing += np.bincount(features, minlength=size)
        return sums / first.size, firing


def _spread(
    starts: NDArray[np.int64], stops: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every number of ranges starts..stops-1 one after the other, and which range it is of."""
    sizes = stops - starts
    which = np.repeat(np.arange(sizes.size), sizes)
    before = np.cumsum(sizes) - sizes
    return which, np.arange(int(sizes.sum())) + (starts - before)[which]
