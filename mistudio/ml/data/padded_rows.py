"""Rows of unequal length, stored one after the other, read as if they were padded."""

from __future__ import annotations

from typing import Any

import numpy as np


class PaddedRows(np.lib.mixins.NDArrayOperatorsMixin):
    """A read-only array [rows, width, ...] over values that are stored without padding.

    Indexing gives what the padded array would give, as a fresh numpy array; only the rows asked
    for are read. Comparisons and `np.asarray` pad everything.
    """

    def __init__(self, values_T: np.ndarray, starts: np.ndarray, width: int, padding: int) -> None:
        """`starts` [rows + 1] says where each row begins in `values_T`, and where the last ends."""
        self._values_T, self._starts, self._padding = values_T, starts, padding
        self.shape = (len(starts) - 1, width, *values_T.shape[1:])
        self.dtype = values_T.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values with padding."""
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("padded rows are made on reading")
        rows = self._padded(np.arange(len(self)))
        return rows if dtype is None else rows.astype(dtype)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        arrays = [np.asarray(x) if isinstance(x, PaddedRows) else x for x in inputs]
        return getattr(ufunc, method)(*arrays, **options)

    def __getitem__(self, key: Any) -> Any:
        chosen, *rest = key if isinstance(key, tuple) else (key,)
        if isinstance(chosen, (int, np.integer)):
            if not -len(self) <= chosen < len(self):
                raise IndexError(f"row {chosen} of {len(self)}")
            return self._padded(np.array([chosen % len(self)]))[(0, *rest)]
        if isinstance(chosen, slice):
            return self._padded(np.arange(len(self))[chosen])[(slice(None), *rest)]
        picked = np.asarray(chosen) if isinstance(chosen, (list, range, np.ndarray)) else None
        if picked is None or picked.ndim != 1:
            return np.asarray(self)[key]
        rows = np.arange(len(self))[picked]
        positions = rest[0] if rest else slice(None)
        if isinstance(positions, slice):
            return self._padded(rows)[(slice(None), *rest)]
        places = np.arange(self.shape[1])[np.asarray(positions)]
        found = self._single(*np.broadcast_arrays(rows, places))
        return found[(Ellipsis, *rest[1:])] if rest[1:] else found

    def _single(self, rows: np.ndarray, places: np.ndarray) -> np.ndarray:
        """The values at pairs of row and position."""
        at = self._starts[rows] + places
        inside = at < self._starts[rows + 1]
        found = np.full((*at.shape, *self.shape[2:]), self._padding, self.dtype)
        found[inside] = self._values_T[at[inside]]
        return found

    def _padded(self, rows: np.ndarray) -> np.ndarray:
        starts_R = self._starts[rows]
        lengths_R = self._starts[rows + 1] - starts_R
        found = np.full((len(rows), *self.shape[1:]), self._padding, self.dtype)
        filled = np.arange(self.shape[1]) < lengths_R[:, None]
        behind_R = np.cumsum(lengths_R)
        at = np.arange(int(lengths_R.sum())) + np.repeat(
            starts_R - (behind_R - lengths_R), lengths_R
        )
        found[filled] = self._values_T[at]
        return found
