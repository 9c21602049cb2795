"""Every figure of a harvested store against loops over a dense matrix of its activations."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from mistudio.ml.features.feature_store import KEPT, PADDING, FeatureStore
from tests.ml_features.conftest import LATENTS, Workbench

TOP_K, MASK64 = 4, (1 << 64) - 1


class Dense:
    """Activations [token, feature] put together from the row store alone."""

    def __init__(self, folder: Path) -> None:
        store = FeatureStore(folder)
        splits = np.load(folder / "csr_splits.npy")
        features, values = (np.load(folder / f"csr_{n}.npy") for n in ("features", "values"))
        self.acts_TF = np.zeros((splits.size - 1, LATENTS))
        for token in range(splits.size - 1):
            for entry in range(splits[token], splits[token + 1]):
                value = float(values[entry]) * 2.0 ** -store.summary["exponent"]
                self.acts_TF[token, features[entry]] = value
        self.mask = np.load(folder / "mask.npy")
        self.ids = np.load(folder / "ids.npy")
        self.kept, self.length = int((self.mask == KEPT).sum()), store.row_length


@pytest.fixture(scope="module")
def store(workbench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    folder = tmp_path_factory.mktemp("oracle") / "fs"
    workbench.harvest(folder, top_k=TOP_K, seed=7)
    return FeatureStore(folder, workbench.tokens.folder, workbench.text.folder)


@pytest.fixture(scope="module")
def dense(store: FeatureStore) -> Dense:
    return Dense(store.folder)


def test_counts_sums_and_flags(store: FeatureStore, dense: Dense) -> None:
    assert store.kept_tokens == dense.kept
    assert store.summary["n_all"] == (dense.mask != PADDING).sum()
    for feature in range(LATENTS):
        a = [float(v) for v in dense.acts_TF[:, feature] if v > 0]
        line = store.statistics[feature]
        rows = {t // dense.length for t in np.flatnonzero(dense.acts_TF[:, feature])}
        assert (line["count"], line["active_samples"]) == (len(a), len(rows))
        assert line["frequency"] == len(a) / dense.kept
        assert line["sum"] == pytest.approx(math.fsum(a), rel=1e-12)
        assert line["sum_squares"] == pytest.approx(math.fsum(v * v for v in a), rel=1e-12)
        assert line["max"] == max(a, default=0.0)
        assert line["mean_active"] == pytest.approx(math.fsum(a) / max(len(a), 1), rel=1e-12)
        assert line["mean_all"] == pytest.approx(math.fsum(a) / dense.kept, rel=1e-12)
        flags = set(store.flags(feature)) - {"single-token"}
        expected = {"dead"} if not a else {"dense"} if len(a) / dense.kept > 0.1 else set()
        assert flags == expected


def test_top_examples_one_per_row(store: FeatureStore, dense: Dense) -> None:
    for feature in range(LATENTS):
        best = []
        for row in range(len(dense.acts_TF) // dense.length):
            a = dense.acts_TF[row * dense.length : (row + 1) * dense.length, feature]
            if a.max() > 0:
                best.append((-a.max(), row, int(a.argmax())))
        expected = [(row, position, -value) for value, row, position in sorted(best)[:TOP_K]]
        found = store.examples(feature, TOP_K, before=3, after=3)
        assert [(e.row, e.position, e.value) for e in found] == expected
        for example in found:
            first = example.row * dense.length
            for piece in example.pieces:
                offset = example.position - example.token_position
                span = slice(first + piece.lo + offset, first + piece.hi + offset)
                assert piece.value == dense.acts_TF[span, feature].max()
                assert piece.kept == bool((dense.mask[span] == KEPT).any())


def _splitmix(z: int) -> int:
    z = (z + 0x9E3779B97F4A7C15) & MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK64
    return z ^ (z >> 31)


def _drawn(tokens: list[int], feature: int, length: int) -> list[tuple[int, int]]:
    """The five with the smallest hash of (seed 7, token, feature), smallest first."""
    key = _splitmix((7 << 32) ^ feature)
    chosen = sorted(tokens, key=lambda token: _splitmix(token ^ key))[:5]
    return [divmod(token, length) for token in chosen]


def test_intervals(store: FeatureStore, dense: Dense) -> None:
    for feature in range(LATENTS):
        a = dense.acts_TF[:, feature]
        found = store.intervals(feature, before=1, after=1)
        assert len(found) == (5 if a.max() > 0 else 0)
        for number, part in zip(range(4, -1, -1), found, strict=False):
            low, high = a.max() * number / 5, a.max() * (number + 1) / 5
            assert (part.low, part.high) == pytest.approx((low, high), rel=1e-12)
            inside = [t for t in range(a.size) if a[t] > 0 and part.low < a[t] <= part.high]
            zeros = dense.kept - int((a > 0).sum()) if number == 0 else 0
            assert part.count == len(inside)
            assert part.share == (len(inside) + zeros) / dense.kept
            places = [(e.row, e.position) for e in part.examples]
            assert places == _drawn(inside, feature, dense.length)


def test_quantiles(store: FeatureStore, dense: Dense) -> None:
    for feature in range(LATENTS):
        a = dense.acts_TF[:, feature]
        ranked = sorted(np.flatnonzero(a).tolist(), key=lambda t: (a[t], t))
        n = len(ranked)
        bins = [ranked[i * n // 10 : (i + 1) * n // 10] for i in reversed(range(10))]
        bins = [inside for inside in bins if inside]
        found = store.quantiles(feature, before=1, after=1)
        assert len(found) == len(bins)
        for part, inside in zip(found, bins, strict=True):
            assert (part.low, part.high) == (a[inside[0]], a[inside[-1]])
            assert (part.count, part.share) == (len(inside), len(inside) / n)
            places = [(e.row, e.position) for e in part.examples]
            assert places == _drawn(inside, feature, dense.length)


def test_histograms_profile_and_top_tokens(store: FeatureStore, dense: Dense) -> None:
    exponent = store.summary["exponent"]
    for feature in range(LATENTS):
        a = dense.acts_TF[:, feature]
        live = np.flatnonzero(a)
        if not live.size:
            assert store.histogram(feature).counts.size == 0
            continue
        bars, low, high = store.histogram(feature), a[live].min(), a[live].max()
        width = (high - low) / 50
        expected = np.zeros(50, int)
        for value in a[live]:
            expected[min(49, int((value - low) / width)) if width else 25] += 1
        # a value on an edge may fall to either side
        assert np.abs(np.cumsum(bars.counts) - np.cumsum(expected)).max() <= 1
        logs = np.zeros(64, int)
        deciles, weights = np.zeros(10), dict[int, float]()
        for token in live:
            stored = a[token] * 2.0**exponent
            logs[int(np.clip(math.floor(2 * math.log2(stored)) + 32, 0, 63))] += 1
            deciles[token % dense.length * 10 // dense.length] += a[token]
            word = int(dense.ids[token])
            weights[word] = weights.get(word, 0.0) + float(a[token])
        assert store.log_histogram(feature).tolist() == logs.tolist()
        np.testing.assert_allclose(store.position_profile(feature), deciles, rtol=1e-12)
        heaviest = sorted(weights, key=lambda word: (-weights[word], word))[:5]
        top = store.top_tokens(feature)
        assert [t.token_id for t in top] == heaviest
        for shown in top:
            assert shown.weight == pytest.approx(weights[shown.token_id] / a.sum(), rel=1e-6)
