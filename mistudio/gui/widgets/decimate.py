"""Fewer points of a curve for drawing, with its peaks and dips kept."""

from __future__ import annotations

import numpy as np


def decimated(xs: np.ndarray, ys: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """At most about `most` points: the lowest and the highest of each stretch, in their order.

    NaN takes no part unless a whole stretch is NaN. The first and the last point stay.
    """
    count = len(xs)
    if count <= most:
        return xs, ys
    size = -(-count // max(1, most // 2))
    whole = count // size * size
    parts = ys[:whole].reshape(-1, size)
    known = np.isfinite(parts)
    low = np.where(known, parts, np.inf).argmin(1)
    high = np.where(known, parts, -np.inf).argmax(1)
    starts = np.arange(0, whole, size)
    kept = np.zeros(count, dtype=bool)
    kept[low + starts] = kept[high + starts] = True
    kept[whole:] = kept[0] = kept[-1] = True
    return xs[kept], ys[kept]
