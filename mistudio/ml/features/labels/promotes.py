"""Labels from the output side: the tokens, or the class of tokens, that a direction promotes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.ml.features.arrays import open_array
from mistudio.ml.features.labels.rules import NEXT, Rules, no_rules
from mistudio.ml.features.labels.strings import (
    EVERY_CLASS,
    NO_STRING,
    START_OF_ROW,
    Strings,
    plain,
)
from mistudio.ml.features.labels.word_lists import WORD_LISTS

SKEWED = 3.0  # skew of the logits above which few tokens stand out
STANDS_OUT = 0.5  # share of the largest logit that a promoted token reaches
SHOWN = 3
OF_LISTS = 48  # words of each list that are in the sample in any case
SAMPLE = 2048  # vocabulary entries over which enrichment is measured
RANDOM_SETS = 400
LEAST_MEMBERS = 8  # of a class within the sample
SIGNIFICANT = 6.0  # z above which a class is a label


class Promoted(NamedTuple):
    """The class of tokens that each direction promotes most: class (-1: none reaches
    `SIGNIFICANT`), its enrichment score and z against random sets of the same size."""

    class_F: NDArray[np.int32]
    score_F: NDArray[np.float64]
    z_F: NDArray[np.float64]


def lens_rules(
    folder: Path, strings: Strings, vocabulary: list[str], low: int, high: int
) -> tuple[Rules, list[str]] | None:
    """ "promotes X" for features low..high-1 whose logits are skewed; None without a lens."""
    if not (folder / "lens_skew.npy").is_file():
        return None
    skew_F = np.asarray(open_array(folder / "lens_skew.npy")[low:high])
    ids_FK = np.asarray(open_array(folder / "lens_positive_ids.npy")[low:high])
    logit_FK = np.asarray(open_array(folder / "lens_positive_logits.npy")[low:high])
    found = no_rules(high - low, ids_FK.shape[1])
    found.slot_F[:] = NEXT
    texts = []
    for line in range(high - low):
        if not skew_F[line] > SKEWED:
            texts.append("")
            continue
        strong = ids_FK[line][logit_FK[line] >= STANDS_OUT * logit_FK[line, 0]]
        strong = strong[strong < len(strings.string_V)]
        found.string_FT[line, : len(strong)] = strings.string_V[strong]
        named = list(dict.fromkeys(vocabulary[i].strip() or plain(vocabulary[i]) for i in strong))
        texts.append("promotes " + ", ".join(f'"{name}"' for name in named[:SHOWN]))
    return found, texts


def set_rules(promoted: Promoted, low: int, high: int) -> tuple[Rules, list[str]]:
    """ "promotes digits": the next token is of the enriched class."""
    found = no_rules(high - low)
    found.slot_F[:] = NEXT
    found.class_F[:] = promoted.class_F[low:high]
    return found, [f"promotes {EVERY_CLASS[c]}" if c >= 0 else "" for c in found.class_F]


def sample_vocabulary(
    used_V: NDArray[np.integer], seed: int, classes_V: NDArray[np.uint32] | None = None
) -> NDArray[np.int64]:
    """`SAMPLE` of the vocabulary ids that occur in the text (all of fewer), drawn with `seed`.

    Sets of few words would hardly be in it: at most `OF_LISTS` of each are drawn beside it.
    Rising.
    """
    ids = np.unique(used_V)
    if ids.size <= SAMPLE:
        return ids.astype(np.int64)
    generator = np.random.default_rng([seed, 0x6C656E73])
    parts = [generator.choice(ids, SAMPLE, replace=False)]
    for name in WORD_LISTS if classes_V is not None else ():
        assert classes_V is not None
        bit = np.uint32(EVERY_CLASS.index(name))
        mine = ids[(classes_V[ids] >> bit & np.uint32(1)).astype(bool)]
        parts.append(generator.choice(mine, min(OF_LISTS, mine.size), replace=False))
    return np.unique(np.concatenate(parts)).astype(np.int64)


def running_sum(member_NV: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The signed enrichment score of each line, whose entries are sorted by falling logit.

    The sum runs over the entries, +1/|S| for a member and -1/(V - |S|) for another; the score is
    its value where it is farthest from 0 (Subramanian 2005, unweighted). All lines have as many
    members, at least one, and others beside them.
    """
    lines, size = member_NV.shape
    many = int(member_NV[0].sum()) if lines else 1
    # the sum of those that are no members is the negative one: the fewer are gone through
    few = 2 * many <= size
    count = many if few else size - many
    inside = np.flatnonzero(member_NV if few else ~member_NV).reshape(lines, count)
    place = inside - (np.arange(lines) * size)[:, None]  # much faster than places in two dimensions
    # behind the k-th of them; it is highest behind one, and lowest before one
    k = np.arange(1, count + 1)
    behind = k / count - (place + 1 - k) / (size - count)
    high, low = behind.max(1, initial=0.0), (behind - 1 / count).min(1, initial=0.0)
    if not few:
        high, low = -low, -high
    return np.where(high >= -low, high, low)


