"""Which tokens a feature's labels are fitted and scored on: active ones, and three kinds of not.

Everything is chosen by hashes of (seed, feature, number of the draw): it depends neither on
order nor on how features are grouped.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.ml.features.labels.corpus import FIT, SCORE, Corpus
from mistudio.ml.features.order import rank_within
from mistudio.ml.features.sampling import hash_pairs

DRAWN = 4096  # active tokens of a feature looked at, evenly over the rows, of both halves together
JUDGED = 1024  # of those, of both halves together, from which tokens to score on are drawn
DECILES, PER_DECILE = 10, 10
POSITIVES = DECILES * PER_DECILE
RANDOM, SAME_STRING, NEIGHBOURS = 100, 50, 50  # negatives of each kind
SPARE = 2  # draws for each negative wanted: some turn out active
NOTHING = -1
_SALT = {"jitter": 11, "decile": 12, "random": 13, "same": 14, "neighbour": 15}


class Active(NamedTuple):
    """Active tokens of features low..high-1, drawn evenly, by feature and then by rising value.

    `feature` counts from 0; `bits` are the fp16 values, whose order is that of the values;
    `count_F` active tokens drawn of each feature, `start_F` where they begin.
    """

    feature: NDArray[np.int64]
    token: NDArray[np.int64]
    bits: NDArray[np.uint16]
    count_F: NDArray[np.int64]
    start_F: NDArray[np.int64]

    @property
    def value(self) -> NDArray[np.float64]:
        """The values, in units of the store."""
        return self.bits.view(np.float16).astype(np.float64)


class Drawn(NamedTuple):
    """Tokens to judge a rule by, `NOTHING` where there are fewer: active ones [F, P], inactive
    ones [F, Q]: `RANDOM` random ones, then those with the string of an active one, then those on
    which a neighbour is active."""

    positive_FP: NDArray[np.int64]
    negative_FQ: NDArray[np.int64]


def draw_active(corpus: Corpus, low: int, high: int, seed: int) -> tuple[Active, Active]:
    """The fitting half of at most `DRAWN` active tokens of each feature, and the scoring half of at
    most about `JUDGED` of these."""
    splits = corpus.splits_F[low : high + 1]
    counts = np.diff(splits)
    size = np.minimum(counts, DRAWN)
    feature = np.repeat(np.arange(high - low), size)
    rank = rank_within(size)
    entry = np.repeat(splits[:-1], size) + rank
    # of more than are looked at: one token of each of `DRAWN` equal stretches
    many = np.flatnonzero(counts > DRAWN)
    if many.size:
        k = np.arange(DRAWN)
        hashes = hash_pairs(seed + _SALT["jitter"], k[None, :], many[:, None] + low)
        place = _one_of(k, counts[many, None], DRAWN, hashes)
        entry[np.repeat(counts > DRAWN, size)] = (splits[many, None] + place).reshape(-1)
    token = np.asarray(corpus.tokens_E[entry]).astype(np.int64)
    half = corpus.half_R[token // corpus.row_length]
    held = np.flatnonzero(half == SCORE)
    step = np.maximum(size // JUDGED, 1)
    held = held[rank[held] % step[feature[held]] == 0]
    found = [
        _half(corpus, feature[inside], token[inside], entry[inside], high - low)
        for inside in (np.flatnonzero(half == FIT), held)
    ]
    return found[0], found[1]


def _half(
    corpus: Corpus,
    feature: NDArray[np.int64],
    token: NDArray[np.int64],
    entry: NDArray[np.int64],
    features: int,
) -> Active:
    bits = np.asarray(corpus.values_E[entry]).view(np.uint16)
    # one number of all three: sorting numbers is much faster than sorting places
    key = feature.astype(np.uint64) << np.uint64(48) | bits.astype(np.uint64) << np.uint64(32)
    key |= token.astype(np.uint64)
    key.sort()
    count_F = np.bincount(feature, minlength=features)
    start_F = np.cumsum(count_F) - count_F
    bits = (key >> np.uint64(32)).astype(np.uint16)
    # `feature` is in order already, and stays so
    return Active(feature, key.astype(np.uint32).astype(np.int64), bits, count_F, start_F)


def _one_of(
    k: NDArray[np.int64],
    count: NDArray[np.int64],
    parts: NDArray[np.int64] | int,
    hashes: NDArray[np.uint64],
) -> NDArray[np.int64]:
    """A hashed place in the k-th of `parts` equal stretches of 0..count-1 (`count` >= `parts`)."""
    low, high = k * count // parts, (k + 1) * count // parts
    width = np.maximum(high - low, 1).astype(np.uint64)
    return low + (hashes % width).astype(np.int64)


def draw(
    corpus: Corpus,
    active: Active,
    low: int,
    half: int,
    neighbours_FM: NDArray[np.int32] | None,
    seed: int,
) -> Drawn:
    """Positives and negatives of one half for features low.. of `active`.

    Positives: equally many of each decile of the active tokens, all of them if there are at most
    `POSITIVES`. Negatives are drawn with replacement among the kept tokens of the half on which
    the feature is not active.
    """
    features = len(active.count_F)
    index = np.arange(low, low + features)
    positive_FP = _positives(active, index, seed)
    same_FQ = _same_string(corpus, positive_FP, half, index, seed)
    random_FQ = _random(corpus, half, index, seed)
    drawn = [random_FQ, same_FQ]
    if neighbours_FM is not None and neighbours_FM.shape[1]:
        drawn.append(_neighbours(corpus, half, index, neighbours_FM[index], seed))
    negative_FQ = _inactive(corpus, index, drawn, (RANDOM, SAME_STRING, NEIGHBOURS))
    return Drawn(positive_FP, negative_FQ)


def _positives(active: Active, index: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """One of each hundredth of each feature's values by rank; all of few."""
    k = np.arange(POSITIVES)
    hashes = hash_pairs(seed + _SALT["decile"], k[None, :], index[:, None])
    count = active.count_F[:, None]
    few = count <= POSITIVES
    rank = np.where(few, k, _one_of(k, count, POSITIVES, hashes))
    missing = few & (k >= count)
    place = np.where(missing, 0, active.start_F[:, None] + rank)
    if not active.token.size:
        return np.full(place.shape, NOTHING)
    return np.where(missing, NOTHING, active.token[np.minimum(place, active.token.size - 1)])


