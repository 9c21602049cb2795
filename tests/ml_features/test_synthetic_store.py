"""The made-up store is a store: its tables follow from its entries, its pages hold its text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mistudio.ml.features.feature_store import KEPT
from mistudio.ml.features.synthetic_store import SyntheticStore, write_synthetic


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SyntheticStore:
    folder = tmp_path_factory.mktemp("synthetic")
    return write_synthetic(folder, 256, 8192, 6.0, seed=3, context=64, vocabulary=500)


def test_the_same_seed_gives_the_same_bytes(made: SyntheticStore, tmp_path: Path) -> None:
    size = {"context": 64, "vocabulary": 500}
    again = write_synthetic(tmp_path / "a", 256, 8192, 6.0, seed=3, **size)
    other = write_synthetic(tmp_path / "b", 256, 8192, 6.0, seed=4, **size)
    assert again.store_hash == made.store_hash != other.store_hash


def test_counts_density_and_order(made: SyntheticStore) -> None:
    store = made.open()
    splits = np.load(made.store / "csr_splits.npy")
    features = np.load(made.store / "csr_features.npy")
    kept = np.load(made.store / "mask.npy") == KEPT
    assert made.n_tokens == kept.sum() == 8192 - 8192 // 64
    assert (np.diff(splits)[~kept] == 0).all()
    assert made.entries / made.n_tokens == pytest.approx(6.0, rel=0.1)
    counts = np.bincount(features, minlength=256)
    assert store.statistics["count"].tolist() == counts.tolist()
    for token in np.flatnonzero(kept)[:50]:
        line = features[splits[token] : splits[token + 1]].astype(int)
        assert (np.diff(line) > 0).all()
    live = counts[counts > 0] / made.n_tokens
    assert live.max() / np.median(live) > 5


def test_pages_hold_the_text_of_their_tokens(made: SyntheticStore) -> None:
    store = made.open()
    ids = np.load(made.store / "ids.npy").reshape(-1, 64)
    busiest = int(store.statistics["count"].argmax())
    shown = store.examples(busiest, before=5, after=5)
    assert len(shown) == 20
    for example in shown:
        peak = next(piece for piece in example.pieces if piece.peak)
        assert peak.text == store.vocabulary.text(int(ids[example.row, example.position]))
        assert peak.value == example.value > 0
    assert len(store.quantiles(busiest)) == 10
    assert store.lens(busiest) is not None
