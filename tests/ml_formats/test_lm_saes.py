"""Llama Scope R1-Distill and later: the scale among the weights, thresholds as logarithms, topk."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mistudio.core.errors import Damaged, InvalidInput, Mismatch, StudioError, Unsupported
from mistudio.ml.formats.listing import saes_of
from mistudio.ml.formats.lm_saes import folded, read_lm_saes
from mistudio.ml.formats.registry import detect
from mistudio.ml.sae.base import SparseAutoencoder
from tests.ml_formats.foreign_files import (
    D,
    K,
    M,
    agrees,
    inputs,
    kept_above,
    kept_top_k,
    parts,
    write_json,
)

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
NO_THRESHOLD = {"log_jumprelu_threshold": torch.empty(0)}
READ, GIVEN, NORM_OUT = "blocks.15.ln2.hook_normalized", "blocks.15.hook_mlp_out", 0.7


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
    read, given, norm_out = READ, GIVEN, NORM_OUT
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


def unfolded(
    x: torch.Tensor, scale: float, scale_out: float, act_fn: str, by_length: bool, subtracts: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the program makes of x, step by step as it goes: latents and output, float64."""
    p = {name: tensor.double() for name, tensor in parts(unit=False).items()}
    lengths = p["W_dec"].norm(dim=1) if by_length else torch.ones(M, dtype=torch.float64)
    h = (scale * x.double() - (p["b_dec"] if subtracts else 0)) @ p["W_enc"] + p["b_enc"]
    h = h * lengths
    if act_fn == "jumprelu":
        f = kept_above(h, THRESHOLD.double())
    else:
        f = kept_top_k(h, K) if act_fn == "topk" else h.clamp(min=0)
    f = f / lengths
    return f, (f @ p["W_dec"] + p["b_dec"]) / scale_out


@pytest.mark.parametrize("subtracts", [True, False])
@pytest.mark.parametrize("transcodes", [True, False])
@pytest.mark.parametrize("scaling", ["dataset-wise", "inference"])
@pytest.mark.parametrize("by_length", [True, False])
@pytest.mark.parametrize("act_fn", ["topk", "relu", "jumprelu"])
def test_each_activation_computes_what_its_program_does(
    tmp_path: Path, act_fn: str, by_length: bool, scaling: str, transcodes: bool, subtracts: bool
) -> None:
    config = {"act_fn": act_fn, "top_k": K, "norm_activation": scaling}
    config |= {"sparsity_include_decoder_norm": by_length}
    config |= {"apply_decoder_bias_to_pre_encoder": subtracts}
    more = {} if act_fn == "jumprelu" else dict(NO_THRESHOLD)
    norms = {HOOK: NORM}
    if transcodes:
        config |= {"hook_point_in": READ, "hook_point_out": GIVEN}
        norms = {READ: NORM, GIVEN: NORM_OUT}
        more[f"dataset_average_activation_norm.{HOOK}"] = torch.empty(0)
    scale, scale_out = math.sqrt(D) / NORM, math.sqrt(D) / (NORM_OUT if transcodes else NORM)
    if scaling == "inference":  # the program then writes what happens to be in the memory
        scale, scale_out, norms = 1.0, 1.0, dict.fromkeys(norms, math.nan)
    more |= {f"dataset_average_activation_norm.{h}": torch.tensor(norms[h]) for h in norms}
    sae, metadata = read_lm_saes(written(tmp_path, config, unit=False, **more))
    f, y = unfolded(inputs(), scale, scale_out, act_fn, by_length, subtracts)
    assert 0 < (f > 0).double().mean() < 0.9
    assert torch.equal(sae.encode(inputs()) > 0, f > 0)
    assert (sae.reconstruct(inputs()).double() - y).abs().max() <= 1e-6 * y.abs().max()
    lengths = torch.ones(M)
    if act_fn == "topk" and not by_length:
        lengths = parts(unit=False)["W_dec"].norm(dim=1)
    assert torch.allclose(sae.W_dec_FO.norm(dim=1), lengths, rtol=1e-6)
    assert sae.is_transcoder == transcodes
    assert metadata["training_architecture"] == {"relu": "standard"}.get(act_fn, act_fn)


def test_it_matters_whether_topk_goes_by_length() -> None:
    ways = [
        unfolded(inputs(), 1.0, 1.0, "topk", by_length, False)[0] for by_length in (True, False)
    ]
    assert ((ways[0] > 0) != (ways[1] > 0)).any(dim=1).double().mean() > 0.5


def test_where_the_file_does_not_say_latents_are_compared_times_length(tmp_path: Path) -> None:
    folder = written(tmp_path, {}, unit=False, **NO_THRESHOLD)
    config = {**CONFIG, "act_fn": "topk", "top_k": K}
    del config["sparsity_include_decoder_norm"]
    write_json(folder / "config.json", config)
    scale = math.sqrt(D) / NORM
    f, _ = unfolded(inputs(), scale, scale, "topk", True, False)
    assert torch.equal(read_lm_saes(folder)[0].encode(inputs()) > 0, f > 0)


@pytest.mark.parametrize("encoder", ["sae", "transcoder"])
@pytest.mark.parametrize("by_length", [True, False])
@pytest.mark.parametrize("act_fn", ["topk", "relu", "jumprelu"])
def test_folding_is_exact(act_fn: str, by_length: bool, encoder: str) -> None:
    p = {name: tensor.double() for name, tensor in parts(unit=False).items()}
    sae = SparseAutoencoder(
        p["W_enc"],
        p["b_enc"],
        p["W_dec"],
        p["b_dec"],
        {"relu": "standard"}.get(act_fn, act_fn),
        k=K,
        threshold_F=THRESHOLD.double() if act_fn == "jumprelu" else None,
        apply_b_dec_to_input=True,
        encoder=encoder,
    )
    scale, scale_out = 1.7, 1.7 if encoder == "sae" else 0.23
    ours = folded(sae, scale, scale_out, by_length=by_length)
    x = inputs().double()
    f, y = unfolded(x, scale, scale_out, act_fn, by_length, True)
    assert torch.equal(ours.encode(x) > 0, f > 0)
    assert (ours.reconstruct(x) - y).abs().max() <= 1e-12 * y.abs().max()


def test_a_latent_that_writes_nothing_takes_no_place_among_the_k(tmp_path: Path) -> None:
    p = parts(unit=False)
    p["W_dec"][3], p["b_enc"][3] = 0.0, 100.0  # by itself the largest of every token
    config = {"act_fn": "topk", "top_k": K}
    more = {**NO_THRESHOLD, "encoder.bias": p["b_enc"]}
    more |= {"decoder.weight": p["W_dec"].T.contiguous()}
    sae, _ = read_lm_saes(written(tmp_path, config, unit=False, **more))
    f = sae.encode(inputs())
    assert bool((f[:, 3] == 0).all())
    assert ((f > 0).sum(dim=1) == K).all()


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
        ({"act_fn": "batchtopk"}, {}, Unsupported, "of a whole batch"),
        ({"act_fn": "gelu"}, {}, Unsupported, "gelu"),
        ({"act_fn": "topk", "top_k": K}, {}, Unsupported, "threshold, which is not understood"),
        ({"act_fn": "topk"}, NO_THRESHOLD, Damaged, "top_k"),
        ({"act_fn": "topk", "top_k": 5.5}, NO_THRESHOLD, Damaged, "top_k"),
        ({"act_fn": "topk", "top_k": M + 1}, NO_THRESHOLD, InvalidInput, "a k between"),
        ({"norm_activation": "batch-wise"}, {}, Unsupported, "batch-wise"),
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
