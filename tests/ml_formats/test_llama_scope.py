"""Llama Scope: a scale folded into the weights, one threshold, tensors in bfloat16."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mistudio.core.errors import Damaged, Mismatch, NotFound, StudioError, Unsupported
from mistudio.ml.formats.llama_scope import read_llama_scope
from mistudio.ml.formats.norm_gain import Gain, behind_gain
from mistudio.ml.formats.registry import detect
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.sae.fold import fold_decoder_norms, fold_input_scale
from tests.ml_formats.foreign_files import D, M, agrees, inputs, kept_above, parts, write_json

OWN = "Llama3_1-8B-Base-LXR-8x/Llama3_1-8B-Base-L15R-8x"
NORM = 3.2
CONFIG: dict[str, Any] = {
    "d_model": D,
    "d_sae": M,
    "hook_point_in": "blocks.15.hook_resid_post",
    "hook_point_out": "blocks.15.hook_resid_post",
    "act_fn": "jumprelu",
    "jump_relu_threshold": 0.55,
    "norm_activation": "dataset-wise",
    "dataset_average_activation_norm": {"in": NORM, "out": NORM},
    "apply_decoder_bias_to_pre_encoder": False,
    "use_glu_encoder": False,
    "top_k": 50,
}


NORM_OUT = 0.7
TRANSCODER: dict[str, Any] = {
    "hook_point_in": "blocks.15.ln2.hook_normalized",
    "hook_point_out": "blocks.15.hook_mlp_out",
    "jump_relu_threshold": 0.1,
    "dataset_average_activation_norm": {"in": NORM, "out": NORM_OUT},
}


def stored(*, unit: bool) -> dict[str, torch.Tensor]:
    """The numbers that the file holds, in bfloat16 and so exactly in float64."""
    return {name: tensor.bfloat16() for name, tensor in parts(unit=unit).items()}


def written(
    folder: Path, config: dict[str, Any] | None = None, *, unit: bool = True, **more: torch.Tensor
) -> Path:
    p = stored(unit=unit)
    write_json(folder / "hyperparams.json", {**CONFIG, **(config or {})})
    (folder / "checkpoints").mkdir(exist_ok=True)
    state = {
        "encoder.weight": p["W_enc"].T.contiguous(),
        "encoder.bias": p["b_enc"],
        "decoder.weight": p["W_dec"].T.contiguous(),
        "decoder.bias": p["b_dec"],
    }
    save_file({**state, **more}, folder / "checkpoints" / "final.safetensors")
    return folder


@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("by_length", [True, False, None])
def test_it_computes_what_reads_scaled_activations(
    tmp_path: Path, by_length: bool | None, unit: bool
) -> None:
    told = {} if by_length is None else {"sparsity_include_decoder_norm": by_length}
    sae, metadata = read_llama_scope(written(tmp_path / OWN, told, unit=unit))
    p = {name: tensor.double() for name, tensor in stored(unit=unit).items()}
    scale = math.sqrt(D) / NORM
    h = scale * inputs().double() @ p["W_enc"] + p["b_enc"]
    lengths = p["W_dec"].norm(dim=1) if by_length is not False else 1.0
    f = kept_above(h * lengths, 0.55 * scale) / lengths
    scaled = {**p, "W_dec": p["W_dec"] / scale, "b_dec": p["b_dec"] / scale}
    agrees(sae, f, scaled)
    y = (f @ p["W_dec"] + p["b_dec"]) / scale
    assert (sae.reconstruct(inputs()).double() - y).abs().max() <= 3e-6 * y.abs().max()
    assert metadata["hook_name"] == "blocks.15.hook_resid_post"
    assert metadata["model_name"] == "meta-llama/Llama-3.1-8B"
    assert metadata["source_config"]["top_k"] == 50


@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("by_length", [True, False, None])
def test_a_transcoder_computes_what_its_program_makes_of_the_file(
    tmp_path: Path, by_length: bool | None, unit: bool
) -> None:
    told = {} if by_length is None else {"sparsity_include_decoder_norm": by_length}
    folder = tmp_path / "Llama3_1-8B-Base-LXTC-8x/Llama3_1-8B-Base-L15TC-8x"
    sae, metadata = read_llama_scope(written(folder, {**TRANSCODER, **told}, unit=unit))
    p = {name: tensor.double() for name, tensor in stored(unit=unit).items()}
    # its loader divides both scales out, then gives the decoder unit rows, and compares last
    scale, scale_out = math.sqrt(D) / NORM, math.sqrt(D) / NORM_OUT
    b_enc, b_dec = p["b_enc"] / scale, p["b_dec"] / scale_out
    W_enc, W_dec = p["W_enc"], p["W_dec"] * scale / scale_out
    lengths = W_dec.norm(dim=1)
    if by_length is not False:
        W_enc, b_enc, W_dec = W_enc * lengths, b_enc * lengths, W_dec / lengths[:, None]
    f = kept_above(inputs().double() @ W_enc + b_enc, 0.1)
    y = f @ W_dec + b_dec
    assert 0.05 < (f > 0).double().mean() < 0.5
    assert sae.encoder == "transcoder"
    assert torch.equal(sae.encode(inputs()) > 0, f > 0)
    in_units = f if by_length is not False else f * lengths
    assert (sae.encode(inputs()).double() - in_units).abs().max() <= 1e-6 * in_units.max()
    assert (sae.reconstruct(inputs()).double() - y).abs().max() <= 1e-6 * y.abs().max()
    assert metadata["hook_name"] == "blocks.15.ln2.hook_normalized"
    assert metadata["hook_name_out"] == "blocks.15.hook_mlp_out"
    assert metadata["model_name"] == "meta-llama/Llama-3.1-8B"


def test_scales_and_a_gain_are_folded_to_the_last_digits() -> None:
    p = {name: tensor.double() for name, tensor in parts(unit=False).items()}
    x, gain = inputs().double(), torch.linspace(-2.0, 3.1, D).double()
    skip, threshold = torch.linspace(-1, 1, D * D).double().view(D, D), torch.linspace(0.1, 2, M)
    sae = SparseAutoencoder(
        p["W_enc"],
        p["b_enc"],
        p["W_dec"],
        p["b_dec"],
        "jumprelu",
        threshold_F=threshold.double(),
        apply_b_dec_to_input=False,
        W_skip_OD=skip,
        encoder="skip_transcoder",
    )
    scale, scale_out = 1.7, 0.03
    f = kept_above(scale * x @ p["W_enc"] + p["b_enc"], threshold.double())
    y = (f @ p["W_dec"] + p["b_dec"] + scale * x @ skip.T) / scale_out
    folded = behind_gain(
        fold_decoder_norms(fold_input_scale(sae, scale, scale_out)), Gain(gain, 0 * gain)
    )
    assert (folded.reconstruct(x * gain) - y).abs().max() <= 1e-12 * y.abs().max()
    assert torch.equal(folded.encode(x * gain) > 0, f > 0)


def test_any_of_its_files_leads_to_it(tmp_path: Path) -> None:
    folder = written(tmp_path / "here")
    for path in (folder / "hyperparams.json", folder / "checkpoints" / "final.safetensors"):
        assert (detect(path).format.name, detect(path).folder) == ("llama_scope", folder)
    assert "model_name" not in read_llama_scope(folder)[1]


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        ({**TRANSCODER, "dataset_average_activation_norm": {"in": 1}}, Damaged, "usable out"),
        ({**TRANSCODER, "apply_decoder_bias_to_pre_encoder": True}, Unsupported, "subtract"),
        ({"act_fn": "topk"}, Unsupported, "topk"),
        ({"norm_activation": "inference"}, Unsupported, "inference"),
        ({"norm_activation": "token-wise"}, Unsupported, "token-wise"),
        ({"use_glu_encoder": True}, Unsupported, "gated"),
        ({"apply_decoder_bias_to_pre_encoder": True}, Unsupported, "subtract"),
        ({"jump_relu_threshold": None}, Damaged, "jump_relu_threshold"),
        ({"dataset_average_activation_norm": None}, Damaged, "dataset_average"),
        ({"dataset_average_activation_norm": {"in": 0}}, Damaged, "usable in"),
        ({"d_sae": M + 1}, Mismatch, "encoder.weight"),
    ],
)
def test_wrong_configurations_are_sentences(
    tmp_path: Path, config: dict[str, Any], error: type[StudioError], words: str
) -> None:
    with pytest.raises(error, match=words):
        read_llama_scope(written(tmp_path, config))


def test_damaged_files_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"hyperparams\.json"):
        read_llama_scope(tmp_path)
    with pytest.raises(Unsupported, match="glu"):
        read_llama_scope(written(tmp_path, **{"encoder_glu.weight": torch.zeros(M, D)}))
    file = written(tmp_path) / "checkpoints" / "final.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(Damaged, match="damaged"):
        read_llama_scope(tmp_path)
    file.unlink()
    with pytest.raises(NotFound, match=r"final\.safetensors"):
        read_llama_scope(tmp_path)
