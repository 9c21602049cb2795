"""What can be drawn of a run: its charts and its axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mistudio.core.held_out_looks import rests_on
from mistudio.gui.tabs.training.series import BEHIND, BOUNDS, HELD_OUT, MetricSeries


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
    shown = _shown(series, column, axis)
    return (xs, ys) if shown.all() else (xs[shown], ys[shown])


def bounds_of(series: MetricSeries, column: str, axis: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Lower and upper ends of the 95 % intervals of the points of a chart, NaN where none is kept;
    None for figures that have none."""
    if column not in BOUNDS:
        return None
    shown = _shown(series, column, axis)
    low, high = (series.column(name)[shown] for name in BOUNDS[column])
    return low, high


def what_bounds(series: MetricSeries, column: str) -> str:
    """What the points of a held-out figure rest on, for a tooltip; "" for other charts."""
    measured = np.flatnonzero(np.isfinite(series.column("heldout_n")))
    if column not in HELD_OUT or not len(measured):
        return ""
    n, documents, bound = (
        None if np.isnan(value) else float(value)
        for value in (series.column(name)[measured[-1]] for name in BEHIND)
    )
    told = f"Measured on {rests_on(int(n or 0), None if documents is None else int(documents))}."
    if column in BOUNDS:
        return (
            f"{told} Lines and brackets are 95 % intervals: what other documents of this kind "
            "would give, these drawn again 1,000 times."
        )
    if bound is None:
        return told
    return f"{told} A latent silent on all of them fires on less than {bound:.1e} (95 %)."


def _shown(series: MetricSeries, column: str, axis: str) -> np.ndarray:
    shown = np.isfinite(series.column(column)) if column in HELD_OUT else series.of_training()
    return shown & np.isfinite(axis_of(series, axis))


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
