"""Predicates fitted to the tokens on which features fire, and what one gives for any token.

Here are the rules that a label says in full: few strings of one place, or a class. They give 1
on what they name and 0 elsewhere.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.ml.features.labels.corpus import FIT, Corpus
from mistudio.ml.features.labels.draw import NOTHING, Active
from mistudio.ml.features.labels.strings import CLASSES, NO_STRING, START_OF_ROW
from mistudio.ml.features.order import group_starts, rank_within

TOKEN, PREVIOUS, NEXT = range(3)
SLOTS = 3
CONCENTRATED = 0.8  # share of the activation on few strings, or in one class
FEW = 3  # strings that a predicate names
LIFT = 1.5  # a class must hold this many times its share of the text
NO_CLASS = -1


class Rules(NamedTuple):
    """One predicate per feature: strings [F, T] of one slot, `NO_STRING` where there is none, or a
    class of `CLASSES` (else `NO_CLASS`) of the token in that slot (`TOKEN` or `NEXT`)."""

    string_FT: NDArray[np.int32]
    slot_F: NDArray[np.int32]
    class_F: NDArray[np.int32]

    def lines(self, chosen: NDArray[np.int64]) -> Rules:
        """Of some features only."""
        return Rules(*(one[chosen] for one in self))


def no_rules(features: int, terms: int = FEW) -> Rules:
    """Rules that give 0 on every token."""
    return Rules(
        np.full((features, terms), NO_STRING, np.int32),
        np.full(features, TOKEN, np.int32),
        np.full(features, NO_CLASS, np.int32),
    )


def apply(rules: Rules, stands: Stands) -> NDArray[np.float32]:
    """What each feature's predicate gives on its tokens; NaN where there is no token."""
    slot = rules.slot_F
    found = np.zeros(stands.strings[TOKEN].shape, bool)
    for number in range(SLOTS):
        here = np.flatnonzero((slot == number) & (rules.string_FT != NO_STRING).any(1))
        own = stands.strings[number][here]
        for term in range(rules.string_FT.shape[1]):
            string = rules.string_FT[here, term][:, None]
            found[here] |= (own == string) & (string != NO_STRING)
    classed = np.flatnonzero(rules.class_F != NO_CLASS)
    if classed.size:
        at_next = (slot[classed] == NEXT)[:, None]
        bits = np.where(at_next, stands.next_classes[classed], stands.classes[classed])
        wanted = rules.class_F[classed].astype(np.uint32)[:, None]
        found[classed] |= (bits >> wanted & np.uint32(1)).astype(bool)
    return np.where(stands.missing, np.float32(np.nan), found.astype(np.float32))


class Stands(NamedTuple):
    """What stands at tokens, in arrays of their shape: the string in each slot, the classes of the
    token and of the next, the position in the row, and where there is no token at all."""

    strings: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]
    classes: NDArray[np.uint32]
    next_classes: NDArray[np.uint32]
    position: NDArray[np.int64]
    missing: NDArray[np.bool_]

    def lines(self, chosen: NDArray[np.int64]) -> Stands:
        """Of some lines only."""
        first, second, third = (one[chosen] for one in self.strings)
        return Stands(
            (first, second, third),
            self.classes[chosen],
            self.next_classes[chosen],
            self.position[chosen],
            self.missing[chosen],
        )


def look(corpus: Corpus, token: NDArray[np.int64]) -> Stands:
    """What stands at tokens, `NOTHING` where there is none."""
    safe = np.maximum(token, 0)
    position = safe % corpus.row_length  # once: dividing is most of the work here
    after = np.minimum(safe + 1, corpus.string_T.size - 1)
    at_start, at_end = position == 0, position == corpus.row_length - 1
    following = corpus.string_T[after]
    following[at_end] = NO_STRING
    previous = corpus.string_T[np.maximum(safe - 1, 0)]
    previous[at_start] = NO_STRING
    next_classes = corpus.classes_T[after] & ~np.uint32(1 << START_OF_ROW)
    next_classes[at_end] = 0
    return Stands(
        (corpus.string_T[safe], previous, following),
        corpus.classes_T[safe],
        next_classes,
        position,
        token == NOTHING,
    )


class Heavy(NamedTuple):
    """Strings of one slot by feature, heaviest first: [F, T] ids and share of the activation;
    `NO_STRING` and 0 where there are fewer."""

    string_FT: NDArray[np.int32]
    share_FT: NDArray[np.float64]


def base_rates(corpus: Corpus) -> NDArray[np.float64]:
    """Share of the kept tokens of the fitting half that are each string."""
    counts = np.diff(corpus.starts_by_string[FIT])
    return counts / max(int(counts.sum()), 1)


def class_rates(corpus: Corpus) -> NDArray[np.float64]:
    """Share of the kept tokens of the fitting half that are of each class."""
    bits = corpus.classes_T[corpus.pool[FIT]]
    total = max(bits.size, 1)
    ones = [int((bits >> np.uint32(c) & np.uint32(1)).sum()) for c in range(len(CLASSES))]
    return np.array(ones) / total


