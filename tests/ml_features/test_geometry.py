"""Decoder geometry and neighbours against brute force in NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mistudio.core.errors import Cancelled, Damaged, Mismatch
from mistudio.ml.features import decoder_rows, geometry
from mistudio.ml.features.decoder_rows import neighbours, open_rows, read_geometry
from mistudio.ml.features.geometry import measure_geometry
from mistudio.ml.sae.base import SparseAutoencoder

FEATURES, WIDTH = 60, 24


def made_sae(seed: int = 0, features: int = FEATURES, encoder: str = "sae") -> SparseAutoencoder:
    generator = torch.Generator().manual_seed(seed)
    W_dec_FO = torch.randn(features, WIDTH, generator=generator)
    if features > 20:
        W_dec_FO[7] = 2 * W_dec_FO[3] + 0.05 * W_dec_FO[9]  # nearly a duplicate, of another length
        W_dec_FO[11] = W_dec_FO[12]
        W_dec_FO[20] = 0
    return SparseAutoencoder(
        torch.randn(WIDTH, features, generator=generator),
        torch.zeros(features),
        W_dec_FO,
        torch.randn(WIDTH, generator=generator),
        "standard",
        apply_b_dec_to_input=encoder == "sae",
        encoder=encoder,
    )


def cosines(sae: SparseAutoencoder) -> np.ndarray:
    """All pairs in float64, own pairs and rows without a length last."""
    W = sae.W_dec_FO.double().numpy()
    with np.errstate(invalid="ignore"):
        unit = W / np.linalg.norm(W, axis=1, keepdims=True)
    found = unit @ unit.T
    np.fill_diagonal(found, -np.inf)
    return np.where(np.isnan(found), -np.inf, found)


def test_rows_are_read_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    W = made_sae().W_dec_FO.numpy()
    whole = neighbours(W, W[5], 30, leave_out=5)
    monkeypatch.setattr(decoder_rows, "BLOCK_BYTES", 7 * 4 * WIDTH)
    for lengths in (None, np.linalg.norm(W, axis=1)):
        parts = neighbours(W, W[5], 30, leave_out=5, lengths_F=lengths)
        assert parts.features.tolist() == whole.features.tolist()


@pytest.mark.parametrize("block", [1, 700, 1 << 23])
def test_nearest_rows_of_all(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "BLOCK_ENTRIES", block)
    sae = made_sae()
    found, expected = measure_geometry(sae), cosines(sae)
    for index in range(FEATURES):
        if index == 20:
            assert found["nearest"][index].tolist() == [-1] * 10
            assert np.isnan(found["cosine"][index]).all()
            continue
        order = np.lexsort((np.arange(FEATURES), -expected[index]))[:10]
        np.testing.assert_allclose(found["cosine"][index], expected[index][order], atol=1e-6)
        assert found["nearest"][index].tolist() == order.tolist()
    assert found["nearest"][7, 0] == 3
    assert found["cosine"][7, 0] > 0.9
    assert found["nearest"][11, 0] == 12


def test_lengths_cosines_and_largest_entries() -> None:
    sae = made_sae()
    found = measure_geometry(sae)
    W, b = sae.W_dec_FO.double().numpy(), sae.b_dec_O.double().numpy()
    E = sae.W_enc_DF.T.double().numpy()
    norm = np.linalg.norm(W, axis=1)
    np.testing.assert_allclose(found["norm"], norm, rtol=1e-6)
    np.testing.assert_allclose(found["bias_product"], W @ b, atol=1e-5)
    with np.errstate(invalid="ignore"):
        encoder = (E * W).sum(1) / np.linalg.norm(E, axis=1) / norm
        np.testing.assert_allclose(found["encoder_cosine"], encoder, atol=1e-6)
        bias = W @ b / norm / np.linalg.norm(b)
    np.testing.assert_allclose(found["bias_cosine"], bias, atol=1e-6)
    for index in (0, 7):
        order = np.argsort(-np.abs(W[index]))[:3]
        assert found["neuron"][index].tolist() == order.tolist()
        np.testing.assert_allclose(found["neuron_value"][index], W[index][order], rtol=1e-6)
        share = np.abs(W[index][order]) / np.abs(W[index]).sum()
        np.testing.assert_allclose(found["neuron_share"][index], share, rtol=1e-5)


def test_few_features_and_transcoders() -> None:
    alone, few = measure_geometry(made_sae(features=1)), measure_geometry(made_sae(features=3))
    assert alone["nearest"].tolist() == [[-1] * 10]
    assert sorted(few["nearest"][0][:2].tolist()) == [1, 2]
    assert few["nearest"][0][2:].tolist() == [-1] * 8
    transcoder = measure_geometry(made_sae(encoder="transcoder"))
    assert np.isnan(transcoder["encoder_cosine"]).all()


def test_measuring_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "BLOCK_ENTRIES", FEATURES)

    def check(done: float) -> None:
        if done >= 0.5:
            raise Cancelled

    with pytest.raises(Cancelled):
        measure_geometry(made_sae(), check=check)


def test_rows_are_read_from_the_weights_and_searched(tmp_path: Path) -> None:
    sae = made_sae()
    save_file({"b_dec": sae.b_dec_O, "W_dec": sae.W_dec_FO}, tmp_path / "w.safetensors")
    rows = open_rows(tmp_path / "w.safetensors")
    assert (rows == sae.W_dec_FO.numpy()).all()
    expected = cosines(sae)[5]
    found = neighbours(rows, rows[5], 40, leave_out=5)
    order = np.lexsort((np.arange(FEATURES), -expected))[:40]
    assert found.features.tolist() == order.tolist()
    np.testing.assert_allclose(found.cosines, expected[order], atol=1e-6)
    lengths = sae.W_dec_FO.norm(dim=1).numpy()
    known = neighbours(rows, rows[5], 40, leave_out=5, lengths_F=lengths)
    assert known.features.tolist() == order.tolist()
    whole = neighbours(rows, rows[5], 128, leave_out=5)
    assert whole.features.tolist()[-1] == 20  # no length, no cosine: last
    assert np.isnan(whole.cosines[-1])
    assert neighbours(rows, rows[5], 1).features.tolist() == [5]


def test_what_cannot_be_compared_or_read_is_told(tmp_path: Path) -> None:
    sae = made_sae()
    with pytest.raises(Mismatch, match="one stream"):
        neighbours(sae.W_dec_FO.numpy(), np.ones(WIDTH + 1), 5)
    with pytest.raises(Damaged):
        open_rows(tmp_path / "none.safetensors")
    (tmp_path / "w.safetensors").write_bytes(b"\x00" * 4)
    with pytest.raises(Damaged):
        open_rows(tmp_path / "w.safetensors")
    assert read_geometry(tmp_path / "none.npy") is None
    np.save(tmp_path / "other.npy", np.zeros(3))
    assert read_geometry(tmp_path / "other.npy") is None
    np.save(tmp_path / "geometry.npy", measure_geometry(sae))
    kept = read_geometry(tmp_path / "geometry.npy")
    assert kept is not None
    assert kept["nearest"][7, 0] == 3
