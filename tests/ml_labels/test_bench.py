"""The benchmark of labels gives rows of plain values that measure something."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mistudio.ml.features.bench_labels import bench_labels
from mistudio.ml.features.labels.make import RuleLabel


def test_rows_are_plain_and_labels_score(tmp_path: Path) -> None:
    written: list[RuleLabel] = []
    (row,) = bench_labels(40, rows=200, length=32, l0=0.3, folder=tmp_path, write=written.extend)
    assert json.loads(json.dumps(row)) == row
    assert row["labelled"] >= 35
    assert row["tokens"] == 6400
    assert 1000 < row["entries"] < 2000
    parts = [row[f"{part}_seconds"] for part in ("promoted", "rules", "writing")]
    assert row["seconds"] == pytest.approx(sum(parts), abs=0.02)
    assert row["labels"] == len(written) > row["labelled"]
    assert row["of_neighbours"] > 10, "neighbours that share words are planted"
    assert row["deciles"] == sorted(row["deciles"])
    assert row["deciles"][5] > 0.6, "planted words are found"
    assert list(tmp_path.iterdir()) == [], "what was written is gone"
