"""Sparse activations over tokens held in memory or mapped from a store, row- and column-wise."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.core.errors import Mismatch
from mistudio.ml.features.arrays import open_array
from mistudio.ml.features.feature_store import FeatureStore
from mistudio.ml.sae.selection import SparseCodes


class TokenCodes(NamedTuple):
    """Activations of F features on tokens, by token and by feature; only non-zero ones.

    Entries row_splits[t]..row_splits[t+1] belong to token t, column_splits[f].. to feature f;
    activations are value * scale. `tokens` is how many tokens count, those without any entry
    included.
    """

    row_splits: NDArray[np.int64]
    row_features: NDArray[np.integer]
    row_values: NDArray[np.floating]
    column_splits: NDArray[np.int64]
    column_tokens: NDArray[np.integer]
    column_values: NDArray[np.floating]
    scale: float
    tokens: int

    @property
    def firings_F(self) -> NDArray[np.int64]:
        """Tokens on which each feature is active."""
        return np.diff(self.column_splits)


class CodeLog:
    """Keeps the activations of the first `most` tokens that it is told of."""

    def __init__(self, n_latents: int, most: int) -> None:
        self.n_latents, self.most, self.tokens = n_latents, most, 0
        self._parts: list[tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]] = []

    def add(self, codes: SparseCodes) -> None:
        """Take in the latents of a batch of tokens."""
        count = min(codes.row_splits.numel() - 1, self.most - self.tokens)
        if count <= 0:
            return
        last = int(codes.row_splits[count])
        ids = codes.ids[:last].cpu().numpy().astype(np.int32)
        values = codes.values[:last].float().cpu().numpy()
        token = codes.rows[:last].cpu().numpy().astype(np.int64) + self.tokens
        active = values != 0
        self._parts.append((token[active], ids[active], values[active]))
        self.tokens += count

    def codes(self) -> TokenCodes:
        """Everything kept, by token and by feature."""
        empty = (np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
        token, ids, values = (np.concatenate(c) for c in zip(empty, *self._parts, strict=True))
        order = np.argsort(ids, kind="stable")
        return TokenCodes(
            _splits(token, self.tokens),
            ids,
            values,
            _splits(ids, self.n_latents),
            token[order],
            values[order],
            1.0,
            self.tokens,
        )


def _splits(owner: NDArray[np.integer], count: int) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=count))]).astype(np.int64)


def stored_codes(store: FeatureStore) -> TokenCodes:
    """The activations of a feature store, memory-mapped; its masked tokens have no entry."""
    names = ("csr_splits", "csr_features", "csr_values", "csc_splits", "csc_tokens", "csc_values")
    arrays = [open_array(store.folder / f"{name}.npy") for name in names]
    return TokenCodes(*arrays, store.scale, store.kept_tokens)  # type: ignore[call-arg]


def same_tokens(first: FeatureStore, second: FeatureStore) -> bool:
    """Whether two stores read the same tokens: rows, ids and masks are equal."""
    if (first.row_length, first.kept_tokens) != (second.row_length, second.kept_tokens):
        return False
    for name in ("rows", "ids", "mask"):
        one, other = (open_array(store.folder / f"{name}.npy") for store in (first, second))
        if one.shape != other.shape or not np.array_equal(one, other):
            return False
    return True


def require_same_tokens(first: TokenCodes, second: TokenCodes) -> None:
    """Raise `Mismatch` unless two sets of codes are of equally many tokens."""
    if (first.tokens, len(first.row_splits)) != (second.tokens, len(second.row_splits)):
        raise Mismatch("The two SAEs were not read on the same tokens.")
