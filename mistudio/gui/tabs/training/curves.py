"""What can be drawn of a run: its charts and its axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mistudio.gui.tabs.training.series import HELD_OUT, MetricSeries


class Curve(NamedTuple):
    """A chart: its column, title, colour role and digits in the legend.

    `short` is how its button calls it, else the title without its unit.
    """

    column: str
    title: str
    color: str
    digits: int
    short: str = ""

    @property
    def toggle(self) -> str:
        return self.short or self.title.split(" (")[0]

    @property
    def is_held_out(self) -> bool:
        """Whether it was measured at a few steps only, which are drawn as points."""
        return self.column in HELD_OUT


CURVES = (
    Curve("loss", "Loss", "emerald", 4),
    Curve("l0", "L0", "blue", 1),
    Curve("dead", "Dead latents (%)", "red", 2),
    Curve("explained_variance", "Explained variance", "purple", 4),
    Curve("reconstruction", "Reconstruction", "emerald", 4),
    Curve("sparsity", "Sparsity term", "yellow", 6),
    Curve("learning_rate", "Learning rate", "muted", 7),
    Curve("tokens_per_s", "Throughput (tokens/s)", "blue", 0),
    Curve("memory_bytes", "Memory (GB)", "purple", 2),
    Curve("heldout_ev", "Explained variance (held out)", "purple", 4, "Held-out EV"),
    Curve("heldout_l0", "L0 (held out)", "blue", 1, "Held-out L0"),
    Curve("heldout_dead", "Never fired (held out, %)", "red", 2, "Never fired"),
)
FIRST_SHOWN = ("loss", "l0", "dead", "explained_variance")
OF_LATENTS = ("dead", "heldout_dead")  # told as a share of the latents
AXES = {"step": "step", "tokens": "tokens", "time": "minutes of training"}


def values_of(series: MetricSeries, column: str, latents: int) -> np.ndarray:
    """What a chart shows: the column, dead latents and silent ones in percent of all, memory in
    gigabytes."""
    found = series.column(column)
    if column == "memory_bytes":
        return found / 1e9
    if column == "heldout_dead":  # a share already
        return 100.0 * found
    return 100.0 * found / latents if column == "dead" else found


def points_of(
    series: MetricSeries, column: str, axis: str, latents: int
) -> tuple[np.ndarray, np.ndarray]:
    """x and y of a chart: of held-out figures the steps that were measured, else every row of the
    training, in each case those whose x is known."""
    xs, ys = axis_of(series, axis), values_of(series, column, latents)
    shown = np.isfinite(ys) if column in HELD_OUT else series.of_training()
    shown = shown & np.isfinite(xs)
    return (xs, ys) if shown.all() else (xs[shown], ys[shown])


def mean_of(
    runs: Sequence[tuple[MetricSeries, int]], column: str, axis: str
) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the mean of several runs, each a series with its number of latents, at the steps
    that all of them told. Shares of latents are those of all latents together."""
    drawn = [_by_step(series, column, axis, latents) for series, latents in runs]
    shared = drawn[0][0]
    for steps, _, _ in drawn[1:]:
        shared = np.intersect1d(shared, steps)
    weights = [float(latents) if column in OF_LATENTS else 1.0 for _, latents in runs]
    xs, ys = np.zeros(len(shared)), np.zeros(len(shared))
    for (steps, x, y), weight in zip(drawn, weights, strict=True):
        here = np.searchsorted(steps, shared)
        xs += x[here] / len(drawn)
        ys += y[here] * (weight / sum(weights))
    return xs, ys


def _by_step(
    series: MetricSeries, column: str, axis: str, latents: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps, x and y of what is known of a column."""
    xs, ys = axis_of(series, axis), values_of(series, column, latents)
    known = np.isfinite(xs) & np.isfinite(ys)
    return series.column("step")[known], xs[known], ys[known]


def axis_of(series: MetricSeries, axis: str) -> np.ndarray:
    """The x of every row; NaN where its time was not kept."""
    if axis == "time":
        return series.column("train_seconds") / 60.0
    return series.column(axis)


def has_time(series: MetricSeries) -> bool:
    """Whether the time of the newest row is known."""
    seconds = series.column("train_seconds")
    return bool(len(seconds)) and bool(np.isfinite(seconds[-1]))
