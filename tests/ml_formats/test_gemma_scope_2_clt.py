"""Gemma Scope 2's transcoders across layers: sums of rows, exact latents, the layer of the file."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mistudio.core.errors import Damaged, InvalidInput, Mismatch, StudioError, Unsupported
from mistudio.core.sae_readings import read_as
from mistudio.ml.formats import tensors
from mistudio.ml.formats.listing import one_of, saes_of
from mistudio.ml.formats.registry import detect, read_any
from mistudio.ml.formats.saelens import write_saelens
from tests.ml_formats.foreign_files import D, M, inputs, parts, random, write_json

LAYERS = 6  # of the model; those of layer 2 write into 2, 3, 4 and 5
OWN = "gemma-scope-2-1b-pt/clt/width_262k_l0_medium"
CONFIG = {
    "architecture": "jump_relu",
    "model_name": "gemma-v3-1b-pt",
    "hf_hook_point_in": "model.layers.0.pre_feedforward_layernorm.output",
    "hf_hook_point_out": "model.layers.0.post_feedforward_layernorm.output",
}


def layer_tensors(layer: int, *, affine: bool = False) -> dict[str, torch.Tensor]:
    """One layer's file: latents that write nothing into earlier layers."""
    p = parts()
    w_dec = random(M, LAYERS, D, seed=20 + layer, scale=0.4)
    w_dec[:, :layer] = 0
    found = {
        "w_enc": p["W_enc"] + random(D, M, seed=40 + layer, scale=0.05),
        "b_enc": p["b_enc"],
        "w_dec": w_dec,
        "b_dec": p["b_dec"],
        "threshold": torch.linspace(0.1, 1.5, M),
    }
    return found | ({"affine_skip_connection": random(D, D, seed=60)} if affine else {})


