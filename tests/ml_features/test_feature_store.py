"""What a feature page shows, against the arrays of the store and the original text."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mistudio.core.errors import Damaged, NotFound
from mistudio.ml.features.feature_store import KEPT, FeatureStore, TokenWeight, _words
from tests.ml_features.conftest import Workbench

FEATURE = 3


@pytest.fixture(scope="module")
def folder(workbench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store") / "fs"
    workbench.harvest(folder)
    return folder


@pytest.fixture
def store(folder: Path) -> FeatureStore:
    return FeatureStore(folder)


def _dense(store: FeatureStore) -> np.ndarray:
    """Activations of the feature [row, position]."""
    dense = np.zeros(store.summary["rows"] * store.row_length)
    tokens, values = store.entries(FEATURE)
    dense[tokens] = values
    return dense.reshape(-1, store.row_length)


def test_examples_show_the_strongest_token_of_each_row(
    store: FeatureStore, workbench: Workbench
) -> None:
    acts = _dense(store)
    order = sorted(range(len(acts)), key=lambda row: (-acts[row].max(), row))[:4]
    found = store.examples(FEATURE, before=3, after=2)
    assert [e.row for e in found] == order
    for example in found:
        assert example.value == acts[example.row].max()
        assert example.position == acts[example.row].argmax()
        row, start = np.load(store.folder / "rows.npy")[example.row]
        assert (example.token_row, example.token_position) == (row, start + example.position)
        low = start + max(0, example.position - 3)
        high = min(start + example.position + 3, start + store.row_length, 40)
        pieces = workbench.tokens.pieces(workbench.text, int(row), int(low), int(high))
        assert example.text == "".join(piece.text for piece in pieces)
        for piece in example.pieces:
            inside = acts[example.row][piece.lo - start : piece.hi - start]
            assert piece.value == inside.max()
        assert [p.value for p in example.pieces if p.peak] == [example.value]
        words = workbench.text.text(example.document)
        assert next(p.text for p in example.pieces if p.peak) in words


def test_fewer_examples_and_wider_windows(store: FeatureStore) -> None:
    assert len(store.examples(FEATURE, 2)) == 2
    wide = store.example_window(FEATURE, 0, 4, before=200, after=200)
    assert wide.pieces[0].lo % store.row_length in (0, 8)
    assert wide.value == _dense(store)[0, 4]
    assert len({piece.lo for piece in wide.pieces}) == len(wide.pieces)


def test_masked_tokens_are_marked(store: FeatureStore) -> None:
    mask = np.load(store.folder / "mask.npy").reshape(-1, store.row_length)
    row = int(np.flatnonzero((mask != KEPT).any(1))[0])
    shown = store.example_window(FEATURE, row, 2, before=100, after=100)
    assert not all(piece.kept for piece in shown.pieces)
    assert all(piece.value == 0 for piece in shown.pieces if not piece.kept)


def test_interval_examples_lie_in_their_interval(store: FeatureStore) -> None:
    bins = store.intervals(FEATURE)
    acts = _dense(store)
    active = acts[acts > 0]
    edges = np.linspace(0, active.max(), 6)
    for index, found in enumerate(bins):
        low, high = edges[4 - index], edges[5 - index]
        inside = ((active > low) & (active <= high)).sum()
        zeros = store.kept_tokens - active.size if index == 4 else 0
        assert found.count == inside
        assert found.share == (inside + zeros) / store.kept_tokens
        assert len(found.examples) == min(5, inside)
        assert all(low < e.value <= high for e in found.examples)
        assert all(e.value == acts[e.row, e.position] for e in found.examples)
    assert len(store.quantiles(FEATURE)) == 10


def test_histogram_and_profile(store: FeatureStore) -> None:
    acts = _dense(store)
    counts = np.histogram(acts[acts > 0], 50)[0]
    assert store.histogram(FEATURE).counts.tolist() == counts.tolist()
    assert store.position_profile(FEATURE).sum() == pytest.approx(acts.sum())
    assert store.log_histogram(FEATURE).sum() == (acts > 0).sum()


def test_top_tokens_by_weight(store: FeatureStore) -> None:
    ids = np.load(store.folder / "ids.npy")
    weight = np.bincount(ids, _dense(store).reshape(-1))
    top = store.top_tokens(FEATURE)
    assert [t.token_id for t in top] == np.argsort(-weight, kind="stable")[:5].tolist()
    assert top[0].weight == pytest.approx(weight.max() / weight.sum())
    assert top[0].text == store.vocabulary.text(top[0].token_id)


def test_table_rows_hold_the_figures_and_an_example(store: FeatureStore) -> None:
    rows = list(store.table_rows())
    assert [row["feature_index"] for row in rows] == list(range(store.n_features))
    row, line = rows[FEATURE], store.statistics[FEATURE]
    assert row["count"] == line["count"]
    assert row["mean"] == pytest.approx(line["sum"] / line["count"])
    pieces = json.loads(row["example"])
    assert max(value for _, value in pieces) == pytest.approx(row["max"], abs=1e-6)
    assert rows[5]["flags"] == "dead"
    assert rows[5]["example"] == "[]"
    lens = store.lens(FEATURE)
    assert lens is not None
    assert row["positive_tokens"].startswith(lens.positive[0].text.strip())
    assert row["negative_tokens"].startswith(lens.negative[0].text.strip())
    assert (row["skew"], row["kurtosis"]) == pytest.approx((lens.skew, lens.kurtosis))
    assert row["mean_all"] == pytest.approx(line["sum"] / store.kept_tokens)
    top = store.top_tokens(FEATURE)[0]
    assert (row["top_token"], row["top_token_share"]) == (top.text.strip(), top.weight)
    assert rows[5]["top_token"] is None


def test_table_rows_show_the_examples_that_the_page_shows(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mistudio.ml.features.table_rows.BLOCK", 7)
    for row in store.table_rows(around=3):
        top = store.examples(row["feature_index"], 1, before=3, after=3)
        shown = [[p.text, round(p.value, 6)] for p in top[0].pieces] if top else []
        assert json.loads(row["example"]) == shown


def test_dead_features_and_unknown_ones(store: FeatureStore) -> None:
    assert store.examples(5) == []
    assert store.intervals(5) == []
    with pytest.raises(NotFound, match="0 to 47"):
        store.examples(48)


def test_missing_and_broken_stores_are_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="find the features again"):
        FeatureStore(tmp_path / "none")
    shutil.copytree(folder, tmp_path / "fs")
    (tmp_path / "fs" / "csc_values.npy").write_bytes(b"\x93NUMPY\x01\x00")
    with pytest.raises(Damaged, match="csc_values"):
        FeatureStore(tmp_path / "fs")
    (tmp_path / "fs" / "csc_values.npy").unlink()
    with pytest.raises(Damaged, match="lacks csc_values"):
        FeatureStore(tmp_path / "fs")


def test_reading_needs_neither_torch_nor_the_model() -> None:
    code = (
        "import sys, mistudio.ml.features.feature_store;"
        "print([m for m in ('torch', 'transformers', 'PySide6') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_blank_tokens_stay_visible_in_the_table() -> None:
    tokens = [TokenWeight(1, " the", 0.5), TokenWeight(2, "\n\n", 0.3), TokenWeight(3, "  ", 0.1)]
    assert _words(tokens) == "the ↵↵ ␣␣"
