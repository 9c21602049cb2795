"""The benchmark of labels gives rows of plain values that measure something."""

from __future__ import annotations

import json
from pathlib import Path

from mistudio.ml.features.bench_labels import bench_labels


def test_rows_are_plain_and_labels_score(tmp_path: Path) -> None:
    (row,) = bench_labels(40, rows=200, length=32, l0=0.3, folder=tmp_path)
    assert json.loads(json.dumps(row)) == row
    assert row["labelled"] >= 35
    assert row["tokens"] == 6400
    assert 1000 < row["entries"] < 2000
    assert row["seconds"] > 0
    assert row["deciles"] == sorted(row["deciles"])
    assert row["deciles"][5] > 0.6, "planted words are found"
    assert list(tmp_path.iterdir()) == [], "what was written is gone"
