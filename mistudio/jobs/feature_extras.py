"""What the Statistics page shows beyond the feature's row: profile, log histogram, its weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mistudio.jobs import feature_pages, sae_geometry
from mistudio.jobs.feature_pages import Bars
from mistudio.jobs.feature_partners import check_index
from mistudio.jobs.runner import Studio
from mistudio.store.records import SaeRow

if TYPE_CHECKING:
    import numpy as np

    from mistudio.ml.features.feature_store import FeatureStore


@dataclass(frozen=True)
class Entry:
    """One of the largest entries of a decoder row; `share` is |value| / sum of all |entries|."""

    neuron: int
    value: float
    share: float


@dataclass(frozen=True)
class Weights:
    """What the SAE's weights say of a feature; None where it is not defined."""

    norm: float
    encoder_cosine: float | None
    bias_product: float
    entries: list[Entry] = field(default_factory=list[Entry])


@dataclass(frozen=True)
class Extras:
    """Of one feature: activation by place, half-octave histogram, weights.

    `profile` is the mean activation over the kept tokens of each tenth of the row, None where
    there are none. `log_histogram` counts activations by log2 of the activation. `weights` is None
    for an SAE whose weights were not described yet.
    """

    index: int
    profile: list[float | None]
    log_histogram: Bars
    weights: Weights | None
    is_truncated: bool = False
    """whether the store keeps only the strongest entries of some tokens"""


def extras(studio: Studio, sae: SaeRow, index: int) -> Extras:
    """Read them all; short reads of kept arrays."""
    check_index(sae, index)
    store = feature_pages.open_store(studio, feature_pages.feature_set(studio, sae))
    geometry_F = sae_geometry.kept_geometry(studio, sae)
    sums, kept = store.position_profile(index).tolist(), store.kept_per_decile.tolist()
    return Extras(
        index,
        [total / n if n else None for total, n in zip(sums, kept, strict=True)],
        _log_bars(store, index),
        None if geometry_F is None else _weights(geometry_F[index]),
        bool(store.summary.get("truncated")),
    )


def _log_bars(store: FeatureStore, index: int) -> Bars:
    """The bins from the first to the last that holds something."""
    counts = store.log_histogram(index).tolist()
    used = [place for place, count in enumerate(counts) if count]
    if not used:
        return Bars([], [])
    exponent = int(store.summary["exponent"])
    edges = [(b - 32) / 2 - exponent for b in range(used[0], used[-1] + 2)]
    return Bars(edges, counts[used[0] : used[-1] + 1])


def _weights(line: np.void) -> Weights:
    cosine = float(line["encoder_cosine"])
    parts = (line[name].tolist() for name in ("neuron", "neuron_value", "neuron_share"))
    return Weights(
        float(line["norm"]),
        cosine if cosine == cosine else None,
        float(line["bias_product"]),
        [Entry(*part) for part in zip(*parts, strict=True) if part[0] >= 0],
    )