def null_of(members: int, size: int, seed: int) -> tuple[float, float]:
    """Mean and standard deviation of the enrichment score of random sets of that size.

    A random set's places in the order are the same for every direction, so one null serves all.
    """
    generator = np.random.default_rng([seed, members, size])
    member = np.zeros((RANDOM_SETS, size), bool)
    member[:, :members] = True
    drawn = generator.permuted(member, axis=1)
    scores = running_sum(drawn)
    positive = scores[scores > 0]
    if positive.size < 2:
        return 0.0, float("inf")
    return float(positive.mean()), float(positive.std(ddof=1))


def falling(logits_NV: NDArray[np.float32]) -> NDArray[np.int64]:
    """Places of the entries of each line by falling value, of equal ones in their order.

    Value and place are sorted as one number, which is several times as fast as sorting places.
    """
    bits = (np.float32(0) - logits_NV).view(np.uint32)  # zeros are all positive
    rising = np.where(bits >> np.uint32(31), ~bits, bits | np.uint32(1 << 31))
    key = rising.astype(np.uint64) << np.uint64(32)
    key |= np.arange(logits_NV.shape[1], dtype=np.uint64)
    key.sort(axis=1)
    return (key & np.uint64(0xFFFFFFFF)).astype(np.int64)


class Enrichment:
    """Measures which class of `EVERY_CLASS` stands highest in the order of a direction's logits."""

    def __init__(self, classes_V: NDArray[np.uint32], seed: int) -> None:
        """`classes_V`: of the vocabulary sample that logits are given for."""
        self._classes_V = classes_V
        self._nulls: list[tuple[int, tuple[float, float]]] = []
        for number in range(len(EVERY_CLASS)):
            many = int((classes_V >> np.uint32(number) & np.uint32(1)).sum())
            if number != START_OF_ROW and LEAST_MEMBERS <= many <= classes_V.size - LEAST_MEMBERS:
                self._nulls.append((number, null_of(many, classes_V.size, seed)))

    def __call__(self, logits_NV: NDArray[np.float32]) -> Promoted:
        """The most enriched class of each line; equal logits keep the order of the sample."""
        classes = self._classes_V[falling(logits_NV)]
        lines = len(logits_NV)
        best = Promoted(
            np.full(lines, NO_STRING, np.int32), np.zeros(lines), np.full(lines, -np.inf)
        )
        for number, (mean, deviation) in self._nulls:
            score = running_sum((classes & np.uint32(1 << number)) != 0)
            z = (score - mean) / deviation
            better = z > best.z_F
            best.class_F[better] = number
            best.score_F[better] = score[better]
            best.z_F[better] = z[better]
        best.class_F[best.z_F < SIGNIFICANT] = -1
        return best