def _random(corpus: Corpus, half: int, index: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    pool = corpus.pool[half]
    k = np.arange(SPARE * RANDOM)
    hashes = hash_pairs(seed + _SALT["random"] + 100 * half, k[None, :], index[:, None])
    if not pool.size:
        return np.full(hashes.shape, NOTHING)
    return pool[(hashes % np.uint64(pool.size)).astype(np.int64)]


def _same_string(
    corpus: Corpus, positive_FP: NDArray[np.int64], half: int, index: NDArray[np.int64], seed: int
) -> NDArray[np.int64]:
    """Other tokens with the string of an active one, for one active token after the other."""
    k = np.arange(SPARE * SAME_STRING)
    hashes = hash_pairs(seed + _SALT["same"] + 100 * half, k[None, :], index[:, None])
    like = positive_FP[:, k % positive_FP.shape[1]]
    string = corpus.string_T[np.maximum(like, 0)]
    starts = corpus.starts_by_string[half]
    first, many = starts[string], starts[string + 1] - starts[string]
    place = first + (hashes % np.maximum(many, 1).astype(np.uint64)).astype(np.int64)
    ordered = corpus.pool_by_string[half]
    if not ordered.size:
        return np.full(place.shape, NOTHING)
    found = ordered[np.minimum(place, ordered.size - 1)]
    return np.where((like < 0) | (many == 0), NOTHING, found)


def _neighbours(
    corpus: Corpus,
    half: int,
    index: NDArray[np.int64],
    neighbours_FM: NDArray[np.int32],
    seed: int,
) -> NDArray[np.int64]:
    """Tokens on which a neighbour is active, one neighbour after the other."""
    k = np.arange(2 * SPARE * NEIGHBOURS)  # half of them are rows of the other half
    hashes = hash_pairs(seed + _SALT["neighbour"] + 100 * half, k[None, :], index[:, None])
    other = neighbours_FM[:, k % neighbours_FM.shape[1]]
    known = other >= 0
    first = corpus.splits_F[np.maximum(other, 0)]
    many = np.where(known, corpus.splits_F[np.maximum(other, 0) + 1] - first, 0)
    place = first + (hashes % np.maximum(many, 1).astype(np.uint64)).astype(np.int64)
    if not len(corpus.tokens_E):
        return np.full(place.shape, NOTHING)
    found = np.asarray(corpus.tokens_E[np.minimum(place, len(corpus.tokens_E) - 1)])
    found = found.astype(np.int64)
    inside = (many > 0) & (corpus.half_R[found // corpus.row_length] == half)
    return np.where(inside, found, NOTHING)


def _inactive(
    corpus: Corpus,
    index: NDArray[np.int64],
    drawn: list[NDArray[np.int64]],
    wanted: tuple[int, ...],
) -> NDArray[np.int64]:
    """The first `wanted` of each kind on which the feature is not active."""
    every = np.concatenate(drawn, axis=1)
    free = every >= 0
    asked_FK = np.maximum(every, 0).astype(corpus.tokens_E.dtype)
    splits = corpus.splits_F[index[0] : index[-1] + 2].tolist()
    for line, (asked, lo, hi) in enumerate(zip(asked_FK, splits, splits[1:], strict=False)):
        if hi > lo:
            own = corpus.tokens_E[lo:hi]
            place = own.searchsorted(asked)
            free[line] &= own.take(place, mode="clip") != asked
    found, start = [], 0
    for kind, most in zip(drawn, wanted, strict=False):
        stop = start + kind.shape[1]
        found.append(_first(every[:, start:stop], free[:, start:stop], most))
        start = stop
    return np.concatenate(found, axis=1)


def _first(
    values_FK: NDArray[np.int64], free_FK: NDArray[np.bool_], most: int
) -> NDArray[np.int64]:
    """The first `most` free values of each line, `NOTHING` behind the last."""
    place = np.cumsum(free_FK, axis=1) - 1
    line, column = np.nonzero(free_FK & (place < most))
    found = np.full((len(values_FK), most), NOTHING)
    found[line, place[line, column]] = values_FK[line, column]
    return found
