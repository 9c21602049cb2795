"""From the row store (token -> features) to the column store (feature -> tokens), on disk.

Both are memory-mapped; memory is that of one block. Tokens of a feature stay in rising order.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mistudio.core.atomic import fsync_path
from mistudio.ml.features.arrays import create_array

BLOCK = 1 << 22  # entries sorted at a time


def id_type(features: int) -> np.dtype[np.unsignedinteger]:
    """The smallest type that holds a feature index."""
    return np.dtype(np.uint16 if features <= 1 << 16 else np.uint32)


def transpose(
    folder: Path,
    row_splits: NDArray[np.int64],
    ids: NDArray[np.unsignedinteger],
    values: NDArray[np.float16],
    features: int,
    *,
    block: int = BLOCK,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Write `csc_splits`, `csc_tokens` and `csc_values` for a row store with `features` columns.

    A counting sort: count each feature, then place block after block, sorted stably within.
    `check` is called once per block and may raise.
    """
    total = ids.size
    counts = np.zeros(features, np.int64)
    for start in range(0, total, block):
        check()
        counts += np.bincount(ids[start : start + block], minlength=features)
    splits = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    np.save(folder / "csc_splits.npy", splits)
    tokens = create_array(folder / "csc_tokens.npy", np.uint32, total)
    column_values = create_array(folder / "csc_values.npy", np.float16, total)
    cursor = splits[:-1].copy()
    for start in range(0, total, block):
        check()
        stop = min(start + block, total)
        part = np.asarray(ids[start:stop])
        order = np.argsort(part, kind="stable")
        part_counts = np.bincount(part, minlength=features)
        first = np.cumsum(part_counts) - part_counts
        target = np.arange(part.size) + np.repeat(cursor - first, part_counts)
        tokens[target] = _token_of(row_splits, start, stop)[order]
        column_values[target] = np.asarray(values[start:stop])[order]
        cursor += part_counts
    for array, name in ((tokens, "csc_tokens.npy"), (column_values, "csc_values.npy")):
        if isinstance(array, np.memmap):
            fsync_path(folder / name)  # flush() would hold up every other thread meanwhile


def _token_of(row_splits: NDArray[np.int64], start: int, stop: int) -> NDArray[np.uint32]:
    """The token of each entry start..stop of the row store."""
    first = int(np.searchsorted(row_splits, start, side="right")) - 1
    last = int(np.searchsorted(row_splits, stop, side="left"))
    edges = np.clip(np.asarray(row_splits[first : last + 1]), start, stop)
    return np.repeat(np.arange(first, last, dtype=np.uint32), np.diff(edges))
