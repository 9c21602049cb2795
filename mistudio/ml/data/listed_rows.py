"""Rows whose mask tells which positions are left out, whatever token stands there.

Everything that asks a mask whether a token counts then leaves them out: this is the one place
where a list of positions enters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mistudio.ml.data.row_table import MixedTokens, RowTable
from mistudio.ml.data.token_store import LISTED, PADDING, RowGroup, TokenStore


def listed(mask_BS: np.ndarray, positions: Sequence[int]) -> np.ndarray:
    """A mask uint8 [B, S], with `LISTED` added at these of its positions unless they are padding.

    Positions that rows of this length do not have are passed over.
    """
    if not len(positions):
        return mask_BS
    return _marked(mask_BS, _flags(positions, mask_BS.shape[1]))


class ListedRows:
    """A table of rows as it is, but for its mask."""

    def __init__(self, table: RowTable, positions: Sequence[int]) -> None:
        self._table = table
        self.mask = _ListedMask(table.mask, _flags(positions, table.context))

    @property
    def ids(self) -> Any:
        return self._table.ids

    @property
    def docs(self) -> Any:
        return self._table.docs

    @property
    def meta(self) -> Mapping[str, Any]:
        return self._table.meta

    @property
    def context(self) -> int:
        return self._table.context

    def __len__(self) -> int:
        return len(self._table)

    def rows(self, part: str) -> Sequence[int]:
        return self._table.rows(part)

    def groups(self, part: str) -> list[RowGroup]:
        return self._table.groups(part)


def with_listed(table: RowTable, positions: Sequence[int]) -> RowTable:
    """The rows with these positions left out; the table itself if there are none."""
    return ListedRows(table, positions) if len(positions) else table


def text_rows(
    stores: Sequence[TokenStore], weights: Sequence[float], positions: Sequence[int]
) -> RowTable:
    """The rows of one text or of several by weight, with these positions left out."""
    tables = [with_listed(store, positions) for store in stores]
    return tables[0] if len(tables) == 1 else MixedTokens(tables, weights)


class _ListedMask:
    """A mask [rows, context] that is marked where it is read."""

    def __init__(self, mask: Any, flag_S: np.ndarray) -> None:
        self._mask, self._flag_S = mask, flag_S

    def __getitem__(self, index: Any) -> np.ndarray:
        chosen = self._flag_S[index[1]] if isinstance(index, tuple) else self._flag_S
        return _marked(np.asarray(self._mask[index]), chosen)


def _marked(mask: np.ndarray, flag: np.ndarray) -> np.ndarray:
    return np.where(flag & (mask != PADDING), mask | np.uint8(LISTED), mask).astype(np.uint8)


def _flags(positions: Sequence[int], context: int) -> np.ndarray:
    flag_S = np.zeros(context, dtype=bool)
    flag_S[[position for position in positions if position < context]] = True
    return flag_S
