"""Words that a feature's neighbours share: of those that point, and those that fire, as it does.

Everything is read from the fitting half: neighbours' words are those of their rules, and who fires
together is counted on tokens drawn from it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.ml.features.arrays import open_array
from mistudio.ml.features.labels.draw import Active
from mistudio.ml.features.order import rank_within

PARTNERS = 4  # features that fire with one, beside as many decoder neighbours
SAMPLED = 64  # active tokens of a feature on which they are counted
LEAST_TOGETHER = 3  # of these tokens
LEAST_SHARING = 3  # neighbours that have a word
MOST_WORDS = 3
NOBODY = -1


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
    lines, features = len(active.count_F), len(counts_F)
    size = np.minimum(active.count_F, SAMPLED)
    line = np.repeat(np.arange(lines), size)
    # evenly over the strengths, by which `active` is sorted
    place = active.start_F[line] + rank_within(size) * active.count_F[line] // size[line]
    token = active.token[place]
    first = rows.splits[token]
    many = rows.splits[token + 1] - first
    entry = np.repeat(first, many) + rank_within(many)
    key = np.repeat(line, many) * features + rows.features[entry].astype(np.int64)
    key, together = np.unique(key, return_counts=True)
    owner, other = np.divmod(key, features)
    good = (together >= LEAST_TOGETHER) & (other != owner + low)
    owner, other, together = owner[good], other[good], together[good]
    weight = together / np.sqrt(np.maximum(counts_F[other], 1))
    order = np.lexsort((other, -weight, owner))
    rank = rank_within(np.bincount(owner, minlength=lines))
    chosen = rank < PARTNERS
    found = np.full((lines, PARTNERS), NOBODY, np.int32)
    found[owner[order][chosen], rank[chosen]] = other[order][chosen]
    return found


def shared_words(
    neighbours: Sequence[int],
    words_of: Mapping[int, Sequence[int]],
    rates_V: NDArray[np.floating],
) -> list[int]:
    """At most `MOST_WORDS` words that `LEAST_SHARING` of a feature's neighbours have, and half of
    them: those of most first, of equally many the rarer in the text, then the smaller id."""
    group = list(dict.fromkeys(n for n in neighbours if n != NOBODY))
    least = max(LEAST_SHARING, math.ceil(len(group) / 2))
    counts = Counter(word for one in group for word in set(words_of.get(one, ())))
    found = [word for word, count in counts.items() if count >= least]
    found.sort(key=lambda word: (-counts[word], float(rates_V[word]), word))
    return found[:MOST_WORDS]
