"""What can be drawn of a run: its charts and its axes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mistudio.gui.tabs.training.series import MetricSeries


class Curve(NamedTuple):
    """A chart: its column, title, colour role and digits in the legend."""

    column: str
    title: str
    color: str
    digits: int


CURVES = (
    Curve("loss", "Loss", "emerald", 4),
    Curve("l0", "L0", "blue", 1),
    Curve("dead", "Dead latents (%)", "red", 2),
    Curve("explained_variance", "Explained variance", "purple", 4),
    Curve("reconstruction", "Reconstruction", "emerald", 4),
    Curve("sparsity", "Sparsity term", "yellow", 6),
    Curve("learning_rate", "Learning rate", "muted", 7),
    Curve("tokens_per_s", "Throughput (tokens/s)", "blue", 0),
)
FIRST_SHOWN = ("loss", "l0", "dead", "explained_variance")
AXES = {"step": "step", "tokens": "tokens", "time": "minutes of training"}


def values_of(series: MetricSeries, column: str, latents: int) -> np.ndarray:
    """What a chart shows: the column, dead latents in percent of all."""
    found = series.column(column)
    return 100.0 * found / latents if column == "dead" else found


def axis_of(series: MetricSeries, axis: str) -> np.ndarray:
    """The x of every row; NaN where its time was not kept."""
    if axis == "time":
        return series.column("train_seconds") / 60.0
    return series.column(axis)


def has_time(series: MetricSeries) -> bool:
    """Whether the time of the newest row is known."""
    seconds = series.column("train_seconds")
    return bool(len(seconds)) and bool(np.isfinite(seconds[-1]))
