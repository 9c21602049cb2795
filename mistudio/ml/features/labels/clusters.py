"""Words that a feature's neighbours share: of those that point, and those that fire, as it does.

Everything is read from the fitting half: neighbours' words are those of their rules, and who fires
together is counted on tokens drawn from it.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.ml.features.arrays import open_array
from mistudio.ml.features.labels.draw import NEIGHBOURS, POSITIVES, RANDOM, SAME_STRING, Active
from mistudio.ml.features.labels.strings import NO_STRING
from mistudio.ml.features.order import rank_within

PARTNERS = 4  # features that fire with one, beside as many decoder neighbours
SAMPLED = 64  # active tokens of a feature on which they are counted
LEAST_TOGETHER = 3  # of these tokens
LEAST_SHARING = 3  # neighbours that have a word
MOST_WORDS = 3
NOBODY = -1
_AT_ONCE = 4096  # features whose neighbours' words are sorted together
_TABLE = 1 << 17  # counts at a time


class RowFeatures(NamedTuple):
    """The row store's features: those of token t are features[splits[t]..splits[t + 1]]."""

    splits: NDArray[np.int64]
    features: NDArray[np.unsignedinteger]


def open_rows(folder: Path) -> RowFeatures | None:
    """The row store of a feature set, None if there is none."""
    if not (folder / "csr_splits.npy").is_file():
        return None
    return RowFeatures(
        open_array(folder / "csr_splits.npy"), open_array(folder / "csr_features.npy")
    )


def partners(
    rows: RowFeatures, active: Active, low: int, counts_F: NDArray[np.integer]
) -> NDArray[np.int32]:
    """The features that fire most with each of low.., [N, `PARTNERS`], `NOBODY` behind the last.

    By the tokens of a sample on which both fire over the root of the other's tokens, which orders
    as the cosine of two sets does; ties by index. `counts_F`: active tokens of every feature.
    """
    lines = len(active.count_F)
    size = np.minimum(active.count_F, SAMPLED)
    line = np.repeat(np.arange(lines), size)
    # evenly over the strengths, by which `active` is sorted
    place = active.start_F[line] + rank_within(size) * active.count_F[line] // size[line]
    token = active.token[place]
    first = rows.splits[token]
    many = rows.splits[token + 1] - first
    ends = np.cumsum(many)
    entry = np.arange(int(ends[-1]) if ends.size else 0) + np.repeat(first - (ends - many), many)
    many_L = np.bincount(line, many, lines).astype(np.int64)
    owner, other, together = _often(np.asarray(rows.features[entry]), many_L, len(counts_F))
    good = other != owner + low
    owner, other, together = owner[good], other[good], together[good]
    weight = together / np.sqrt(np.maximum(counts_F[other], 1))
    order = np.lexsort((other, -weight, owner))
    rank = rank_within(np.bincount(owner, minlength=lines))
    chosen = rank < PARTNERS
    found = np.full((lines, PARTNERS), NOBODY, np.int32)
    found[owner[order][chosen], rank[chosen]] = other[order][chosen]
    return found


