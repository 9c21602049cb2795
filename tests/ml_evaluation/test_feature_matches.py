"""Matched features against brute-force NumPy over dense activations."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mistudio.core.control import JobControl
from mistudio.core.errors import Cancelled, Mismatch
from mistudio.core.feature_match_figures import MatchRow, sides, write_matches
from mistudio.ml.evaluation import feature_matches
from mistudio.ml.evaluation.feature_matches import match_features
from mistudio.ml.features.code_log import CodeLog, TokenCodes
from mistudio.ml.sae.selection import SparseCodes


def log_of(dense_TF: np.ndarray, most: int = 10**6, batch: int = 7) -> CodeLog:
    """Dense activations told to a log in batches, with a selected zero among them."""
    log = CodeLog(dense_TF.shape[1], most)
    for start in range(0, len(dense_TF), batch):
        part = dense_TF[start : start + batch]
        mask = part != 0
        mask[0, 0] = True  # a latent that was selected at zero
        rows, ids = np.nonzero(mask)
        splits = np.concatenate([[0], np.cumsum(mask.sum(1))])
        log.add(
            SparseCodes(
                torch.from_numpy(part[rows, ids]),
                torch.from_numpy(ids),
                torch.from_numpy(splits),
            )
        )
    return log


def codes_of(dense_TF: np.ndarray) -> TokenCodes:
    return log_of(dense_TF).codes()


@pytest.fixture(scope="module")
def two() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Decoders and activations of two SAEs with shared, split, rescaled and lonely features."""
    rng = np.random.default_rng(0)
    a_FO = rng.normal(size=(23, 16)).astype(np.float32)
    b_GO = rng.normal(size=(31, 16)).astype(np.float32)
    b_GO[5:12] = a_FO[:7] + 0.1 * rng.normal(size=(7, 16))
    a_TF = np.maximum(rng.normal(size=(400, 23)) - 1.0, 0).astype(np.float32)
    b_TG = np.maximum(rng.normal(size=(400, 31)) - 1.0, 0).astype(np.float32)
    b_TG[:, 5:12] = 3 * a_TF[:, :7] + (a_TF[:, :7] > 0) * 0.2
    b_TG[:, 20] = 0.5 * a_TF[:, 9]  # alike in activation, not in direction
    a_TF[:, 11] = 0
    b_TG[:, 6] = 0  # near in direction, dead
    b_TG[:, 30] = 2.0  # never changes
    return a_FO, b_GO, a_TF, b_TG


def brute(two: Any) -> tuple[np.ndarray, np.ndarray]:
    a_FO, b_GO, a_TF, b_TG = (array.astype(np.float64) for array in two)
    cosine = a_FO @ b_GO.T
    cosine /= np.linalg.norm(a_FO, axis=1)[:, None] * np.linalg.norm(b_GO, axis=1)
    cosine[a_TF.max(0) == 0] = -np.inf
    cosine[:, b_TG.max(0) == 0] = -np.inf
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.corrcoef(a_TF.T, b_TG.T)[: len(a_FO), len(a_FO) :]
    return cosine, np.where(np.isnan(r) | (b_TG.std(0) == 0), -np.inf, r)


@pytest.mark.parametrize("entries", [1 << 22, 100, 1])
def test_partners_are_those_of_all_pairs(two: Any, monkeypatch: Any, entries: int) -> None:
    monkeypatch.setattr(feature_matches, "CHUNK_ENTRIES", max(entries, 64))
    a_FO, b_GO, a_TF, b_TG = two
    found = match_features(
        torch.from_numpy(a_FO), torch.from_numpy(b_GO), codes_of(a_TF), codes_of(b_TG)
    )
    cosine, r = brute(two)
    assert found["tokens"] == 400
    for side, table, name in (
        ("a", cosine, "cosine"),
        ("a", r, "correlation"),
        ("b", cosine.T, "cosine"),
        ("b", r.T, "correlation"),
    ):
        for index, row in enumerate(table):
            value, of = found[side][name][index], found[side][f"{name}_of"][index]
            if np.isfinite(row).any():
                assert of == row.argmax(), (side, name, index)
                assert value == pytest.approx(row.max(), abs=2e-6)
            else:
                assert (value, of) == (None, -1)
    for index in range(len(a_FO)):
        there, near = found["a"]["cosine_of"][index], found["a"]["correlation_of"][index]
        if there >= 0 and np.isfinite(r[index, there]):
            assert found["a"]["cosine_correlation"][index] == pytest.approx(
                r[index, there], abs=2e-6
            )
        if near >= 0:
            plain = a_FO[index] @ b_GO[near]
            plain /= np.linalg.norm(a_FO[index]) * np.linalg.norm(b_GO[near])
            assert found["a"]["correlation_cosine"][index] == pytest.approx(plain, abs=2e-6)
    assert found["a"]["firings"] == (a_TF > 0).sum(0).tolist()
    assert found["b"]["firings"] == (b_TG > 0).sum(0).tolist()


