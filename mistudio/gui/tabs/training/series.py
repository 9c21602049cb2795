"""The metric rows of one run as growing columns, ready to draw."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

COLUMNS = ("step", "tokens", "loss", "l0", "dead", "explained_variance", "tokens_per_s")
SMOOTHING = 21  # points of the moving average


class MetricSeries:
    """Rows in step order. A step that is already there stays as it was first measured."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {name: [] for name in COLUMNS}

    def __len__(self) -> int:
        return len(self._values["step"])

    def last_step(self) -> int:
        """The newest step, -1 without rows."""
        steps = self._values["step"]
        return int(steps[-1]) if steps else -1

    def add(self, rows: Iterable[Mapping[str, Any]]) -> int:
        """Append rows behind the last step; returns how many were new."""
        before, last = len(self), self.last_step()
        for row in rows:
            step = int(row["step"])
            if step <= last:
                continue
            last = step
            for name, column in self._values.items():
                value = row.get(name)
                column.append(float("nan") if value is None else float(value))
        return len(self) - before

    def insert(self, rows: Iterable[Mapping[str, Any]], after: int) -> None:
        """Put stored rows behind step `after`, before those that arrived while they were read."""
        steps = self._values["step"]
        known = bisect.bisect_right(steps, after)
        newer = {name: column[known:] for name, column in self._values.items()}
        for column in self._values.values():
            del column[known:]
        self.add(rows)
        first = bisect.bisect_right(newer["step"], self.last_step())
        for name, column in self._values.items():
            column.extend(newer[name][first:])

    def column(self, name: str) -> np.ndarray:
        """One column as float64, unknown values as NaN."""
        return np.asarray(self._values[name], dtype=np.float64)


def smoothed(values: np.ndarray, points: int = SMOOTHING) -> np.ndarray:
    """Centred moving average over `points` values, fewer at the ends; NaN takes no part."""
    known = np.isfinite(values)
    if not known.any():
        return values
    kernel = np.ones(min(points, len(values) | 1))
    half = len(kernel) // 2

    def window_sum(of: np.ndarray) -> np.ndarray:
        return np.convolve(of, kernel)[half : half + len(of)]

    total, count = window_sum(np.where(known, values, 0.0)), window_sum(known.astype(np.float64))
    return np.where(known, total / np.maximum(count, 1.0), np.nan)
