"""Sorting and ranking within groups, for arrays that are already sorted by group."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def order_within(group: NDArray[np.integer], key: NDArray[np.integer]) -> NDArray[np.int64]:
    """Indices that sort by (group, key), stable.

    Two stable sorts, least significant key first: numpy sorts 16-bit integers by radix, in time
    linear in their number.
    """
    order = np.argsort(key, kind="stable")
    return order[np.argsort(group[order], kind="stable")]


def group_starts(*keys: NDArray[np.integer]) -> NDArray[np.int64]:
    """Where a new combination of `keys` begins in sorted, non-empty arrays."""
    changed = np.ones(keys[0].size, bool)
    changed[1:] = False
    for key in keys:
        changed[1:] |= key[1:] != key[:-1]
    return np.flatnonzero(changed)


def rank_within(counts: NDArray[np.integer]) -> NDArray[np.int64]:
    """0, 1, 2 … within each of consecutive groups of the given sizes."""
    ends = np.cumsum(counts)
    return np.arange(int(ends[-1]) if ends.size else 0) - np.repeat(ends - counts, counts)


def mode_share(
    values: NDArray[np.integer], where_GN: NDArray[np.int64], sizes: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Share of the commonest value among the first `sizes[g]` (> 0) of `values[where_GN[g]]`."""
    width = where_GN.shape[1]
    place = np.arange(width)
    unused = place >= sizes[:, None]
    drawn_GN = values[np.minimum(where_GN, values.size - 1)].astype(np.int64)
    # every unused place gets a value of its own, so that it makes no run
    drawn_GN = np.where(unused, -1 - place, drawn_GN)
    drawn_GN.sort(axis=1)
    new = np.ones(drawn_GN.shape, bool)
    new[:, 1:] = drawn_GN[:, 1:] != drawn_GN[:, :-1]
    start = np.maximum.accumulate(np.where(new, place, 0), axis=1)
    return (place - start + 1).max(axis=1) / sizes
