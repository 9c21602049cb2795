"""What labels are made from: the activations by feature, the text by token, rows in two halves."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.ml.features.arrays import open_array
from mistudio.ml.features.feature_store import KEPT, PADDING
from mistudio.ml.features.labels.strings import (
    FIRST_TOKENS,
    NO_STRING,
    START_OF_ROW,
    Strings,
)
from mistudio.ml.features.sampling import hash_tokens

FIT, SCORE = 0, 1  # the halves
_SPLIT = 0x73706C  # the hash of the split is that of no feature


class Corpus(NamedTuple):
    """A harvest as rules read it. A token number T is row * row length + position.

    Entries splits_F[i]..splits_F[i+1] belong to feature i, tokens rising; values are in units of
    the store. `string_T` and `classes_T` say what stands at a token; `kept_T` whether it counts;
    `half_R` the half of each row. `pool`: the kept tokens of each half; `pool_by_string`: the
    same ordered by string, with the place where each string begins.
    """

    splits_F: NDArray[np.int64]
    tokens_E: NDArray[np.uint32]
    values_E: NDArray[np.float16]
    row_length: int
    string_T: NDArray[np.int32]
    classes_T: NDArray[np.uint32]
    kept_T: NDArray[np.bool_]
    half_R: NDArray[np.uint8]
    pool: tuple[NDArray[np.int64], NDArray[np.int64]]
    pool_by_string: tuple[NDArray[np.int64], NDArray[np.int64]]
    starts_by_string: tuple[NDArray[np.int64], NDArray[np.int64]]
    strings: Strings

    @property
    def n_features(self) -> int:
        return len(self.splits_F) - 1

    def previous(self, tokens: NDArray[np.integer]) -> NDArray[np.int32]:
        """The string before each token, `NO_STRING` at the start of a row."""
        found = self.string_T[np.maximum(tokens.astype(np.int64) - 1, 0)]
        return np.where(tokens % self.row_length == 0, np.int32(NO_STRING), found)

    def following(self, tokens: NDArray[np.integer]) -> NDArray[np.int32]:
        """The string after each token, `NO_STRING` at the end of a row or of its text."""
        last = self.row_length - 1
        after = np.minimum(tokens.astype(np.int64) + 1, self.string_T.size - 1)
        return np.where(tokens % self.row_length == last, np.int32(NO_STRING), self.string_T[after])

    def following_classes(self, tokens: NDArray[np.integer]) -> NDArray[np.uint32]:
        """The classes of the token after each token."""
        last = self.row_length - 1
        after = np.minimum(tokens.astype(np.int64) + 1, self.string_T.size - 1)
        own = self.classes_T[after] & ~np.uint32(1 << START_OF_ROW)
        return np.where(tokens % self.row_length == last, np.uint32(0), own)


def halves(rows: int, seed: int) -> NDArray[np.uint8]:
    """The half of each row, `FIT` or `SCORE`, by a hash of `seed` and its number."""
    numbers = np.arange(rows, dtype=np.uint32)
    return (hash_tokens(seed, numbers, _SPLIT) & np.uint64(1)).astype(np.uint8)


def read_corpus(folder: Path, row_length: int, strings: Strings, seed: int) -> Corpus:
    """The corpus of a finished feature store; raises `Damaged` if files are missing."""
    splits_F, tokens_E, values_E, ids_T, mask_T = (
        open_array(folder / f"{name}.npy")
        for name in ("csc_splits", "csc_tokens", "csc_values", "ids", "mask")
    )
    return make_corpus(splits_F, tokens_E, values_E, ids_T, mask_T, row_length, strings, seed)


def make_corpus(
    splits_F: NDArray[np.int64],
    tokens_E: NDArray[np.uint32],
    values_E: NDArray[np.float16],
    ids_T: NDArray[np.int32],
    mask_T: NDArray[np.uint8],
    row_length: int,
    strings: Strings,
    seed: int,
) -> Corpus:
    """A corpus from its arrays; rows are halved by a hash of `seed` and the row."""
    ids_T, mask_T = np.asarray(ids_T).reshape(-1), np.asarray(mask_T).reshape(-1)
    kept_T = mask_T == KEPT
    inside = (ids_T >= 0) & (ids_T < len(strings.string_V)) & (mask_T != PADDING)
    safe_T = np.where(inside, ids_T, 0)
    string_T = np.where(inside, strings.string_V[safe_T], np.int32(NO_STRING))
    classes_T = np.where(inside, strings.classes_V[safe_T], np.uint32(0))
    classes_T = classes_T.reshape(-1, row_length)
    classes_T[:, :FIRST_TOKENS] |= np.uint32(1 << START_OF_ROW)
    half_R = halves(ids_T.size // row_length, seed)
    half_T = np.repeat(half_R, row_length)
    pools, ordered, starts = [], [], []
    for half in (FIT, SCORE):
        pool = np.flatnonzero(kept_T & (half_T == half))
        own = string_T[pool]
        pools.append(pool)
        ordered.append(pool[np.argsort(own, kind="stable")])
        counts = np.bincount(own, minlength=len(strings.texts))
        starts.append(np.concatenate([[0], np.cumsum(counts)]))
    return Corpus(
        np.asarray(splits_F),
        tokens_E,
        values_E,
        row_length,
        string_T,
        classes_T.reshape(-1),
        kept_T,
        half_R,
        (pools[0], pools[1]),
        (ordered[0], ordered[1]),
        (starts[0], starts[1]),
        strings,
    )
