"""Gemma Scope 2: lower-case tensors, a config that may be missing, and names of places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mistudio.core.errors import Damaged, NotFound, StudioError, Unsupported
from mistudio.ml.formats.gemma_scope_2 import hook_name, model_name, read_gemma_scope_2
from mistudio.ml.formats.registry import detect
from tests.ml_formats.foreign_files import (
    D,
    M,
    agrees,
    inputs,
    kept_above,
    parts,
    pre_activations,
    write_json,
)

OWN = "gemma-scope-2-1b-pt/resid_post/layer_12_width_16k_l0_small"
CONFIG = {
    "architecture": "jump_relu",
    "model_name": "gemma-v3-1b-pt",
    "hf_hook_point_in": "model.layers.12.output",
    "hf_hook_point_out": "model.layers.12.output",
}
THRESHOLD = torch.linspace(0.1, 1.5, M)


def written(
    folder: Path, config: dict[str, Any] | None, *, unit: bool = True, **more: torch.Tensor
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    p = {name.lower(): tensor for name, tensor in parts(unit=unit).items()}
    save_file({**p, "threshold": THRESHOLD, **more}, folder / "params.safetensors")
    if config is not None:
        write_json(folder / "config.json", config)
    return folder


@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("config", [CONFIG, None])
def test_it_computes_what_its_authors_compute(
    tmp_path: Path, config: dict[str, Any] | None, unit: bool
) -> None:
    folder = written(tmp_path / OWN, config, unit=unit)
    sae, metadata = read_gemma_scope_2(folder)
    p = parts(unit=unit)
    agrees(sae, kept_above(pre_activations(p, inputs(), subtract=False), THRESHOLD.double()), p)
    assert metadata["hook_name"] == "blocks.12.hook_resid_post"
    assert metadata["model_name"] == "google/gemma-3-1b-pt"
    assert detect(folder).format.name == "gemma_scope_2"


@pytest.mark.parametrize(
    ("hf_name", "folder", "found"),
    [
        ("model.layers.7.output", "mlp_out/layer_3_x", "blocks.7.hook_resid_post"),
        ("model.layers.7.input", "x", "blocks.7.hook_resid_pre"),
        ("model.language_model.layers.7.output", "x", "blocks.7.hook_resid_post"),
        ("model.layers.7.post_feedforward_layernorm.output", "x", "blocks.7.hook_mlp_out"),
        ("model.layers.7.self_attn.o_proj.input", "attn_out/layer_7", "blocks.7.attn.hook_z"),
        ("model.layers.7.mlp.input", "x", "blocks.7.hook_mlp.input"),
        ("", "mlp_out_all/layer_3_width_16k", "blocks.3.hook_mlp_out"),
        ("", "attn_out/layer_3_width_16k", "blocks.3.attn.hook_z"),
        ("", "x/layer_3", ""),
    ],
)
def test_where_it_reads(tmp_path: Path, hf_name: str, folder: str, found: str) -> None:
    assert hook_name(hf_name, tmp_path / folder) == found


def test_names_of_models() -> None:
    assert model_name("gemma-v3-4b-it") == "google/gemma-3-4b-it"
    assert model_name("google/gemma-3-270m-pt") == "google/gemma-3-270m"


@pytest.mark.parametrize(
    ("path", "config", "more", "error", "words"),
    [
        ("x", {"architecture": "topk"}, {}, Unsupported, "topk"),
        ("x", {"affine_connection": True}, {}, Damaged, "lacks affine_skip_connection"),
        ("x", {"hf_hook_point_in": ["a", "b"]}, {}, Unsupported, "Crosscoders"),
        ("x", {}, {"w_dec": torch.zeros(M, 3, D)}, Unsupported, "Crosscoders"),
        ("x", {}, {"b_enc": torch.full((M,), torch.nan)}, Damaged, "b_enc"),
        ("crosscoder/layer_1", None, {}, Unsupported, "folder of crosscoders"),
    ],
)
def test_what_cannot_be_read_is_a_sentence(
    tmp_path: Path,
    path: str,
    config: dict[str, Any] | None,
    more: dict[str, torch.Tensor],
    error: type[StudioError],
    words: str,
) -> None:
    whole = None if config is None else {**CONFIG, **config}
    with pytest.raises(error, match=words):
        read_gemma_scope_2(written(tmp_path / path, whole, **more))


def test_damaged_files_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"params\.safetensors"):
        read_gemma_scope_2(tmp_path)
    file = written(tmp_path, CONFIG) / "params.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(Damaged, match="damaged"):
        read_gemma_scope_2(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(Damaged, match="JSON"):
        read_gemma_scope_2(tmp_path)
