"""Every table of the store against a plain loop over tokens and features."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from mistudio.ml.features import statistics as st
from mistudio.ml.features.order import mode_share
from mistudio.ml.features.sampling import hash_tokens
from mistudio.ml.features.transpose import id_type, transpose

FEATURES, ROWS, LENGTH, EXPONENT, TOP_K = 23, 30, 12, 3, 5


@pytest.fixture
def dense() -> np.ndarray:
    """Stored fp16 values [token, feature] with ties, empty features and a single-token feature."""
    rng = np.random.default_rng(5)
    acts = np.round(rng.gamma(1.0, 2.0, (ROWS * LENGTH, FEATURES)), 1)
    acts[rng.random(acts.shape) > np.linspace(0.02, 0.6, FEATURES)] = 0
    acts[:, [0, 7]] = 0
    return acts.astype(np.float16)


@pytest.fixture
def token_ids(dense: np.ndarray) -> np.ndarray:
    ids = np.random.default_rng(6).integers(0, 40, ROWS * LENGTH).astype(np.int32)
    ids[dense[:, 9] > 0] = 100  # feature 9 fires on one token only
    return ids


@pytest.fixture
def columns(dense: np.ndarray, tmp_path: Path) -> st.Columns:
    token, feature = np.nonzero(dense)
    splits = np.concatenate([[0], np.cumsum((dense != 0).sum(1))])
    ids = feature.astype(id_type(FEATURES))
    transpose(tmp_path, splits, ids, dense[token, feature], FEATURES, block=37)
    names = ("csc_splits", "csc_tokens", "csc_values")
    parts = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in names]
    return st.Columns(parts[0], parts[1], parts[2], EXPONENT, LENGTH)


def test_transpose_is_the_transpose(dense: np.ndarray, columns: st.Columns) -> None:
    for feature in range(FEATURES):
        part = slice(columns.splits[feature], columns.splits[feature + 1])
        assert columns.tokens[part].tolist() == np.flatnonzero(dense[:, feature]).tolist()
        assert columns.values[part].tolist() == dense[dense[:, feature] > 0, feature].tolist()


@pytest.mark.parametrize("bucket", [1, 100, 1 << 20])
def test_tables_equal_a_plain_loop(
    dense: np.ndarray, columns: st.Columns, token_ids: np.ndarray, bucket: int
) -> None:
    kept = ROWS * LENGTH - 17
    tables = st.describe(columns, token_ids, kept, top_k=TOP_K, seed=0, bucket=bucket)
    acts = dense.astype(np.float64) / 2**EXPONENT
    for feature in range(FEATURES):
        line = tables.statistics_F[feature]
        values = acts[:, feature]
        active = np.flatnonzero(values)
        assert line["count"] == active.size
        assert line["frequency"] == active.size / kept
        assert line["sum"] == pytest.approx(values.sum(), rel=1e-12)
        assert line["sum_squares"] == pytest.approx((values**2).sum(), rel=1e-12)
        assert line["mean_all"] == pytest.approx(values.sum() / kept, rel=1e-12)
        by_row = values.reshape(ROWS, LENGTH)
        assert line["active_samples"] == (by_row > 0).any(1).sum()
        best = [(-row.max(), index, int(row.argmax())) for index, row in enumerate(by_row)]
        best = sorted(item for item in best if item[0] < 0)[:TOP_K]
        found = zip(
            -tables.top_values_FK[feature].astype(float),
            tables.top_rows_FK[feature],
            tables.top_positions_FK[feature],
            strict=True,
        )
        assert [item for item in found if item[1] >= 0] == best
        if not active.size:
            assert line["flags"] == st.DEAD
            assert line["max_row"] == -1
            continue
        assert (-line["max"], line["max_row"], line["max_position"]) == best[0]
        assert line["mean_active"] == pytest.approx(values.sum() / active.size, rel=1e-12)
        assert bool(line["flags"] & st.DENSE) == (active.size / kept > 0.1)
        sums = defaultdict(float)
        for token in active:
            sums[int(token_ids[token])] += values[token]
        heaviest = sorted(sums, key=lambda token: (-round(sums[token], 9), token))[:5]
        assert [t for t in tables.top_tokens_FT[feature] if t >= 0] == heaviest
        assert tables.top_token_shares_FT[feature, 0] == pytest.approx(
            sums[heaviest[0]] / values.sum(), rel=1e-6
        )
        deciles = np.zeros(10)
        for token in active:
            deciles[(token % LENGTH) * 10 // LENGTH] += values[token]
        assert tables.decile_sums_FP[feature] == pytest.approx(deciles)
        bins = Counter(
            int(np.floor(2 * np.log2(float(dense[token, feature])))) + 32 for token in active
        )
        assert {b: n for b, n in enumerate(tables.log_histogram_FB[feature]) if n} == bins


def test_single_token_feature_is_found(columns: st.Columns, token_ids: np.ndarray) -> None:
    tables = st.describe(columns, token_ids, ROWS * LENGTH, top_k=TOP_K, seed=0)
    line = tables.statistics_F[9]
    assert line["single_token"] == 2
    assert line["flags"] & st.SINGLE_TOKEN
    assert tables.statistics_F["single_token"][22] == 0


def test_mode_share_counts_only_what_is_drawn() -> None:
    values = np.array([4, 4, 4, 9, 9, 1])
    where = np.array([[0, 1, 3], [3, 4, 5]])
    assert mode_share(values, where, np.array([3, 2])) == pytest.approx([2 / 3, 1.0])


def test_hash_depends_on_each_of_its_parts() -> None:
    tokens = np.arange(1000, dtype=np.uint32)
    base = hash_tokens(0, tokens, 5)
    assert np.unique(base).size == 1000
    assert not (base == hash_tokens(1, tokens, 5)).any()
    assert not (base == hash_tokens(0, tokens, 6)).any()
    assert np.corrcoef(base.astype(float), tokens)[0, 1] == pytest.approx(0, abs=0.1)


def test_ten_firings_in_three_million_tokens_are_rare_not_dead() -> None:
    tokens = np.arange(10, dtype=np.uint32) * 300_000
    columns = st.Columns(
        np.array([0, 10, 13]),
        np.r_[tokens, tokens[:3]].astype(np.uint32),
        np.ones(13, np.float16),
        0,
        128,
    )
    ids = np.zeros(3_145_728, np.int32)
    tables = st.describe(columns, ids, 3_145_728, top_k=2, seed=0)
    assert tables.statistics_F["count"].tolist() == [10, 3]
    assert tables.statistics_F["frequency"][0] == pytest.approx(10 / 3_145_728)
    assert not tables.statistics_F["flags"][0] & (st.DEAD | st.ULTRA_RARE)
    assert tables.statistics_F["flags"][1] & st.ULTRA_RARE
