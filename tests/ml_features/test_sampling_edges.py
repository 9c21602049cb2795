"""Histograms and intervals against NumPy's, on values that sit on edges too."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mistudio.ml.features import sampling


@pytest.mark.parametrize("seed", range(40))
def test_a_histogram_is_numpys(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 300))
    rounded = rng.integers(1, 60, size) if seed % 2 else np.ceil(rng.gamma(2, 2, size) * 64) / 64
    values = rounded.astype(np.float64) * (0.1 if seed % 3 == 0 else 0.25)
    found = sampling.histogram(values)
    counts, edges = np.histogram(values, bins=sampling.HISTOGRAM_BINS)
    assert found.counts.tolist() == counts.tolist()
    assert found.edges.tolist() == edges.tolist()
    bins = sampling.intervals(values, np.arange(values.size, dtype=np.uint64), values.size)
    expected = np.linspace(0.0, values.max(), sampling.INTERVALS + 1).tolist()
    assert [(b.low, b.high) for b in bins] == list(itertools.pairwise(expected))[::-1]
