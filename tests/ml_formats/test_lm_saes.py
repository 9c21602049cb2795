"""Llama Scope R1-Distill: the scale among the weights, thresholds as logarithms."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mistudio.core.errors import Damaged, Mismatch, StudioError, Unsupported
from mistudio.ml.formats.listing import saes_of
from mistudio.ml.formats.lm_saes import read_lm_saes
from mistudio.ml.formats.registry import detect
from tests.ml_formats.foreign_files import D, M, agrees, inputs, kept_above, parts, write_json

HOOK = "blocks.15.hook_resid_post"
NORM = 3.2
CONFIG: dict[str, Any] = {
    "sae_type": "sae",
    "d_model": D,
    "expansion_factor": M // D,
    "hook_point_in": HOOK,
    "hook_point_out": HOOK,
    "act_fn": "jumprelu",
    "norm_activation": "dataset-wise",
    "sparsity_include_decoder_norm": True,
}
THRESHOLD = torch.linspace(0.3, 0.9, M)


def written(
    folder: Path, config: dict[str, Any] | None = None, *, unit: bool = True, **more: torch.Tensor
) -> Path:
    p = parts(unit=unit)
    write_json(folder / "config.json", {**CONFIG, **(config or {})})
    state = {
        "encoder.weight": p["W_enc"].T.contiguous(),
        "encoder.bias": p["b_enc"],
        "decoder.weight": p["W_dec"].T.contiguous(),
        "decoder.bias": p["b_dec"],
        "log_jumprelu_threshold": THRESHOLD.log(),
        f"dataset_average_activation_norm.{HOOK}": torch.tensor(NORM),
    }
    kept = {name: tensor for name, tensor in {**state, **more}.items() if tensor.numel()}
    save_file(kept, folder / "sae_weights.safetensors")
    return folder


@pytest.mark.parametrize("by_length", [True, False])
def test_it_computes_what_reads_scaled_activations(tmp_path: Path, by_length: bool) -> None:
    folder = written(tmp_path, {"sparsity_include_decoder_norm": by_length}, unit=False)
    sae, metadata = read_lm_saes(folder)
    p = {name: tensor.double() for name, tensor in parts(unit=False).items()}
    scale = math.sqrt(D) / NORM
    h = scale * inputs().double() @ p["W_enc"] + p["b_enc"]
    lengths = p["W_dec"].norm(dim=1) if by_length else torch.ones(M, dtype=torch.float64)
    f = kept_above(h, THRESHOLD.double() / lengths)
    agrees(sae, f, {**p, "W_dec": p["W_dec"] / scale, "b_dec": p["b_dec"] / scale})
    assert metadata["hook_name"] == HOOK


@pytest.mark.parametrize("subtracts", [True, False])
@pytest.mark.parametrize("later", [True, False])
@pytest.mark.parametrize("by_length", [True, False])
def test_a_transcoder_is_what_gives_another_hook_than_it_reads(
    tmp_path: Path, by_length: bool, later: bool, subtracts: bool
) -> None:
    read, given, norm_out = "blocks.15.ln2.hook_normalized", "blocks.15.hook_mlp_out", 0.7
    config = {"hook_point_in": read, "hook_point_out": given}
    config |= {"sparsity_include_decoder_norm": by_length}
    config |= {"apply_decoder_bias_to_pre_encoder": subtracts}
    norms = {read: NORM, given: norm_out}
    more = {f"dataset_average_activation_norm.{hook}": torch.tensor(norms[hook]) for hook in norms}
    p = parts(unit=False)
    if later:
        more |= dict.fromkeys(
            ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"), torch.empty(0)
        )
        more |= {"W_E": p["W_enc"], "b_E": p["b_enc"], "W_D": p["W_dec"], "b_D": p["b_dec"]}
        more |= {"log_jumprelu_threshold": torch.empty(0)}
        more |= {"activation_function.log_jumprelu_threshold": THRESHOLD.log()}
    more |= {f"dataset_average_activation_norm.{HOOK}": torch.empty(0)}
    sae, metadata = read_lm_saes(written(tmp_path, config, unit=False, **more))
    p = {name: tensor.double() for name, tensor in p.items()}
    scale, scale_out = math.sqrt(D) / NORM, math.sqrt(D) / norm_out
    h = (scale * inputs().double() - (p["b_dec"] if subtracts else 0)) @ p["W_enc"] + p["b_enc"]
    lengths = p["W_dec"].norm(dim=1) if by_length else torch.ones(M, dtype=torch.float64)
    f = kept_above(h, THRESHOLD.double() / lengths)
    y = (f @ p["W_dec"] + p["b_dec"]) / scale_out
    assert 0 < (f > 0).double().mean() < 0.9
    assert sae.encoder == "transcoder"
    assert torch.equal(sae.encode(inputs()) > 0, f > 0)
    assert (sae.reconstruct(inputs()).double() - y).abs().max() <= 1e-6 * y.abs().max()
    assert (metadata["hook_name"], metadata["hook_name_out"]) == (read, given)


def test_its_files_are_told_from_those_of_saelens(tmp_path: Path) -> None:
    folder = written(tmp_path / "L15R")
    for path in (folder, folder / "sae_weights.safetensors", folder / "config.json"):
        assert (detect(path).format.name, detect(path).folder) == ("lm_saes", folder)
    names = ["L15R/config.json", "L15R/sae_weights.safetensors"]
    assert [one.format.name for one in saes_of(names)] == ["lm_saes"]
    assert [one.format.name for one in saes_of([*names, "L15R/cfg.json"])] == ["saelens"]
    (folder / "cfg.json").write_text("{}")
    assert detect(folder).format.name == "saelens"


@pytest.mark.parametrize(
    ("config", "more", "error", "words"),
    [
        (
            {"sae_type": "crosscoder"},
            {},
            Unsupported,
            "type 'crosscoder'; only SAEs and transcoders",
        ),
        ({"sae_type": "clt"}, {}, Unsupported, "type 'clt'"),
        ({"sae_type": "lorsa"}, {}, Unsupported, "type 'lorsa'"),
        ({"hook_point_out": "blocks.15.hook_mlp_out"}, {}, Unsupported, "mlp_out is missing"),
        ({"hook_point_in": "blocks.15.hook_resid_mid"}, {}, Unsupported, "resid_mid is missing"),
        ({"act_fn": "topk"}, {}, Unsupported, "topk"),
        ({"norm_activation": "token-wise"}, {}, Unsupported, "token-wise"),
        ({"use_glu_encoder": True}, {}, Unsupported, "gated"),
        ({"d_model": None}, {}, Damaged, "d_model"),
        ({"d_model": D + 1}, {}, Mismatch, "encoder's weights"),
        ({}, {f"dataset_average_activation_norm.{HOOK}": torch.empty(0)}, Unsupported, "how much"),
        ({}, {f"dataset_average_activation_norm.{HOOK}": torch.tensor(0.0)}, Damaged, "norm"),
        ({}, {"encoder_glu.weight": torch.zeros(M, D)}, Unsupported, "glu"),
        ({}, {"log_jumprelu_threshold": torch.empty(0)}, Damaged, "threshold"),
    ],
)
def test_what_is_not_read_is_said(
    tmp_path: Path,
    config: dict[str, Any],
    more: dict[str, torch.Tensor],
    error: type[StudioError],
    words: str,
) -> None:
    with pytest.raises(error, match=words):
        read_lm_saes(written(tmp_path, config, unit=True, **more))
