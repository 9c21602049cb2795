"""Samples of a feature's active tokens: intervals, quantiles, histogram.

All choices go by a hash of (seed,
token, feature), so they depend neither on order nor on batch sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

INTERVALS = 5
QUANTILES = 10
PER_BIN = 5
HISTOGRAM_BINS = 50


@dataclass(frozen=True)
class Bin:
    """One bin of a feature's activations, in the SAE's units.

    An interval holds values in (low, high]; `share` is its part of all kept tokens (zeros count
    in the lowest). A quantile holds values low..high by rank; `share` is its part of the active
    tokens. `picks` are indices into the feature's entries, `count` how many entries the bin has.
    """

    low: float
    high: float
    share: float
    count: int
    picks: NDArray[np.int64]


class Histogram(NamedTuple):
    """Counts of the non-zero values in equal bins from the smallest to the largest value."""

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]


def hash_tokens(seed: int, tokens: NDArray[np.uint32], feature: int) -> NDArray[np.uint64]:
    """A uniform 64-bit hash of (seed, token, feature): splitmix64 applied twice."""
    key = _mix(np.asarray([(seed << 32) ^ feature], np.uint64))
    return _mix(tokens.astype(np.uint64) ^ key)


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def intervals(
    values: NDArray[np.float64], hashes: NDArray[np.uint64], kept_tokens: int
) -> list[Bin]:
    """Five intervals of equal width from 0 to the maximum, strongest first.

    `values` are the feature's non-zero activations over `kept_tokens` tokens.
    """
    if values.size == 0:
        return []
    edges = _edges(0.0, float(values.max()), INTERVALS)
    which = np.clip(np.searchsorted(edges, values, side="left") - 1, 0, INTERVALS - 1)
    found = []
    for index in reversed(range(INTERVALS)):
        inside = np.flatnonzero(which == index)
        zeros = kept_tokens - values.size if index == 0 else 0
        share = (inside.size + zeros) / max(kept_tokens, 1)
        low, high = float(edges[index]), float(edges[index + 1])
        found.append(Bin(low, high, share, int(inside.size), _smallest(inside, hashes)))
    return found


def quantiles(values: NDArray[np.float64], hashes: NDArray[np.uint64]) -> list[Bin]:
    """Ten rank deciles of the non-zero values, strongest first; ties keep the token order."""
    count = values.size
    order = np.argsort(values, kind="stable")
    found = []
    for index in reversed(range(QUANTILES)):
        inside = order[index * count // QUANTILES : (index + 1) * count // QUANTILES]
        if inside.size:
            low, high = float(values[inside[0]]), float(values[inside[-1]])
            picks = _smallest(np.sort(inside), hashes)
            found.append(Bin(low, high, inside.size / count, int(inside.size), picks))
    return found


def _smallest(inside: NDArray[np.int64], hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The `PER_BIN` entries with the smallest hashes, smallest first."""
    if inside.size > PER_BIN:
        inside = inside[np.argpartition(hashes[inside], PER_BIN - 1)[:PER_BIN]]
    return inside[np.argsort(hashes[inside], kind="stable")]


def histogram(values: NDArray[np.float64]) -> Histogram:
    """`HISTOGRAM_BINS` equal bins from the smallest to the largest non-zero value."""
    if values.size == 0:
        return Histogram(np.zeros(0), np.zeros(0, np.int64))
    low, high = float(values.min()), float(values.max())
    if not low < high:
        counts, edges = np.histogram(values, bins=HISTOGRAM_BINS)
        return Histogram(edges, counts.astype(np.int64))
    # as np.histogram counts, without what it takes to find out what it was given
    edges = _edges(low, high, HISTOGRAM_BINS)
    which = ((values - low) * (HISTOGRAM_BINS / (high - low))).astype(np.int64)
    np.minimum(which, HISTOGRAM_BINS - 1, out=which)
    which -= values < edges[which]
    which += (values >= edges[which + 1]) & (which < HISTOGRAM_BINS - 1)
    return Histogram(edges, np.bincount(which, minlength=HISTOGRAM_BINS))


def _edges(low: float, high: float, parts: int) -> NDArray[np.float64]:
    """What np.linspace(low, high, parts + 1) gives."""
    edges = np.arange(parts + 1, dtype=np.float64) * ((high - low) / parts) + low
    edges[-1] = high
    return edges


def hash_pairs(
    seed: int, numbers: NDArray[np.integer], features: NDArray[np.integer]
) -> NDArray[np.uint64]:
    """The hash of `hash_tokens` for many features at once; both arrays broadcast."""
    key = _mix(np.uint64(seed << 32) ^ features.astype(np.uint64))
    return _mix(numbers.astype(np.uint64) ^ key)
