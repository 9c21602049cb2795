"""The three words that tell a feature's active tokens, or the text around them, from the rest."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.ml.features.labels.corpus import Corpus
from mistudio.ml.features.labels.draw import Active
from mistudio.ml.features.labels.profile import Base
from mistudio.ml.features.labels.rules import Groups
from mistudio.ml.features.labels.strings import CLASSES, NO_STRING, Strings
from mistudio.ml.features.order import group_starts, rank_within

WORDS = 3
WINDOWS, AROUND = 32, 8  # strongest active tokens, and tokens on each side of one
LEAST_SEEN = 2  # active tokens that hold a string
LEAST_WINDOWS = 0.2  # share of the windows that hold a word
LEAST_LETTERS = 3
_ENDING = np.uint32(1 << CLASSES.index("word endings"))


class Words(NamedTuple):
    """Up to `WORDS` strings per feature, most telling first, `NO_STRING` behind the last.

    A word that holds the share q of a feature's activation, or of its windows, and stands at the
    share p of all places tells q log(q / p); `told_F` is the sum over the words.
    """

    string_FW: NDArray[np.int32]
    told_F: NDArray[np.float64]


def whole_words(strings: Strings, vocabulary: list[str]) -> NDArray[np.bool_]:
    """Which vocabulary ids begin with a blank and are letters alone, at least `LEAST_LETTERS`."""
    found = [
        t[:1].isspace() and t.strip().isalpha() and len(t.strip()) >= LEAST_LETTERS
        for t in vocabulary
    ]
    return np.array(found, bool).reshape(len(strings.string_V))


def slot_words(groups: Groups, slot: int, base: Base) -> Words:
    """The most telling strings of one slot."""
    rate = np.maximum(base.strings[slot], 1e-9)
    least_F = np.full(len(groups.total_F), LEAST_SEEN)
    return _most_telling(groups, rate, least_F)


def window_words(corpus: Corpus, active: Active, word_T: NDArray[np.bool_], base: Base) -> Words:
    """The most telling whole words around the `WINDOWS` strongest active tokens; a word counts
    once for each window. `word_T`: tokens that begin a whole word."""
    features = len(active.count_F)
    size = np.minimum(active.count_F, WINDOWS)
    feature = np.repeat(np.arange(features), size)
    place = (active.start_F + active.count_F - size)[feature] + rank_within(size)
    token = active.token[place]
    length = corpus.row_length
    around = token[:, None] + np.arange(-AROUND, AROUND + 1)
    inside = around // length == token[:, None] // length
    around = np.clip(around, 0, corpus.string_T.size - 1)
    ends = (around + 1 >= corpus.string_T.size) | (
        (corpus.classes_T[np.minimum(around + 1, corpus.string_T.size - 1)] & _ENDING) == 0
    )
    window, column = np.nonzero(inside & word_T[around] & ends)
    string = corpus.string_T[around[window, column]]
    once = window.astype(np.int64) << 32 | string
    once.sort()
    once = once[group_starts(once)] if once.size else once
    window, string = once >> 32, once & 0xFFFFFFFF
    expected = 1.0 - (1.0 - base.strings[0]) ** (2 * AROUND + 1)
    least_F = np.maximum(LEAST_SEEN, np.ceil(LEAST_WINDOWS * size)).astype(np.int64)
    key = feature[window] << 32 | string
    key.sort()
    starts = group_starts(key) if key.size else np.empty(0, np.int64)
    count = np.diff(np.append(starts, key.size))
    key = key[starts]
    groups = Groups(key >> 32, key.astype(np.int32), count.astype(np.float64), count, size)
    return _most_telling(groups, np.maximum(expected, 1e-9), least_F)


def _most_telling(groups: Groups, rate_U: NDArray[np.float64], least_F: NDArray[np.int64]) -> Words:
    """Strings at fewer than `least_F` places are left out. Ties go to the smaller string id."""
    features = len(groups.total_F)
    found = Words(np.full((features, WORDS), NO_STRING, np.int32), np.zeros(features))
    share = groups.weight / groups.total_F[groups.feature]
    good = (groups.places >= least_F[groups.feature]) & (share > rate_U[groups.string])
    of, which, share = groups.feature[good], groups.string[good], share[good]
    told = share * np.log(share / rate_U[which])
    best = np.lexsort((which, -told, of))
    rank = rank_within(np.bincount(of, minlength=features))
    chosen = best[rank < WORDS]
    found.string_FW[of[chosen], rank[rank < WORDS]] = which[chosen]
    np.add.at(found.told_F, of[chosen], told[chosen])
    return found
