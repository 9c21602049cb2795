"""sparsify folders: against a computation of its own, and back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mistudio.core.errors import Damaged, InvalidInput, Mismatch, NotFound, StudioError, Unsupported
from mistudio.ml.features.own_values import own_values
from mistudio.ml.formats.circuit_tracer import write_circuit_tracer
from mistudio.ml.formats.dictionary_learning import write_dictionary_learning
from mistudio.ml.formats.registry import detect
from mistudio.ml.formats.saelens import read_saelens, write_saelens
from mistudio.ml.formats.sparsify import hook_name, hookpoint_of, read_sparsify, write_sparsify
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.steering.readers import Reader
from mistudio.ml.steering.sources import PlacedSae
from tests.ml_formats.foreign_files import (
    D,
    K,
    M,
    agrees,
    inputs,
    kept_group_max,
    kept_top_k,
    parts,
    pre_activations,
    write_json,
)

CONFIG: dict[str, Any] = {
    "activation": "topk",
    "expansion_factor": M // D,
    "normalize_decoder": True,
    "num_latents": 0,
    "k": K,
    "multi_topk": False,
    "skip_connection": False,
    "transcode": False,
    "d_in": D,
}


def written(
    run: Path, config: dict[str, Any] | None = None, *, unit: bool = True, **tensors: torch.Tensor
) -> Path:
    p, folder = parts(unit=unit), run / "layers.3"
    write_json(folder / "cfg.json", {**CONFIG, **(config or {})})
    state = {
        "encoder.weight": p["W_enc"].T.contiguous(),
        "encoder.bias": p["b_enc"],
        "W_dec": p["W_dec"],
        "b_dec": p["b_dec"],
        **tensors,
    }
    save_file(state, folder / "sae.safetensors")
    write_json(run / "config.json", {"model": "org/model", "ctx_len": 256, "dataset": "text"})
    return folder


@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("config", [{}, {"num_latents": M, "expansion_factor": 32}])
def test_it_computes_what_the_program_computes(
    tmp_path: Path, config: dict[str, Any], unit: bool
) -> None:
    sae, metadata = read_sparsify(written(tmp_path, config, unit=unit))
    p = parts(unit=unit)
    agrees(sae, kept_top_k(pre_activations(p, inputs(), subtract=True), K), p)
    assert metadata["hook_name"] == "layers.3"
    assert metadata["model_name"] == "org/model"
    assert metadata["context_size"] == 256
    assert detect(tmp_path).format.name == "sparsify"


@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("groups", [1, 4, 16, M])
def test_groupmax_takes_the_largest_of_each_group(tmp_path: Path, groups: int, unit: bool) -> None:
    folder = written(tmp_path / "a", {"activation": "groupmax", "k": groups}, unit=unit)
    sae, metadata = read_sparsify(folder)
    p = parts(unit=unit)
    f = kept_group_max(pre_activations(p, inputs(), subtract=True), groups)
    agrees(sae, f, p)
    assert metadata["training_architecture"] == "sparsify groupmax"
    assert sae.encode_sparse(inputs()).l0.tolist() == (f > 0).sum(1).tolist()
    ours = sae.encode(inputs())
    assert torch.equal(sae.encode(inputs().view(5, 10, D)), ours.view(5, 10, M))
    features = torch.tensor([3, 40])
    reader = Reader.of(PlacedSae(sae, 0, "resid_post"), [3, 40], torch.device("cpu"))
    assert torch.equal(reader(inputs()), ours[:, features])
    own = own_values(sae, inputs()[None].expand(2, -1, -1), features)
    assert torch.equal(own.T, ours[:, features])
    write_saelens(tmp_path / "kept", sae, for_library=True)
    again, _ = read_saelens(tmp_path / "kept")
    assert (again.architecture, again.k) == ("groupmax", groups)
    assert torch.equal(again.reconstruct(inputs()), sae.reconstruct(inputs()))


@pytest.mark.parametrize("encoder", ["sae", "transcoder", "skip_transcoder"])
def test_groupmax_goes_back_to_sparsify_alone(tmp_path: Path, encoder: str) -> None:
    skip = torch.eye(D) if encoder == "skip_transcoder" else None
    sae = replace(
        made(subtracts=encoder == "sae"),
        architecture="groupmax",
        k=8,
        encoder=encoder,
        W_skip_OD=skip,
    )
    write_sparsify(tmp_path / "out", sae)
    again, _ = read_sparsify(detect(tmp_path / "out").folder)
    assert (again.architecture, again.k, again.encoder) == ("groupmax", 8, encoder)
    assert torch.equal(again.reconstruct(inputs()), sae.reconstruct(inputs()))
    write_saelens(tmp_path / "kept", sae, for_library=True)
    kept, _ = read_saelens(tmp_path / "kept")
    assert torch.equal(kept.reconstruct(inputs()), sae.reconstruct(inputs()))
    with pytest.raises(Unsupported, match="SAELens has no groupmax"):
        write_saelens(tmp_path / "x", sae)
    with pytest.raises(Unsupported, match="dictionary_learning has no"):
        write_dictionary_learning(tmp_path / "x", sae)
    if sae.is_transcoder:
        with pytest.raises(Unsupported, match="holds no groupmax transcoders"):
            write_circuit_tracer(tmp_path / "x", {0: sae}, "mlp_in", "mlp_out", "tiny")
    assert not (tmp_path / "x").exists()


def test_values_that_the_file_leaves_out_are_the_programs_own(tmp_path: Path) -> None:
    folder = written(tmp_path)
    write_json(folder / "cfg.json", {"d_in": D, "num_latents": M})
    assert read_sparsify(folder)[0].k == 32


@pytest.mark.parametrize(
    ("hookpoint", "side", "found"),
    [
        ("layers.3", "output", "layers.3"),
        ("layers.3", "input", "blocks.3.hook_resid_pre"),
        ("h.0.mlp", "output", "h.0.mlp"),
        ("h.0.mlp", "input", "h.0.mlp.input"),
        ("downloads", "output", ""),
    ],
)
def test_where_a_hookpoint_is(hookpoint: str, side: str, found: str) -> None:
    assert hook_name(hookpoint, side) == found


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        ({"hook_name": "model.layers.3"}, "layers.3"),
        ({"hook_name": "transformer.h.3.mlp"}, "h.3.mlp"),
        ({"hook_name": "blocks.3.hook_resid_post", "layer": 3, "hook": "resid_post"}, "layers.3"),
        ({"hook_name": "blocks.3.hook_resid_pre", "layer": 2, "hook": "resid_post"}, "layers.2"),
        ({"layer": 3, "hook": "mlp_out"}, "layers.3.mlp"),
        ({}, "sae"),
    ],
)
def test_how_a_hookpoint_is_named(metadata: dict[str, Any], found: str) -> None:
    assert hookpoint_of(metadata) == found


def made(*, subtracts: bool = True) -> SparseAutoencoder:
    p = parts()
    return SparseAutoencoder(
        p["W_enc"],
        p["b_enc"],
        p["W_dec"],
        p["b_dec"],
        "topk",
        k=K,
        apply_b_dec_to_input=subtracts,
        metadata={"model_name": "tiny", "hook_name": "model.layers.1", "context_size": 32},
    )


@pytest.mark.parametrize("subtracts", [True, False])
def test_round_trip(tmp_path: Path, subtracts: bool) -> None:
    sae = made(subtracts=subtracts)
    write_sparsify(tmp_path / "out", sae)
    again, metadata = read_sparsify(detect(tmp_path / "out").folder)
    if subtracts:
        assert torch.equal(again.encode(inputs()), sae.encode(inputs()))
    y = sae.reconstruct(inputs())
    assert (again.reconstruct(inputs()) - y).abs().max() <= (0 if subtracts else 1e-6) * y.max()
    assert metadata["hook_name"] == "layers.1"
    assert metadata["model_name"] == "tiny"
    files = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*"))
    assert files == ["config.json", "layers.1", "layers.1/cfg.json", "layers.1/sae.safetensors"]
    config = json.loads((tmp_path / "out" / "layers.1" / "cfg.json").read_text())
    assert config["d_in"] * config["expansion_factor"] == config["num_latents"] == M


def test_only_topk_is_written(tmp_path: Path) -> None:
    p = parts()
    weights = p["W_enc"], p["b_enc"], p["W_dec"], p["b_dec"]
    other = SparseAutoencoder(*weights, "jumprelu", threshold_F=torch.ones(M))
    with pytest.raises(
        Unsupported, match="only holds topk and groupmax SAEs, and this one is jumprelu"
    ):
        write_sparsify(tmp_path / "out", other)
    assert not (tmp_path / "out").exists()
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InvalidInput, match="not empty"):
        write_sparsify(tmp_path, made())


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        ({"skip_connection": True}, Damaged, "lacks W_skip"),
        ({"activation": "gumbel"}, Unsupported, "gumbel"),
        ({"activation": "groupmax"}, InvalidInput, "64 latents cannot be shared out evenly"),
        ({"activation": "groupmax", "k": 0}, InvalidInput, "groupmax SAE with 64 latents needs"),
        ({"activation": "groupmax", "k": 2 * M}, InvalidInput, "between 1 and 64"),
        ({"expansion_factor": 5}, Mismatch, "encoder"),
        ({"d_in": None}, Damaged, "d_in"),
        ({"k": "many"}, Damaged, "k in"),
        ({"k": M + 1}, InvalidInput, "between 1 and 64"),
    ],
)
def test_wrong_configurations_are_sentences(
    tmp_path: Path, config: dict[str, Any], error: type[StudioError], words: str
) -> None:
    with pytest.raises(error, match=words):
        read_sparsify(written(tmp_path, config))


def test_damaged_files_are_sentences(tmp_path: Path) -> None:
    folder = written(tmp_path, W_skip=torch.zeros(D, D))
    with pytest.raises(Unsupported, match="W_skip"):
        read_sparsify(folder)
    folder = written(tmp_path, b_dec=torch.full((D,), torch.inf))
    with pytest.raises(Damaged, match="b_dec"):
        read_sparsify(folder)
    weights = written(tmp_path) / "sae.safetensors"
    state = load_file(weights)
    del state["W_dec"]
    save_file(state, weights)
    with pytest.raises(Damaged, match="lacks W_dec"):
        read_sparsify(folder)
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(Damaged, match="damaged"):
        read_sparsify(folder)
    weights.unlink()
    with pytest.raises(NotFound, match=r"sae\.safetensors"):
        read_sparsify(folder)
    (folder / "cfg.json").unlink()
    with pytest.raises(NotFound, match="no sparsify folder"):
        read_sparsify(folder)