def test_pairs_and_what_each_has_alone(two: Any, tmp_path: Path) -> None:
    a_FO, b_GO, a_TF, b_TG = two
    found = match_features(
        torch.from_numpy(a_FO), torch.from_numpy(b_GO), codes_of(a_TF), codes_of(b_TG)
    )
    told = sides(found)
    cosine, r = brute(two)
    expected = set()
    for a in range(len(a_FO)):
        for table, least, by in ((cosine, 0.7, "cosine"), (r, 0.5, "correlation")):
            b = int(table[a].argmax())
            if table[a, b] >= least and table[:, b].argmax() == a:
                expected.add((a, b, by))
    pairs = {(row.a, row.b): row for row in told.pairs}
    assert len(pairs) == len(told.pairs)
    for (a, b), row in pairs.items():
        by = {"both": ("cosine", "correlation")}.get(row.matched_by, (row.matched_by,))
        assert {(a, b, name) for name in by} == {e for e in expected if e[:2] == (a, b)}
    assert {e[:2] for e in expected} == set(pairs)
    assert pairs[(0, 5)].matched_by == "both"
    assert pairs[(9, 20)].matched_by == "correlation"
    for row in told.only_a:
        assert cosine[row.a].max() < 0.7
        assert r[row.a].max() < 0.5
        assert a_TF[:, row.a].max() > 0
    alone = [
        g
        for g in range(len(b_GO))
        if b_TG[:, g].max() > 0 and cosine[:, g].max() < 0.7 and r[:, g].max() < 0.5
    ]
    assert sorted(row.b for row in told.only_b if row.b is not None) == alone
    counts = [row.firings_a or 0 for row in told.only_a]
    assert counts == sorted(counts, reverse=True)
    assert told.shared_a == told.fired_a - len(told.only_a)
    written = write_matches(found, tmp_path / "m.csv")
    with (tmp_path / "m.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == written == len(told.pairs) + len(told.only_a) + len(told.only_b)
    first = told.pairs[0]
    assert (
        MatchRow(
            int(rows[0]["a"]),
            int(rows[0]["b"]),
            float(rows[0]["cosine"]),
            float(rows[0]["correlation"]),
            rows[0]["matched_by"],
            int(rows[0]["firings_a"]),
            int(rows[0]["firings_b"]),
        )
        == first
    )


def test_a_log_keeps_the_first_tokens_only(two: Any) -> None:
    a_TF = two[2]
    cut = log_of(a_TF, most=100).codes()
    whole = codes_of(a_TF[:100])
    assert cut.tokens == 100
    for one, other in zip(cut, whole, strict=True):
        assert np.array_equal(one, other)
    dense = np.zeros((100, a_TF.shape[1]), np.float32)
    owner = np.repeat(np.arange(100), np.diff(cut.row_splits))
    dense[owner, cut.row_features] = cut.row_values
    assert np.array_equal(dense, a_TF[:100])


def test_other_tokens_and_a_cancel_are_told(two: Any) -> None:
    a_FO, b_GO, a_TF, b_TG = two
    decoders = torch.from_numpy(a_FO), torch.from_numpy(b_GO)
    with pytest.raises(Mismatch):
        match_features(*decoders, codes_of(a_TF), codes_of(b_TG[:-1]))
    control = JobControl()
    control.cancel()
    with pytest.raises(Cancelled):
        match_features(*decoders, codes_of(a_TF), codes_of(b_TG), lambda _: control.check())
