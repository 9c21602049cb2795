"""Short stretches of the text that a feature set was read from: a feature's strongest, and any.

Each window is read as a text of its own: it begins with the row's start token if the row has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.ml.data.token_store import CONTENT
from mistudio.ml.data.token_store import PADDING as NO_TOKEN
from mistudio.ml.data.token_store import SPECIAL as SPECIAL_TOKEN
from mistudio.ml.features import feature_store
from mistudio.ml.features.arrays import open_array
from mistudio.ml.features.feature_store import FeatureStore
from mistudio.ml.features.sampling import hash_tokens

_ANY = (1 << 31) - 1  # stands for a feature in hashes that are of none


class Windows(NamedTuple):
    """W windows of S tokens: ids int64 and a token store's mask uint8, [W, S]; padding at the end.

    `rows_W` counts rows of the harvest; `columns_WS` is where each token stands in its row.
    """

    ids_WS: NDArray[np.int64]
    mask_WS: NDArray[np.uint8]
    rows_W: NDArray[np.int64]
    columns_WS: NDArray[np.int64]

    def take(self, which: Any) -> Windows:
        """Those that an index array or a slice names."""
        return Windows(
            self.ids_WS[which], self.mask_WS[which], self.rows_W[which], self.columns_WS[which]
        )


class WindowReader:
    """Cuts windows of `length` tokens, or of a row if that is shorter, from a set's text."""

    def __init__(self, store: FeatureStore, length: int) -> None:
        self._store = store
        self.length = min(length, store.row_length)
        self._ids_RS = open_array(store.folder / "ids.npy").reshape(-1, store.row_length)
        self._mask_RS = open_array(store.folder / "mask.npy").reshape(-1, store.row_length)

    @property
    def rows(self) -> int:
        """Rows of the harvest."""
        return len(self._mask_RS)

    def top(self, feature: int, count: int) -> Windows:
        """Windows around the strongest token of each of the feature's `count` strongest rows."""
        return self._around(*top_places(self._store, feature, count))

    def any(self, count: int, seed: int) -> Windows:
        """Windows at `count` rows and places chosen by a hash, of rows that hold text that counts.

        The same for every feature.
        """
        hashes_R = hash_tokens(seed, np.arange(self.rows, dtype=np.uint32), _ANY)
        rows: list[int] = []
        places: list[int] = []
        for row in np.argsort(hashes_R, kind="stable").tolist():
            kept = np.flatnonzero(self._mask_RS[row] == feature_store.KEPT)
            if kept.size:
                rows.append(row)
                places.append(int(kept[int(hashes_R[row] >> np.uint64(32)) % kept.size]))
            if len(rows) == count:
                break
        return self._around(np.array(rows, np.int64), np.array(places, np.int64))

    def _around(self, rows_W: NDArray[np.int64], places_W: NDArray[np.int64]) -> Windows:
        """Windows of these rows with the given position in their middle, or as near as can be."""
        columns_WS = np.empty((len(rows_W), self.length), np.int64)
        for index, (row, place) in enumerate(zip(rows_W.tolist(), places_W.tolist(), strict=True)):
            mask_S = np.asarray(self._mask_RS[row])
            filled = int(np.flatnonzero(mask_S != feature_store.PADDING)[-1]) + 1
            last = max(0, min(filled, self._store.row_length) - self.length)
            start = min(max(0, place - self.length // 2), last)
            columns_WS[index] = np.arange(start, start + self.length)
            if mask_S[0] == feature_store.SPECIAL:
                columns_WS[index, 0] = 0
        ids_WS = np.take_along_axis(self._ids_RS[rows_W], columns_WS, 1).astype(np.int64)
        told_WS = np.take_along_axis(self._mask_RS[rows_W], columns_WS, 1)
        mask_WS = np.full(told_WS.shape, CONTENT, np.uint8)  # norms are judged again where read
        mask_WS[told_WS == feature_store.SPECIAL] = SPECIAL_TOKEN
        mask_WS[told_WS == feature_store.PADDING] = NO_TOKEN
        return Windows(ids_WS, mask_WS, rows_W, columns_WS)


def top_places(
    store: FeatureStore, feature: int, count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and positions of the strongest token in each of the `count` strongest rows.

    Strongest first; ties go to the earlier row and position, as in the feature's examples.
    """
    tokens, values = store.entries(feature)
    if not tokens.size:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    order = np.lexsort((tokens, -values))
    rows = tokens[order].astype(np.int64) // store.row_length
    _, first = np.unique(rows, return_index=True)
    chosen = order[np.sort(first)[:count]]
    found = np.divmod(tokens[chosen].astype(np.int64), store.row_length)
    return found[0], found[1]


def values_elsewhere(
    store: FeatureStore, feature: int, windows: Windows, rows: int, seed: int
) -> NDArray[np.float64]:
    """[W, S]: the feature's stored activations at the same positions of another row each.

    The row is chosen by a hash of the window's row and the feature, and is never its own; with a
    single row there is no other, and all are 0.
    """
    found_WS = np.zeros(windows.columns_WS.shape)
    if rows < 2:
        return found_WS
    hashes_W = hash_tokens(seed, windows.rows_W.astype(np.uint32), feature)
    other_W = (hashes_W % np.uint64(rows - 1)).astype(np.int64)
    other_W += other_W >= windows.rows_W
    wanted_WS = other_W[:, None] * store.row_length + windows.columns_WS
    tokens, values = store.entries(feature)
    if tokens.size:
        at_WS = np.searchsorted(tokens, wanted_WS.astype(tokens.dtype)).clip(max=tokens.size - 1)
        found_WS = np.where(tokens[at_WS] == wanted_WS, values[at_WS], 0.0)
    return found_WS


def stack(windows: Sequence[Windows]) -> Windows:
    """Windows one after the other."""
    return Windows(
        np.concatenate([part.ids_WS for part in windows]),
        np.concatenate([part.mask_WS for part in windows]),
        np.concatenate([part.rows_W for part in windows]),
        np.concatenate([part.columns_WS for part in windows]),
    )
