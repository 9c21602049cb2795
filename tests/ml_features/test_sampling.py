"""Intervals, quantiles and histogram against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from mistudio.ml.features import sampling


@pytest.fixture
def values() -> np.ndarray:
    drawn = np.random.default_rng(0).gamma(1.5, 2.0, 400)
    drawn[:3] = drawn.max()  # several maxima
    drawn[3] = drawn.max() * 3 / 5  # exactly on an edge
    return drawn


def test_intervals_partition_zero_to_maximum(values: np.ndarray) -> None:
    kept = 5000
    hashes = sampling.hash_tokens(0, np.arange(values.size, dtype=np.uint32), 7)
    found = sampling.intervals(values, hashes, kept)
    top = values.max()
    edges = np.linspace(0, top, 6)
    assert [b.high for b in found] == edges[:0:-1].tolist()
    assert sum(b.share for b in found) == pytest.approx(1.0)
    for index, part in enumerate(found):
        low, high = edges[4 - index], edges[5 - index]
        inside = np.flatnonzero((values > low) & (values <= high))
        assert part.count == inside.size
        zeros = kept - values.size if index == 4 else 0
        assert part.share == (inside.size + zeros) / kept
        expected = sorted(inside, key=lambda entry: hashes[entry])[:5]
        assert part.picks.tolist() == expected
        assert all(low < values[pick] <= high for pick in part.picks)


def test_quantiles_are_rank_deciles(values: np.ndarray) -> None:
    hashes = sampling.hash_tokens(0, np.arange(values.size, dtype=np.uint32), 7)
    found = sampling.quantiles(values, hashes)
    assert [b.count for b in found] == [40] * 10
    ordered = np.sort(values)
    assert found[0].high == ordered[-1]
    assert found[9].low == ordered[0]
    assert [b.low for b in found] == ordered[::-1][39::40].tolist()
    for part in found:
        assert all(part.low <= values[pick] <= part.high for pick in part.picks)
        assert len(set(part.picks.tolist())) == 5


def test_quantiles_of_few_values_leave_no_empty_bin() -> None:
    values = np.array([1.0, 2.0, 3.0])
    found = sampling.quantiles(values, np.arange(3, dtype=np.uint64))
    assert sorted(values[b.picks[0]] for b in found) == [1.0, 2.0, 3.0]


def test_histogram_counts_all_values(values: np.ndarray) -> None:
    shown = sampling.histogram(values)
    assert len(shown.counts) == 50
    assert shown.counts.sum() == values.size
    assert shown.edges[0] == values.min()
    assert shown.edges[-1] == values.max()


def test_a_dead_feature_has_neither() -> None:
    nothing = np.zeros(0)
    assert sampling.intervals(nothing, nothing.astype(np.uint64), 100) == []
    assert sampling.quantiles(nothing, nothing.astype(np.uint64)) == []
    assert sampling.histogram(nothing).counts.size == 0
