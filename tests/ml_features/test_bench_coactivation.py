"""The measurements of co-activation and neighbours run, on small ones, and leave nothing behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mistudio.ml.features.bench_coactivation import (
    bench_all_pairs,
    bench_coactivation,
    bench_neighbours,
)
from mistudio.ml.features.feature_store import FeatureStore
from tests.helpers.plain_store import write_plain_store


def test_rows_name_what_was_measured(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    acts_TF = np.where(rng.random((500, 30)) < np.linspace(0.0, 0.2, 30), 1.0, 0.0)
    write_plain_store(tmp_path / "fs", acts_TF, np.ones(500, bool))
    (tmp_path / "bench").mkdir()
    rows = [
        *bench_coactivation(FeatureStore(tmp_path / "fs"), features=4, rounds=2),
        *bench_neighbours(tmp_path / "bench", features=100, width=8, rounds=2),
        *bench_all_pairs(features=50, width=8),
    ]
    assert [row["rounds"] for row in rows] == [4, 2, 2, 2, 1]
    assert abs(rows[1]["density"] - 0.1) < 0.03
    assert 0.05 < rows[0]["density"] < 0.15
    assert all(0 < row["median_ms"] <= row["slowest_ms"] for row in rows)
    assert list((tmp_path / "bench").iterdir()) == []
