"""Temporal SAEs: read from SAELens's files and their own program's, run, written back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from mistudio.core.errors import Damaged, InvalidInput, Mismatch, StudioError, Unsupported
from mistudio.core.training_configs import TrainConfig
from mistudio.ml.formats.circuit_tracer import write_circuit_tracer
from mistudio.ml.formats.dictionary_learning import write_dictionary_learning
from mistudio.ml.formats.listing import saes_of
from mistudio.ml.formats.registry import detect
from mistudio.ml.formats.saelens import read_saelens, write_saelens
from mistudio.ml.formats.sparsify import write_sparsify
from mistudio.ml.formats.temporal import read_temporal
from mistudio.ml.sae.fold import fold_coordinates, fold_decoder_norms
from mistudio.ml.steering.readers import Reader
from mistudio.ml.steering.sources import PlacedSae
from mistudio.ml.training.continue_run import check_fits
from mistudio.ml.whitening import Coordinates
from tests.ml_formats.foreign_files import (
    HEADS,
    KEYS,
    D,
    K,
    M,
    temporal_by_hand,
    temporal_parts,
    texts,
    written_temporal,
)
from tests.ml_formats.test_saelens_kinds import NORMS, scaled


def agree(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert (found.double() - wanted).abs().max() <= 3e-6 * wanted.abs().max()


@pytest.mark.parametrize("k", [K, None])
@pytest.mark.parametrize("layers", [0, 1, 2])
@pytest.mark.parametrize("tied", [True, False])
def test_it_is_read_run_and_written_back(
    tmp_path: Path, tied: bool, layers: int, k: int | None
) -> None:
    tensors = temporal_parts(layers=layers, tied=tied, unit=False)
    rule = {"sae_diff_type": "topk" if k else "relu", "kval_topk": k}
    folder = written_temporal(tmp_path / "a", tensors, n_attn_layers=layers, **rule)
    sae, _ = read_saelens(folder)
    assert detect(folder).format.name == "saelens"
    assert (sae.architecture, sae.k, sae.is_tied) == ("temporal", k, tied)
    x, b_dec = texts(), tensors["b_dec"]
    f, expected = temporal_by_hand(x.double() - b_dec.double(), tensors, k=k, layers=layers)
    read = sae.in_context(x)
    agree(sae.encode(read), f)
    assert torch.equal(sae.encode(read) > 0, f > 0)
    assert (f > 0).any()
    y = f @ tensors["W_dec"].double() + expected + b_dec.double()
    agree(sae.reconstruct(read.flatten(0, 1)), y.flatten(0, 1))
    agree(sae.decode(sae.encode(read), read), y)
    write_saelens(tmp_path / "b", sae)
    again, _ = read_saelens(tmp_path / "b")
    assert torch.equal(again.in_context(x), read)
    assert torch.equal(again.encode(read), sae.encode(read))
    before, after = (load_file(tmp_path / one / "sae_weights.safetensors") for one in "ab")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    told = [json.loads((tmp_path / one / "cfg.json").read_text()) for one in "ab"]
    for name in ("n_heads", "n_attn_layers", "sae_diff_type", "kval_topk", "tied_weights"):
        assert told[0][name] == told[1][name]
    assert layers == 0 or told[0]["bottleneck_factor"] == told[1]["bottleneck_factor"]


def test_only_earlier_tokens_of_the_same_text_count(tmp_path: Path) -> None:
    sae, _ = read_saelens(written_temporal(tmp_path))
    x = texts()
    read = sae.in_context(x)
    assert torch.equal(read[..., :D], x)
    changed = x.clone()
    changed[1, 4] += 1.0
    moved = (sae.in_context(changed)[..., D:] != read[..., D:]).any(-1)
    assert moved[1, 4:].all()
    assert int(moved.sum()) == 6


def test_long_texts_are_read_some_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae, _ = read_saelens(written_temporal(tmp_path))
    whole = sae.in_context(texts())
    monkeypatch.setattr("mistudio.ml.sae.base.CHUNK_ENTRIES", 1)
    torch.testing.assert_close(sae.in_context(texts()), whole)


def test_a_token_that_is_no_number_is_nothing_to_those_behind(tmp_path: Path) -> None:
    sae, _ = read_saelens(written_temporal(tmp_path))
    broken, empty = texts(), texts()
    broken[2, 3, 1], empty[2, 3] = float("nan"), 0.0
    assert torch.equal(sae.in_context(broken), sae.in_context(empty))


@pytest.mark.parametrize("norm", NORMS)
def test_a_token_norm_is_run_and_undone(tmp_path: Path, norm: str) -> None:
    sae, _ = read_saelens(written_temporal(tmp_path / "a", normalize_activations=norm))
    tensors, x = temporal_parts(), texts()
    z, scale, mean = (part.view(5, 10, -1) for part in scaled(x.flatten(0, 1), norm))
    b_dec = tensors["b_dec"].double()
    f, expected = temporal_by_hand(z - b_dec, tensors, k=K)
    y = (f @ tensors["W_dec"].double() + expected + b_dec) * scale + mean
    read = sae.in_context(x)
    agree(sae.encode(read), f * scale)
    agree(sae.decode(sae.encode(read), read), y)
    write_saelens(tmp_path / "b", sae)
    assert torch.equal(read_saelens(tmp_path / "b")[0].in_context(x), read)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("how", ["constant_scalar_rescale", "expected_average_only_in"])
def test_a_scale_is_folded(tmp_path: Path, how: str, tied: bool) -> None:
    tensors = temporal_parts(tied=tied)
    config = {"normalize_activations": how, "activation_normalization_factor": 0.25}
    folder = written_temporal(tmp_path, tensors, **config)
    (folder / "activation_scaler.json").write_text('{"scaling_factor": 0.25}')
    sae, _ = read_saelens(folder)
    x, b_dec = texts(), tensors["b_dec"].double()
    f, expected = temporal_by_hand(0.25 * x.double() - b_dec, tensors, k=K)
    read = sae.in_context(x)
    agree(sae.encode(read), f)
    y = (f @ tensors["W_dec"].double() + expected + b_dec) / 0.25
    agree(sae.decode(sae.encode(read), read), y)
    assert sae.context is not None
    assert sae.context.least == 4e-6


@pytest.mark.parametrize("tied", [True, False])
def test_a_bias_that_is_not_subtracted(tmp_path: Path, tied: bool) -> None:
    tensors = temporal_parts(tied=tied)
    sae, _ = read_saelens(written_temporal(tmp_path / "a", tensors, apply_b_dec_to_input=False))
    x = texts()
    f, expected = temporal_by_hand(x.double(), tensors, k=K)
    y = f @ tensors["W_dec"].double() + expected  # tied, it is not added either
    y = y if tied else y + tensors["b_dec"].double()
    read = sae.in_context(x)
    agree(sae.decode(sae.encode(read), read), y)
    write_saelens(tmp_path / "b", sae)
    assert torch.equal(
        read_saelens(tmp_path / "b")[0].reconstruct(read[0]), sae.reconstruct(read[0])
    )


def test_single_tokens_are_refused(tmp_path: Path) -> None:
    sae, _ = read_saelens(written_temporal(tmp_path / "a"))
    for read in (sae.encode, sae.encode_sparse, sae.reconstruct):
        with pytest.raises(Unsupported, match="by those before it, so that single tokens"):
            read(texts()[0])
    with pytest.raises(Mismatch, match="width 16"):
        sae.encode(torch.zeros(3, D + 1))
    with pytest.raises(Mismatch, match="shape"):
        sae.in_context(texts()[0])
    with pytest.raises(Mismatch, match="width 16"):
        sae.in_context(torch.zeros(1, 3, D + 1))
    with pytest.raises(InvalidInput, match="A temporal SAE cannot decode without"):
        sae.decode(torch.zeros(2, M))


def test_what_cannot_hold_it_says_so(tmp_path: Path) -> None:
    sae, _ = read_saelens(written_temporal(tmp_path / "a"))
    with pytest.raises(Unsupported, match=r"no temporal SAEs; SAELens can hold"):
        write_dictionary_learning(tmp_path / "x", sae)
    with pytest.raises(Unsupported, match=r"this one is temporal; SAELens can hold"):
        write_sparsify(tmp_path / "x", sae)
    with pytest.raises(Unsupported, match="only holds transcoders; SAELens can"):
        write_circuit_tracer(tmp_path / "x", {0: sae}, "mlp_in", "mlp_out", "tiny")
    with pytest.raises(InvalidInput, match="no training here that a temporal SAE fits"):
        check_fits(sae, TrainConfig(architecture="topk", width=M), D)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        ({"normalize_activations": "covariance_whitening"}, Unsupported, "whitening"),
        (
            {
                "normalize_activations": "constant_scalar_rescale",
                "activation_normalization_factor": 0,
            },
            Damaged,
            "no positive",
        ),
        ({"n_attn_layers": -1}, Damaged, "how many attention layers"),
        ({"n_attn_layers": 2}, Damaged, "lacks attn_layers.1"),
        ({"n_attn_layers": 0}, Unsupported, "not understood"),
        ({"n_heads": 3}, Damaged, "cannot be shared out among 3 heads"),
        ({"n_heads": 0}, Damaged, "among 0 heads"),
        ({"sae_diff_type": "batchtopk"}, Damaged, "which latents"),
        ({"kval_topk": M + 1}, Damaged, "needs a k between"),
        ({"tied_weights": False}, Damaged, "lacks W_enc"),
        ({"d_in": D + 1}, Mismatch, "W_dec has shape"),
    ],
)
def test_what_cannot_be_read_is_said(
    tmp_path: Path, config: dict[str, Any], error: type[StudioError], words: str
) -> None:
    folder = written_temporal(tmp_path, **config)
    eye = torch.eye(D, dtype=torch.float64)
    whitening = {"mean": eye[0].clone(), "matrix": eye, "inverse_matrix": eye.clone()}
    save_file(whitening, folder / "activation_whitening.safetensors")
    with pytest.raises(error, match=words):
        read_saelens(folder)


def test_a_layer_of_other_shapes_is_refused(tmp_path: Path) -> None:
    tensors = temporal_parts()
    tensors["attn_layers.0.v_ctx.weight"] = torch.zeros(M, M - 1)
    with pytest.raises(Mismatch, match=r"value has shape \(64, 63\) instead of \(64, 64\)"):
        read_saelens(written_temporal(tmp_path, tensors))


def test_no_other_kind_has_a_context(tmp_path: Path) -> None:
    sae, _ = read_saelens(written_temporal(tmp_path))
    with pytest.raises(InvalidInput, match="and no other"):
        replace(sae, architecture="standard")
    with pytest.raises(InvalidInput, match="and no other"):
        replace(sae, context=None)
    with pytest.raises(InvalidInput, match="no b_enc"):
        replace(sae, b_enc_F=torch.ones(M))


def test_what_would_change_its_lengths_is_refused(tmp_path: Path) -> None:
    unit, _ = read_saelens(written_temporal(tmp_path / "unit"))
    assert fold_decoder_norms(unit) is unit
    sae, _ = read_saelens(written_temporal(tmp_path / "any", temporal_parts(unit=False)))
    with pytest.raises(Unsupported, match="lengths of a temporal SAE's"):
        fold_decoder_norms(sae)
    eye = torch.eye(D, dtype=torch.float64)
    with pytest.raises(Unsupported, match="folded into a temporal SAE"):
        fold_coordinates(sae, Coordinates(eye[0], eye, eye))


def test_features_are_not_read_while_a_text_is_written(tmp_path: Path) -> None:
    sae, _ = read_saelens(written_temporal(tmp_path))
    with pytest.raises(Unsupported, match="while a text is written"):
        Reader.of(PlacedSae(sae, 0, "resid_post"), [3], torch.device("cpu"))


def programs(folder: Path, tensors: dict[str, torch.Tensor], **sae: Any) -> Path:
    """A folder as the program of temporal SAEs writes it."""
    names = {"W_dec": "D", "W_enc": "E", "b_dec": "b"}
    told = {
        "exp_factor": M / D,
        "n_heads": HEADS,
        "n_attn_layers": 1,
        "bottleneck_factor": M // KEYS,
        "sae_diff_type": "topk",
        "kval_topk": K,
        "tied_weights": "W_enc" not in tensors,
        "scaling_factor": 0.5,
    }
    folder.mkdir(parents=True, exist_ok=True)
    config = {"llm": {"dimin": D}, "sae": {**told, **sae}, "data": {"dtype": "float32"}}
    (folder / "conf.yaml").write_text(yaml.safe_dump(config))
    theirs = {names.get(name, name): tensor for name, tensor in tensors.items()}
    theirs["b"] = theirs["b"][None].contiguous()
    save_file(theirs, folder / "latest_ckpt.safetensors")
    return folder


@pytest.mark.parametrize("tied", [True, False])
def test_the_files_of_its_own_program_are_read(tmp_path: Path, tied: bool) -> None:
    tensors = temporal_parts(tied=tied, unit=False)
    folder = programs(tmp_path / "tiny" / "layer_7" / "temporal", tensors)
    assert detect(tmp_path).format.name == "temporal"
    sae, metadata = read_temporal(folder)
    assert metadata["hook_name"] == "blocks.7.hook_resid_post"
    x, b_dec = texts(), tensors["b_dec"].double()
    f, expected = temporal_by_hand(0.5 * x.double() - b_dec, tensors, k=K)
    read = sae.in_context(x)
    agree(sae.encode(read), f)
    y = (f @ tensors["W_dec"].double() + expected + b_dec) / 0.5
    agree(sae.decode(sae.encode(read), read), y)
    names = ["a/layer_7/temporal/latest_ckpt.safetensors", "a/layer_7/temporal/conf.yaml", "b.txt"]
    (listed,) = saes_of(names)
    assert (listed.format.name, list(listed.files)) == ("temporal", names[:2])


@pytest.mark.parametrize(
    ("told", "error", "words"),
    [
        ({"sae_diff_type": "batchtopk"}, Unsupported, "'batchtopk' cannot be read"),
        ({"scaling_factor": 0}, Damaged, "not positive"),
        ({"exp_factor": None}, Damaged, "does not describe"),
        ({"n_heads": 3}, Damaged, "not usable"),
    ],
)
def test_what_of_its_program_cannot_be_read_is_said(
    tmp_path: Path, told: dict[str, Any], error: type[StudioError], words: str
) -> None:
    with pytest.raises(error, match=words):
        read_temporal(programs(tmp_path, temporal_parts(), **told))


def test_a_folder_without_its_description_is_said(tmp_path: Path) -> None:
    folder = programs(tmp_path, temporal_parts())
    (folder / "conf.yaml").write_text("[")
    with pytest.raises(Damaged, match="no YAML"):
        read_temporal(folder)
    (folder / "conf.yaml").write_text("llm: 3")
    with pytest.raises(Damaged, match="does not describe"):
        read_temporal(folder)
    (folder / "conf.yaml").unlink()
    with pytest.raises(StudioError, match="no TemporalSAEs folder"):
        read_temporal(folder)