def _often(
    features: NDArray[np.integer], many_L: NDArray[np.int64], n_features: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Features that are there `LEAST_TOGETHER` times or more: line, feature and how often, rising.

    The first many_L[0] belong to line 0, and so on. They are counted in a table of a few lines at a
    time, which fits near the processor and is several times as fast as sorting them.
    """
    found: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    step = max(1, _TABLE // max(n_features, 1))
    ends = np.cumsum(many_L)
    for first in range(0, len(many_L), step):
        many = many_L[first : first + step]
        stop = int(ends[first + len(many) - 1])
        line = np.repeat(np.arange(len(many)) * n_features, many)
        count = np.bincount(line + features[stop - int(many.sum()) : stop])
        place = np.flatnonzero(count >= LEAST_TOGETHER)
        found.append((place + first * n_features, count[place]))
    if not found:
        nothing = np.empty(0, np.int64)
        return nothing, nothing, nothing
    place, count = (np.concatenate(column) for column in zip(*found, strict=True))
    return place // n_features, place % n_features, count


class JudgedStrings:
    """The strings at the tokens that every feature's rules are judged on.

    They are needed again once it is known which words neighbours share, and kept in a file that
    goes with this object: 2.4 kB for a feature.
    """

    _MISSING = -2  # no token; a token may be of no string

    def __init__(self, features: int) -> None:
        inactive = RANDOM + SAME_STRING + NEIGHBOURS
        self._widths = (POSITIVES, inactive) * 2
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  closed in __exit__
        shape = (max(features, 1), sum(self._widths))
        self._string_FA = np.memmap(self._file, np.int32, "w+", shape=shape)

    def __enter__(self) -> JudgedStrings:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def keep(self, low: int, parts: Sequence[tuple[NDArray[np.int32], NDArray[np.bool_]]]) -> None:
        """Keep strings [N, K] of features low.., and where there is no token: of active tokens of
        the fitting half, of inactive ones, of both of the scoring half."""
        start = 0
        for (string_NK, missing_NK), width in zip(parts, self._widths, strict=True):
            lines, many = string_NK.shape
            held = self._string_FA[low : low + lines, start : start + width]
            held[:, :many] = np.where(missing_NK, self._MISSING, string_NK)
            held[:, many:] = self._MISSING
            start += width

    def named(
        self, features_N: NDArray[np.int64], string_NT: NDArray[np.int32]
    ) -> list[NDArray[np.float32]]:
        """For each of the four kinds of tokens 1 where a feature's strings name it, 0 elsewhere;
        NaN where there is none. `NO_STRING` names nothing."""
        own_NA = np.asarray(self._string_FA[features_N])
        found_NA = np.zeros(own_NA.shape, np.float32)
        for string_N in string_NT.T:
            found_NA[(own_NA == string_N[:, None]) & (string_N != NO_STRING)[:, None]] = 1
        found_NA[own_NA == self._MISSING] = np.nan
        return np.split(found_NA, np.cumsum(self._widths)[:-1], axis=1)


def shared_by(
    groups_FN: NDArray[np.int32],
    words_FW: NDArray[np.int32],
    rates_V: NDArray[np.floating],
    wanted_F: NDArray[np.bool_],
) -> dict[int, list[int]]:
    """`shared_words` of those of the wanted features that have some.

    `groups_FN`: each feature's neighbours, `NOBODY` among them; `words_FW`: each feature's words,
    `NO_STRING` behind the last.
    """
    found: dict[int, list[int]] = {}
    for start in range(0, len(groups_FN), _AT_ONCE):
        group_CN = groups_FN[start : start + _AT_ONCE]
        own_CK = np.where((group_CN == NOBODY)[..., None], NO_STRING, words_FW[group_CN])
        own_CK = np.sort(own_CK.reshape(len(group_CN), -1), axis=1)
        step = LEAST_SHARING - 1
        may_C = ((own_CK[:, step:] == own_CK[:, :-step]) & (own_CK[:, step:] != NO_STRING)).any(1)
        for feature in (start + np.flatnonzero(may_C)).tolist():
            if wanted_F[feature] and (
                words := shared_words(groups_FN[feature].tolist(), words_FW, rates_V)
            ):
                found[feature] = words
    return found


def shared_words(
    neighbours: Sequence[int], words_FW: NDArray[np.int32], rates_V: NDArray[np.floating]
) -> list[int]:
    """At most `MOST_WORDS` words that `LEAST_SHARING` of a feature's neighbours have, and half of
    them: those of most first, of equally many the rarer in the text, then the smaller id."""
    group = list(dict.fromkeys(n for n in neighbours if n != NOBODY))
    least = max(LEAST_SHARING, math.ceil(len(group) / 2))
    counts = Counter(word for line in words_FW[group].tolist() for word in set(line))
    counts.pop(NO_STRING, None)
    found = [word for word, count in counts.items() if count >= least]
    found.sort(key=lambda word: (-counts[word], float(rates_V[word]), word))
    return found[:MOST_WORDS]