def written(
    folder: Path,
    layers: tuple[int, ...] = (2,),
    config: dict[str, Any] | None = None,
    *,
    affine: bool = False,
    **more: torch.Tensor,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for layer in layers:
        file = {**layer_tensors(layer, affine=affine), **more}
        save_file(file, folder / f"params_layer_{layer}.safetensors")
    if config is not None:
        write_json(folder / "config.json", config)
    return folder


def by_hand(layer: int, *, affine: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latents f, the lengths of the summed rows, and f Σ_l w_dec[:, l] + b_dec (+ x skip)."""
    p = {name: t.double().numpy() for name, t in layer_tensors(layer, affine=affine).items()}
    x = inputs().double().numpy()
    h = x @ p["w_enc"] + p["b_enc"]
    f = np.where(h > p["threshold"], np.maximum(h, 0), 0)
    y = np.zeros((len(x), D))
    for output in range(LAYERS):
        y += f @ p["w_dec"][:, output]
    rows = np.add.reduce(p["w_dec"], axis=1)
    y += p["b_dec"] + (x @ p["affine_skip_connection"] if affine else 0)
    return f, np.sqrt((rows**2).sum(1)), y


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("config", [None, CONFIG])
def test_latents_are_exact_and_rows_are_sums(
    tmp_path: Path, config: dict[str, Any] | None, affine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensors, "SUMMED_ENTRIES", 7 * LAYERS * D)  # in pieces that do not fit
    folder = written(tmp_path / OWN, config=config, affine=affine)
    found, sae, metadata = read_any(folder)
    assert found.name == "gemma_scope_2_clt"
    f, lengths, y = by_hand(2, affine=affine)
    ours = sae.encode(inputs()).double().numpy()
    assert np.array_equal(ours > 0, f > 0)
    assert 0.05 < (f > 0).mean() < 0.9
    np.testing.assert_allclose(ours, f * lengths, rtol=1e-5, atol=1e-6 * (f * lengths).max())
    np.testing.assert_allclose(
        sae.reconstruct(inputs()).double().numpy(), y, rtol=0, atol=3e-6 * np.abs(y).max()
    )
    assert sae.encoder == ("skip_transcoder" if affine else "transcoder")
    assert metadata["hook_name"] == "blocks.2.mlp.hook_in"
    assert metadata["hook_name_out"] == "blocks.2.hook_mlp_out"
    assert metadata["hf_hook_name"] == "model.layers.2.pre_feedforward_layernorm.output"
    assert metadata["model_name"] == "google/gemma-3-1b-pt"
    assert (metadata["cross_layer"], metadata["output_layers"]) == (True, LAYERS - 2)
    assert read_as(metadata) == [
        "A transcoder across layers: what a latent writes into 4 layers is added up to one row, so "
        "that features are exact and no layer's output is reconstructed."
    ]
    assert dict(sae.metadata) == metadata


def test_a_folder_of_layers_asks_for_one(tmp_path: Path) -> None:
    folder = written(tmp_path / OWN, (0, 2, 10), config=CONFIG)
    with pytest.raises(InvalidInput, match=r"3 SAEs; name one: .*_0.*_2.*_10\.safetensors"):
        detect(folder)
    file = folder / "params_layer_10.safetensors"
    assert detect(file).folder == file
    assert read_any(file)[2]["hook_name"] == "blocks.10.mlp.hook_in"
    names = [f"clt/w/{name}" for name in ("config.json", file.name, "params_layer_2.safetensors")]
    assert [one.place for one in saes_of(names)] == [
        f"clt/w/params_layer_{i}.safetensors" for i in (2, 10)
    ]
    chosen = one_of(saes_of(names), names, f"clt/w/{file.name}", "google/scope")
    assert chosen.files == (f"clt/w/{file.name}", "clt/w/config.json")
    # circuit-tracer's files are called otherwise
    both = saes_of([*names, "t/layer_0.safetensors"])
    assert [one.format.name for one in both] == [*["gemma_scope_2_clt"] * 2, "circuit_tracer"]


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ([f"model.layers.{i}.mlp.input" for i in range(6)], "blocks.2.hook_mlp.input"),
        ("model.layers.{layer}.post_attention_layernorm.output", "blocks.2.hook_attn_out"),
        ([], "blocks.2.mlp.hook_in"),
    ],
)
def test_a_config_of_all_layers_names_that_of_the_file(
    tmp_path: Path, told: object, found: str
) -> None:
    folder = written(tmp_path / "x", config={**CONFIG, "hf_hook_point_in": told})
    assert read_any(folder)[2]["hook_name"] == found


@pytest.mark.parametrize(
    ("path", "config", "more", "error", "words"),
    [
        ("x", {"architecture": "topk"}, {}, Unsupported, "topk"),
        ("x", {"affine_connection": True}, {}, Damaged, "lacks affine_skip_connection"),
        ("x", {}, {"w_dec": torch.zeros(M, D)}, Mismatch, "no axis of the layers"),
        ("x", {}, {"w_dec": torch.full((M, 2, D), torch.nan)}, Damaged, "w_dec"),
        ("x", {}, {"scale": torch.ones(1)}, Unsupported, "scale"),
        ("crosscoder/layer_1_2", {}, {}, Unsupported, "folder of crosscoders"),
    ],
)
def test_what_cannot_be_read_is_a_sentence(
    tmp_path: Path,
    path: str,
    config: dict[str, Any],
    more: dict[str, Any],
    error: type[StudioError],
    words: str,
) -> None:
    with pytest.raises(error, match=words):
        read_any(written(tmp_path / path, config={**CONFIG, **config}, **more))


def test_damaged_files_are_sentences(tmp_path: Path) -> None:
    file = written(tmp_path / "x") / "params_layer_2.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(Damaged, match="damaged"):
        read_any(file)
    parts_left = {n: t for n, t in layer_tensors(2).items() if n != "w_dec"}
    save_file(parts_left, file)
    with pytest.raises(Damaged, match="lacks w_dec"):
        read_any(file)


def test_saelens_files_keep_what_was_added_up(tmp_path: Path) -> None:
    _, sae, metadata = read_any(written(tmp_path / "x"))
    write_saelens(tmp_path / "out", sae)
    _, again, told = read_any(tmp_path / "out")
    assert torch.equal(again.encode(inputs()), sae.encode(inputs()))
    assert (told["cross_layer"], told["output_layers"]) == (True, 4)
    assert read_as(told) == read_as(metadata)


SAELENS = r"""
import sys, torch
from pathlib import Path
from safetensors.torch import load_file, save_file
from huggingface_hub.utils import EntryNotFoundError
from sae_lens.loading import pretrained_sae_loaders as lens
from sae_lens.saes.sae import SAE
from sae_lens.registry import get_sae_class

root = Path(sys.argv[1])


def local(repo_id, filename, subfolder="", **_):
    path = root / repo_id / subfolder / filename
    if not path.is_file():
        raise EntryNotFoundError(str(path))
    return str(path)


def shapes(repo_id, filename, **_):
    return {name: t.shape for name, t in load_file(local(repo_id, filename)).items()}


lens.hf_hub_download, lens.get_safetensors_tensor_shapes = local, shapes
x = load_file(root / "x.safetensors")["x"]
for affine in ("", "_affine"):
    place = f"clt/width_262k_l0_medium{affine}/params_layer_2"
    config, state, _ = lens.gemma_3_sae_huggingface_loader("gemma-scope-2-1b-pt", place, "cpu")
    cls, config_cls = get_sae_class(config["architecture"])
    fields = config_cls.__dataclass_fields__
    sae = cls(config_cls.from_dict({k: v for k, v in config.items() if k in fields}))
    sae.load_state_dict(state)
    with torch.no_grad():
        save_file({"f": sae.encode(x), "y": sae(x)}, root / f"result{affine}.safetensors")
"""


@pytest.mark.heavy
def test_saelens_reads_the_same(tmp_path: Path) -> None:
    python = os.environ.get("MISTUDIO_SAELENS_PYTHON")
    if not python:
        pytest.skip("MISTUDIO_SAELENS_PYTHON names no interpreter with sae-lens")
    save_file({"x": inputs()}, tmp_path / "x.safetensors")
    for affine in ("", "_affine"):
        written(tmp_path / f"{OWN}{affine}", affine=bool(affine))
    done = subprocess.run(
        [python, "-c", SAELENS, str(tmp_path)],
        env={**os.environ, "WANDB_MODE": "disabled", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for affine in ("", "_affine"):
        theirs = load_file(tmp_path / f"result{affine}.safetensors")
        sae = read_any(tmp_path / f"{OWN}{affine}")[1]
        assert torch.equal(sae.encode(inputs()) > 0, theirs["f"] > 0)
        error = (sae.reconstruct(inputs()) - theirs["y"]).abs().max()
        assert error <= 2e-6 * theirs["y"].abs().max()
