"""SAELens's matching_pursuit: read, written back, and refused where no other file can hold it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mistudio.core.errors import Damaged, InvalidInput, Mismatch, StudioError, Unsupported
from mistudio.core.training_configs import TrainConfig
from mistudio.ml.formats.circuit_tracer import write_circuit_tracer
from mistudio.ml.formats.dictionary_learning import write_dictionary_learning
from mistudio.ml.formats.registry import detect
from mistudio.ml.formats.saelens import read_saelens, write_saelens
from mistudio.ml.formats.sparsify import write_sparsify
from mistudio.ml.sae.matching_pursuit import Pursuit
from mistudio.ml.training.continue_run import check_fits
from tests.ml_formats import test_saelens_kinds
from tests.ml_formats.foreign_files import D, M, inputs, kept_by_pursuit, parts, rows_to_pursue
from tests.ml_formats.test_saelens_kinds import NORMS, scaled

RULES: dict[str, Any] = {
    "residual_threshold": 0.5,
    "max_iterations": 7,
    "stop_on_duplicate_support": False,
}


def written(folder: Path, *, unit: bool = True, **config: Any) -> Path:
    """A folder as SAELens writes it: neither an encoder nor a bias of latents."""
    made = test_saelens_kinds.written(folder, {"architecture": "matching_pursuit", **config})
    tensors = {"W_dec": rows_to_pursue(unit=unit), "b_dec": parts()["b_dec"]}
    save_file(tensors, folder / "sae_weights.safetensors")
    return made


@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("rules", [{"max_iterations": None}, RULES])
def test_it_is_read_and_written_back(tmp_path: Path, rules: dict[str, Any], unit: bool) -> None:
    folder = written(tmp_path / "a", unit=unit, **rules)
    sae, _ = read_saelens(folder)
    assert detect(folder).format.name == "saelens"
    rows, b_dec, x = rows_to_pursue(unit=unit).double(), parts()["b_dec"].double(), inputs()
    once, least = not rules.get("max_iterations"), rules.get("residual_threshold", 1e-2)
    f = kept_by_pursuit(x - b_dec, rows, least, rules["max_iterations"], once=once)
    assert torch.equal(sae.encode(x) > 1e-4, f > 1e-4)
    y = f @ rows + b_dec
    assert (sae.reconstruct(x).double() - y).abs().max() <= 3e-6 * y.abs().max()
    write_saelens(tmp_path / "b", sae)
    again, _ = read_saelens(tmp_path / "b")
    assert again.pursuit == sae.pursuit
    assert torch.equal(again.encode(x), sae.encode(x))
    assert torch.equal(again.reconstruct(x), sae.reconstruct(x))
    before, after = (load_file(tmp_path / one / "sae_weights.safetensors") for one in "ab")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    config = json.loads((tmp_path / "b" / "cfg.json").read_text())
    assert "k" not in config
    assert config["architecture"] == "matching_pursuit"


def test_what_the_file_leaves_out_is_the_programs_own(tmp_path: Path) -> None:
    sae, _ = read_saelens(written(tmp_path))
    assert sae.pursuit == Pursuit(1e-2, None, stop_on_duplicate_support=True)
    assert sae.apply_b_dec_to_input


def test_a_bias_that_is_not_subtracted_is_not_added(tmp_path: Path) -> None:
    sae, _ = read_saelens(written(tmp_path / "a", apply_b_dec_to_input=False))
    p, x = parts(), inputs()
    f = kept_by_pursuit(x, p["W_dec"])
    y = f @ p["W_dec"].double()
    assert (sae.reconstruct(x).double() - y).abs().max() <= 3e-6 * y.abs().max()
    write_saelens(tmp_path / "b", sae)
    config = json.loads((tmp_path / "b" / "cfg.json").read_text())
    assert config["apply_b_dec_to_input"] is False
    assert torch.equal(read_saelens(tmp_path / "b")[0].reconstruct(x), sae.reconstruct(x))


@pytest.mark.parametrize("norm", NORMS)
def test_a_token_norm_is_run_and_undone(tmp_path: Path, norm: str) -> None:
    sae, _ = read_saelens(written(tmp_path / "a", normalize_activations=norm, **RULES))
    x, p = inputs(), {name: tensor.double() for name, tensor in parts().items()}
    z, scale, mean = scaled(x, norm)
    f = kept_by_pursuit(z - p["b_dec"], p["W_dec"], 0.5, 7, once=False)
    y = (f @ p["W_dec"] + p["b_dec"]) * scale + mean
    assert (sae.reconstruct(x).double() - y).abs().max() <= 3e-6 * y.abs().max()
    assert (sae.encode(x).double() - f * scale).abs().max() <= 3e-6 * (f * scale).abs().max()
    write_saelens(tmp_path / "b", sae)
    assert torch.equal(read_saelens(tmp_path / "b")[0].reconstruct(x), sae.reconstruct(x))


def test_the_scale_beside_a_checkpoint_is_folded(tmp_path: Path) -> None:
    folder = written(tmp_path, normalize_activations="expected_average_only_in", **RULES)
    (folder / "activation_scaler.json").write_text('{"scaling_factor": 0.25}')
    sae, _ = read_saelens(folder)
    assert sae.pursuit == Pursuit(2.0, 7, stop_on_duplicate_support=False)
    assert torch.equal(sae.W_dec_FO, parts()["W_dec"])
    p, x = {name: tensor.double() for name, tensor in parts().items()}, inputs().double()
    f = kept_by_pursuit(0.25 * x - p["b_dec"], p["W_dec"], 0.5, 7, once=False)
    y = (f @ p["W_dec"] + p["b_dec"]) / 0.25
    assert (sae.reconstruct(inputs()).double() - y).abs().max() <= 3e-6 * y.abs().max()
    assert torch.equal(sae.encode(inputs()) > 1e-4, f > 1e-4)


def test_what_cannot_hold_it_says_so(tmp_path: Path) -> None:
    sae, _ = read_saelens(written(tmp_path / "a"))
    with pytest.raises(Unsupported, match=r"no matching_pursuit SAEs; SAELens can hold"):
        write_dictionary_learning(tmp_path / "x", sae)
    with pytest.raises(Unsupported, match=r"this one is matching_pursuit; SAELens can hold"):
        write_sparsify(tmp_path / "x", sae)
    with pytest.raises(Unsupported, match="only holds transcoders; SAELens can"):
        write_circuit_tracer(tmp_path / "x", {0: sae}, "mlp_in", "mlp_out", "tiny")
    with pytest.raises(InvalidInput, match="no training here that a matching_pursuit SAE fits"):
        check_fits(sae, TrainConfig(architecture="topk", width=M), D)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        ({"normalize_activations": "covariance_whitening"}, Unsupported, "whitening"),
        ({"max_iterations": 0}, Damaged, "at least 1"),
        ({"max_iterations": 2.5}, Damaged, "when the pursuit is done"),
        ({"residual_threshold": "little"}, Damaged, "when the pursuit is done"),
        ({"residual_threshold": float("nan")}, Damaged, "must be a number"),
        ({"d_in": D + 1}, Mismatch, "W_dec has shape"),
        ({"d_sae": M + 1}, Mismatch, "W_dec has shape"),
    ],
)
def test_what_cannot_be_read_is_said(
    tmp_path: Path, config: dict[str, Any], error: type[StudioError], words: str
) -> None:
    folder = written(tmp_path, **config)
    eye = torch.eye(D, dtype=torch.float64)
    whitening = {"mean": eye[0].clone(), "matrix": eye, "inverse_matrix": eye.clone()}
    save_file(whitening, folder / "activation_whitening.safetensors")
    with pytest.raises(error, match=words):
        read_saelens(folder)


def test_an_encoder_beside_it_is_not_understood(tmp_path: Path) -> None:
    folder = written(tmp_path)
    p = parts()
    save_file(
        {name: p[name] for name in ("W_enc", "W_dec", "b_dec")},
        folder / "sae_weights.safetensors",
    )
    with pytest.raises(Unsupported, match="W_enc"):
        read_saelens(folder)
