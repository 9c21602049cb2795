"""A graded rule for every feature: naive Bayes over previous token, token, next token, position.

It is what the words of a feature that no short rule describes are scored by.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.ml.features.labels.corpus import FIT, Corpus
from mistudio.ml.features.labels.draw import Active
from mistudio.ml.features.labels.rules import SLOTS, Groups, Stands
from mistudio.ml.features.labels.strings import NO_STRING

HALF_LIFT = 0.5  # the weight of a string is log(1 + lift / 2)
POSITION_BINS = 16  # half octaves of the position in the row
POSITION_PRIOR = 20.0  # tokens placed as the text is that a bin's share is drawn towards


class Base(NamedTuple):
    """Shares of the kept tokens of the fitting half: of each string in each slot, and of each bin
    of positions."""

    strings: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
    positions_P: NDArray[np.float64]


def base_of(corpus: Corpus) -> Base:
    """Shares over the text that rules are fitted on."""
    pool = corpus.pool[FIT]
    total = max(pool.size, 1)
    size = len(corpus.strings.texts)
    slots = (corpus.string_T[pool], corpus.previous(pool), corpus.following(pool))
    shares = [np.bincount(s[s != NO_STRING], minlength=size) / total for s in slots]
    bins = np.bincount(position_bin(pool % corpus.row_length), minlength=POSITION_BINS)
    return Base((shares[0], shares[1], shares[2]), bins / total)


def position_bin(position: NDArray[np.integer]) -> NDArray[np.int64]:
    """0, 2, 3, 4, … : half octaves of position + 1; the last one is open."""
    bins = np.floor(2 * np.log2(position.astype(np.float64) + 1)).astype(np.int64)
    return np.minimum(bins, POSITION_BINS - 1)


class Profile:
    """Fits graded rules to a block of features and applies them, through one reused table.

    score = sum over slots of log(1 + lift / 2) + log(lift of the position), lift = (share of the
    feature's active tokens) / (share of all tokens) of the string in that slot. Strings that were
    not seen on active tokens add nothing.
    """

    def __init__(self, base: Base, block: int) -> None:
        """`block`: most features at a time."""
        self._base = base
        self._table = np.zeros((block, len(base.strings[0])), np.float32)

    def scores(
        self,
        active: Active,
        position: NDArray[np.int64],
        groups: Sequence[Groups],
        asked: tuple[Stands, ...],
    ) -> tuple[NDArray[np.float32], ...]:
        """Fit to `active`, its positions in their rows and its strings in each slot, and score each
        of `asked` [F, K]; NaN where there is no token."""
        found = [np.zeros(part.missing.shape, np.float32) for part in asked]
        line = np.arange(len(active.count_F))[:, None]
        for slot in range(SLOTS):
            feature, string = groups[slot].feature, groups[slot].string
            self._table[feature, string] = groups[slot].places
            for scores, part in zip(found, asked, strict=True):
                own = part.strings[slot]
                safe = np.maximum(own, 0)
                count = self._table[line, safe]
                scores += np.where(own == NO_STRING, 0, self._weight(count, safe, slot, active))
            self._table[feature, string] = 0
        weight_FP = self._positions(active, position)
        for scores, part in zip(found, asked, strict=True):
            scores += weight_FP[line, position_bin(part.position)]
            scores[part.missing] = np.nan
        return tuple(found)

    def _weight(
        self, count: NDArray[np.float32], string: NDArray[np.int32], slot: int, active: Active
    ) -> NDArray[np.float32]:
        share = count / np.maximum(active.count_F, 1)[:, None]
        rate = np.maximum(self._base.strings[slot][string], 1e-9)
        return np.log1p(HALF_LIFT * share / rate).astype(np.float32)

    def _positions(self, active: Active, position: NDArray[np.int64]) -> NDArray[np.float32]:
        features = len(active.count_F)
        key = active.feature * POSITION_BINS + position_bin(position)
        counts = np.bincount(key, minlength=features * POSITION_BINS).reshape(features, -1)
        base_P = self._base.positions_P
        share = (counts + POSITION_PRIOR * base_P) / (counts.sum(1, keepdims=True) + POSITION_PRIOR)
        lift = np.where(base_P > 0, share / np.maximum(base_P, 1e-12), 1.0)
        return np.log(lift).astype(np.float32)


def threshold(
    positive_FP: NDArray[np.float32], negative_FQ: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The score above which a graded rule says "active": where, on the fitting half, the share of
    active tokens above it exceeds that of inactive ones by most; of 32 equally spaced values."""
    n_p = np.maximum((~np.isnan(positive_FP)).sum(1), 1)
    n_q = np.maximum((~np.isnan(negative_FQ)).sum(1), 1)
    every = np.nan_to_num(np.concatenate([positive_FP, negative_FQ], axis=1))
    low, high = every.min(1), every.max(1)
    best, found = np.full(len(low), -np.inf), low.astype(np.float32)
    for step in range(32):
        at = (low + (high - low) * (step / 32)).astype(np.float32)
        gain = (positive_FP > at[:, None]).sum(1) / n_p - (negative_FQ > at[:, None]).sum(1) / n_q
        found = np.where(gain > best, at, found)
        best = np.maximum(gain, best)
    return found