class Groups(NamedTuple):
    """Active tokens of features by the string in one slot, sorted by feature, then string: the sum
    of activations and the number of tokens. `total_F`: each feature's activations in all."""

    feature: NDArray[np.int64]
    string: NDArray[np.int32]
    weight: NDArray[np.float64]
    places: NDArray[np.int64]
    total_F: NDArray[np.float64]


def group(active: Active, stands: Stands, slot: int) -> Groups:
    """Group active tokens by the string in a slot."""
    string = stands.strings[slot]
    inside = string != NO_STRING
    total_F = np.bincount(active.feature, active.value, len(active.count_F)).astype(np.float64)
    # the value goes along in the key: sorting numbers is much faster than sorting places
    key = active.feature[inside] << 48 | string[inside].astype(np.int64) << 16
    key |= active.bits[inside]
    if not key.size:
        empty = np.empty(0, np.int64)
        return Groups(empty, empty.astype(np.int32), np.empty(0), empty, total_F)
    key.sort()
    value = (key & 0xFFFF).astype(np.uint16).view(np.float16).astype(np.float64)
    key >>= 16
    starts = group_starts(key)
    # the sum of fp16 values is exact in double precision, whatever their order
    weight = np.add.reduceat(value, starts)
    count = np.diff(np.append(starts, key.size))
    return Groups(key[starts] >> 32, key[starts].astype(np.int32), weight, count, total_F)


def heavy(groups: Groups, terms: int) -> Heavy:
    """The `terms` strings with the most activation of each feature whose strings may be
    concentrated: one of them must hold a `terms`-th of `CONCENTRATED`. Ties: the smaller id."""
    features = len(groups.total_F)
    found = Heavy(
        np.full((features, terms), NO_STRING, np.int32),
        np.zeros((features, terms)),
    )
    if not groups.feature.size:
        return found
    # features without one string of enough activation are left out: they are never concentrated
    starts = group_starts(groups.feature)
    largest = np.maximum.reduceat(groups.weight, starts)
    line = groups.feature[starts]
    able_F = np.zeros(features, bool)
    able_F[line] = largest * terms >= CONCENTRATED * groups.total_F[line] * (1 - 1e-9)
    inside = np.flatnonzero(able_F[groups.feature])
    feature, string, weight = groups.feature[inside], groups.string[inside], groups.weight[inside]
    best = np.lexsort((string, -weight, feature))
    rank = rank_within(np.bincount(feature, minlength=features))
    chosen = best[rank < terms]
    line, place = feature[chosen], rank[rank < terms]
    found.string_FT[line, place] = string[chosen]
    found.share_FT[line, place] = weight[chosen] / groups.total_F[line]
    return found


def few_strings(top: Heavy) -> NDArray[np.int64]:
    """How many of the heaviest strings hold `CONCENTRATED` of the activation; 0: more than
    `FEW`."""
    held = np.cumsum(top.share_FT[:, :FEW], axis=1) >= CONCENTRATED - 1e-12
    return np.where(held.any(1), held.argmax(1) + 1, 0)


def predicate(slot: int, top: Heavy, many_F: NDArray[np.int64]) -> Rules:
    """Rules that name the first `many_F` strings of a slot."""
    rules = no_rules(len(many_F))
    inside = np.arange(FEW) < many_F[:, None]
    rules.string_FT[:] = np.where(inside, top.string_FT[:, :FEW], NO_STRING)
    rules.slot_F[:] = slot
    return rules


_RULE_BITS = np.uint32((1 << len(CLASSES)) - 1)  # the sets of words are only promoted


def _patterns(bits: NDArray[np.uint32]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """The different sets of classes, rising, and which one each is, through a table of all."""
    bits = bits & _RULE_BITS
    seen = np.zeros(1 << len(CLASSES), bool)
    seen[bits] = True
    patterns = np.flatnonzero(seen)
    code = np.empty(seen.size, np.int64)
    code[patterns] = np.arange(patterns.size)
    return patterns.astype(np.uint32), code[bits]


def class_rule(active: Active, stands: Stands, base_C: NDArray[np.float64]) -> Rules:
    """The class that holds `CONCENTRATED` of the activation and exceeds its share of the text by
    most, and at least `LIFT`-fold; else none."""
    features = len(active.count_F)
    total = np.maximum(np.bincount(active.feature, active.value, features), 1e-300)
    best = np.full(features, -np.inf)
    rules = no_rules(features)
    for slot, bits in ((TOKEN, stands.classes), (NEXT, stands.next_classes)):
        patterns_P, code = _patterns(bits)
        key = active.feature * len(patterns_P) + code
        weight_FP = np.bincount(key, active.value, features * len(patterns_P))
        member_PC = (patterns_P[:, None] >> np.arange(len(CLASSES), dtype=np.uint32)) & np.uint32(1)
        share_FC = weight_FP.reshape(features, -1) @ member_PC / total[:, None]
        for number in range(len(CLASSES)):
            share = share_FC[:, number]
            good = (share >= CONCENTRATED - 1e-12) & (share >= LIFT * base_C[number])
            better = good & (share - base_C[number] > best)
            best = np.where(better, share - base_C[number], best)
            rules.class_F[better] = number
            rules.slot_F[better] = slot
    return rules
