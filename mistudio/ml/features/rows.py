"""Which stretches of a tokenisation a harvest reads, and in which order."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.ml.data.listed_rows import listed
from mistudio.ml.data.token_store import TokenStore

PADDING = 2  # value of a token store's mask for padding


class RowPlan(NamedTuple):
    """Rows of a harvest: each a stretch of one row of the tokenisation.

    `rows_R2` int32 holds tokenisation row and first position; `length` tokens a row;
    `available` is how many rows the tokenisation would give; `skipped` are positions of a row that
    are left out.
    """

    rows_R2: NDArray[np.int32]
    length: int
    available: int
    skipped: tuple[int, ...] = ()


class RowBlock(NamedTuple):
    """Token ids int32 and mask uint8 of some rows, each [rows, length]; past the end is padding.

    `rows_R2` holds tokenisation row and first position of those that are not padding only.
    """

    ids_RS: NDArray[np.int32]
    mask_RS: NDArray[np.uint8]
    rows_R2: NDArray[np.int32]


def plan_rows(
    mask_TC: NDArray[np.uint8],
    context: int,
    most_rows: int,
    seed: int,
    usable_T: NDArray[np.bool_] | None = None,
) -> RowPlan:
    """Cut every tokenisation row into stretches of at most `context` tokens and draw from them.

    Stretches that hold nothing but padding, and rows that are not `usable_T`, are left out. The
    draw is a permutation keyed by `seed`, cut at `most_rows`, so a longer harvest with the same
    seed begins with the same rows.
    """
    total, width = mask_TC.shape
    length = min(context, width)
    starts = np.arange(0, width, length, dtype=np.int32)
    filled = np.empty((total, starts.size), bool)
    for block in range(0, total, 4096):  # bounds the memory that a memory-mapped mask takes
        content = np.asarray(mask_TC[block : block + 4096]) != PADDING
        filled[block : block + 4096] = np.logical_or.reduceat(content, starts, axis=1)
    if usable_T is not None:
        filled &= usable_T[:, None]
    row, piece = np.nonzero(filled)
    order = np.random.default_rng([seed, 0x726F7773]).permutation(row.size)[:most_rows]
    rows_R2 = np.stack([row[order], starts[piece[order]]], axis=1).astype(np.int32)
    return RowPlan(rows_R2, length, int(row.size))


def read_rows(
    ids_TC: NDArray[np.int32],
    mask_TC: NDArray[np.uint8],
    rows_R2: NDArray[np.int32],
    length: int,
    *,
    height: int = 0,
) -> RowBlock:
    """Gather rows; `height` above their number adds rows of padding at the end."""
    count = max(height, len(rows_R2))
    ids_RS = np.zeros((count, length), np.int32)
    mask_RS = np.full((count, length), PADDING, np.uint8)
    for index, (row, start) in enumerate(rows_R2):
        ids = ids_TC[row, start : start + length]
        ids_RS[index, : ids.size] = ids
        mask_RS[index, : ids.size] = mask_TC[row, start : start + length]
    return RowBlock(ids_RS, mask_RS, rows_R2)


def read_block(
    tokens: TokenStore, plan: RowPlan, height: int, index: int, *, filled: bool = True
) -> RowBlock:
    """The rows of one tile of a plan, `filled` up to its height; the mask tells what it skips."""
    rows = plan.rows_R2[index * height : (index + 1) * height]
    found = read_rows(tokens.ids, tokens.mask, rows, plan.length, height=height if filled else 0)
    return found._replace(mask_RS=listed(found.mask_RS, plan.skipped))
