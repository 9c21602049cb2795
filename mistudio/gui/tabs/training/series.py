"""The metric rows of one run as growing columns, ready to draw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np

HELD_OUT = ("heldout_ev", "heldout_l0", "heldout_dead")  # of the few steps that were measured
BOUNDS = {name: (f"{name}_low", f"{name}_high") for name in ("heldout_ev", "heldout_l0")}
BEHIND = ("heldout_n", "heldout_documents", "heldout_dead_bound")  # what these rest on
COLUMNS = (
    "step",
    "tokens",
    "train_seconds",
    "loss",
    "reconstruction",
    "sparsity",
    "l0",
    "dead",
    "explained_variance",
    "learning_rate",
    "tokens_per_s",
    "memory_bytes",
    *HELD_OUT,
    *(end for ends in BOUNDS.values() for end in ends),
    *BEHIND,
)
SMOOTHING = 21  # points of the moving average
MANY_DEAD = 5.0  # percent of the latents, from which on their number is red
RECENT = 20  # rows that are compared with as many before them

Columns = Mapping[str, np.ndarray]


class MetricSeries:
    """Rows in step order. What is there of a step already stays as it was first measured.

    What was measured on held-out text joins the row of its step, or is a row by itself.
    """

    def __init__(self) -> None:
        self._size = 0
        self._values = {name: np.empty(256) for name in COLUMNS}

    def __len__(self) -> int:
        return self._size

    def last_step(self) -> int:
        """The newest step, -1 without rows."""
        return int(self._values["step"][self._size - 1]) if self._size else -1

    def behind(self) -> int:
        """The step behind which stored rows are read again: held-out figures of the newest one may
        have come after it."""
        return max(-1, self.last_step() - 1)

    def add(self, rows: Iterable[Mapping[str, Any]]) -> int:
        """Append rows behind the last step; returns how many told something new."""
        before = self._size
        filled = self._append(as_columns(rows))
        return self._size - before + filled

    def insert(self, rows: Iterable[Mapping[str, Any]] | Columns, after: int) -> None:
        """Put stored rows behind step `after`, before those that arrived while they were read."""
        read = cast("Columns", rows) if isinstance(rows, Mapping) else as_columns(rows)
        known = int(np.searchsorted(self.column("step"), after, side="right"))
        newer = {name: self.column(name)[known:].copy() for name in COLUMNS}
        self._size = known
        self._append(read)
        self._append(newer)

    def column(self, name: str) -> np.ndarray:
        """One column as float64, unknown values as NaN; do not write into it."""
        return self._values[name][: self._size]

    def told(self, name: str) -> np.ndarray:
        """A column in the rows of the training alone, without those of held-out figures."""
        return self.column(name)[self.of_training()]

    def of_training(self) -> np.ndarray:
        """Which rows the training told; the others hold held-out figures only."""
        return np.isnan(self.column("heldout_l0")) | np.isfinite(self.column("dead"))

    def _append(self, columns: Columns) -> int:
        """Append what lies behind the last step; returns how many rows of known steps told more."""
        steps = columns["step"]
        if not len(steps):
            return 0
        # the highest step so far before each row
        highest = np.maximum.accumulate(np.concatenate(([self.last_step()], steps[:-1])))
        new = steps > highest
        count = int(new.sum())
        size = self._size + count
        for name, held in self._values.items():
            if size > len(held):
                grown = np.empty(max(size, 2 * len(held)))
                grown[: self._size] = held[: self._size]
                self._values[name] = grown
            self._values[name][self._size : size] = columns[name][new]
        self._size = size
        return self._fill({name: columns[name][~new] for name in COLUMNS})

    def _fill(self, columns: Columns) -> int:
        """Put what rows of known steps tell where nothing is told yet."""
        known, steps = self.column("step"), columns["step"]
        if not len(steps):
            return 0
        places = np.minimum(np.searchsorted(known, steps), len(known) - 1)
        here = np.flatnonzero(known[places] == steps)
        filled = np.zeros(len(steps), dtype=bool)
        for name, held in self._values.items():
            missing = here[np.isnan(held[places[here]]) & np.isfinite(columns[name][here])]
            held[places[missing]] = columns[name][missing]
            filled[missing] = True
        return int(filled.sum())


def as_columns(rows: Iterable[Mapping[str, Any]]) -> Columns:
    """Rows as float64 columns; what a row does not tell is NaN."""
    listed = list(rows)
    return {name: np.array([row.get(name) for row in listed], dtype=np.float64) for name in COLUMNS}


def smoothed(values: np.ndarray, points: int = SMOOTHING) -> np.ndarray:
    """Centred moving average over `points` values, fewer at the ends; NaN takes no part."""
    known = np.isfinite(values)
    if not known.any():
        return values
    half = min(points, len(values) | 1) // 2

    def window_sum(of: np.ndarray) -> np.ndarray:
        sums = np.cumsum(np.concatenate((np.zeros(half + 1), of, np.zeros(half))))
        return sums[2 * half + 1 :] - sums[: -2 * half - 1]

    # sums of differences from the mean stay small, so that little is lost to rounding
    middle = float(values[known].mean())
    total = window_sum(np.where(known, values - middle, 0.0))
    count = window_sum(known.astype(np.float64))
    return np.where(known, middle + total / np.maximum(count, 1.0), np.nan)


def is_rising(losses: np.ndarray) -> bool:
    """Whether the mean of the last 20 rows exceeds that of the 20 before by 3 standard errors."""
    found = losses[-2 * RECENT :]
    if len(found) < 2 * RECENT or not np.isfinite(found).all():
        return False
    before, now = found[:RECENT], found[RECENT:]
    error = float(np.sqrt((before.var(ddof=1) + now.var(ddof=1)) / RECENT))
    return float(now.mean() - before.mean()) > 3 * error
