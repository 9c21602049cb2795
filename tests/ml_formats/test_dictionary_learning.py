"""dictionary_learning folders: each class against a computation of its own, and back."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from mistudio.core.errors import (
    Damaged,
    DiskFull,
    InvalidInput,
    Mismatch,
    NotFound,
    StudioError,
    Unsupported,
)
from mistudio.core.sae_readings import read_as
from mistudio.ml.formats import dictionary_learning
from mistudio.ml.formats.dictionary_learning import (
    hook_name,
    read_dictionary_learning,
    read_state,
    write_dictionary_learning,
)
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
    pre_activations,
    random,
    write_json,
)

THRESHOLD = 0.8


def linear(p: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        "encoder.weight": p["W_enc"].T.contiguous(),
        "encoder.bias": p["b_enc"],
        "decoder.weight": p["W_dec"].T.contiguous(),
    }


def written(
    folder: Path,
    name: str,
    state: dict[str, Any],
    buffer: dict[str, Any] | None = None,
    **more: Any,
) -> Path:
    trainer = {
        "dict_class": name,
        "activation_dim": D,
        "dict_size": M,
        "k": K,
        "layer": 3,
        "lm_name": "EleutherAI/pythia-70m",
        "submodule_name": "resid_post_layer_3",
        **more,
    }
    write_json(
        folder / "config.json",
        {"trainer": trainer, "buffer": {"io": "out", "ctx_len": 128, **(buffer or {})}},
    )
    torch.save(state, folder / "ae.pt")
    return folder


def case(name: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]:
    """Parts, the state of the class, and the latents that it computes."""
    p, x = (
        parts(unit=name not in ("AutoEncoder", "AutoEncoderNew", "JumpReluAutoEncoder")),
        inputs(),
    )
    k, theta = torch.tensor(K, dtype=torch.int32), torch.tensor(THRESHOLD)
    less = pre_activations(p, x, subtract=True)
    plain = pre_activations(p, x, subtract=False)
    vector = torch.linspace(0.1, 1.5, M)
    groups = torch.tensor([16, 48])
    states: dict[str, tuple[dict[str, torch.Tensor], torch.Tensor]] = {
        "AutoEncoder": ({**linear(p), "bias": p["b_dec"]}, less.clamp(min=0)),
        "AutoEncoderNew": ({**linear(p), "decoder.bias": p["b_dec"]}, plain.clamp(min=0)),
        "AutoEncoderTopK": (
            {**linear(p), "b_dec": p["b_dec"], "k": k, "threshold": theta},
            kept_top_k(less, K),
        ),
        "BatchTopKSAE": (
            {**linear(p), "b_dec": p["b_dec"], "k": k, "threshold": theta},
            kept_above(less, THRESHOLD),
        ),
        "MatryoshkaBatchTopKSAE": (
            {**p, "k": k, "threshold": theta, "group_sizes": groups},
            kept_above(less, THRESHOLD),
        ),
        "JumpReluAutoEncoder": ({**p, "threshold": vector}, kept_above(plain, vector.double())),
        "GatedAutoEncoder": gated_case(p, x),
    }
    return p, *states[name]


def gated_case(
    p: dict[str, torch.Tensor], x: torch.Tensor
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """One path decides which latents act, another how much; both read one matrix."""
    gate_bias, r_mag, mag_bias = (random(M, seed=s, scale=0.3) for s in (31, 32, 33))
    state = {key: t for key, t in linear(p).items() if key != "encoder.bias"}
    state |= {"gate_bias": gate_bias, "r_mag": r_mag, "mag_bias": mag_bias}
    pre = (x - p["b_dec"]).double() @ p["W_enc"].double()
    magnitude = torch.relu(pre * r_mag.double().exp() + mag_bias.double())
    f = torch.where(pre + gate_bias.double() > 0, magnitude, torch.zeros_like(pre))
    return {**state, "decoder_bias": p["b_dec"]}, f


CLASSES = tuple(dictionary_learning.CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_computes_what_the_program_computes(tmp_path: Path, name: str) -> None:
    p, state, f = case(name)
    sae, metadata = read_dictionary_learning(written(tmp_path, name, state))
    agrees(sae, f, p)
    assert (sae.W_dec_FO.norm(dim=1) - 1).abs().max() < 1e-5
    assert metadata["hook_name"] == "blocks.3.hook_resid_post"
    assert metadata["model_name"] == "EleutherAI/pythia-70m"
    assert metadata["context_size"] == 128
    assert metadata["training_architecture"] == name
    assert metadata["source_config"]["trainer"]["layer"] == 3
    assert dict(sae.metadata) == metadata


def test_a_topk_is_read_by_its_k_and_not_by_the_threshold_it_stores(tmp_path: Path) -> None:
    p, state, f = case("AutoEncoderTopK")
    sae, _ = read_dictionary_learning(written(tmp_path, "AutoEncoderTopK", state))
    assert (sae.architecture, sae.k, sae.threshold_F) == ("topk", K, None)
    by_threshold = kept_above(pre_activations(p, inputs(), subtract=True), THRESHOLD)
    assert not torch.equal(f > 0, by_threshold > 0)


@pytest.mark.parametrize("name", ["BatchTopKSAE", "MatryoshkaBatchTopKSAE"])
def test_a_threshold_that_was_never_set_leaves_the_k_largest(tmp_path: Path, name: str) -> None:
    p, state, _ = case(name)
    less = pre_activations(p, inputs(), subtract=True)
    state["threshold"] = torch.tensor(-1.0)
    sae, metadata = read_dictionary_learning(written(tmp_path, name, state))
    assert (sae.architecture, sae.k, sae.threshold_F) == ("topk", K, None)
    agrees(sae, kept_top_k(less, K), p)
    assert (less > 0).sum(1).min() > K, "the program itself would keep more"
    assert metadata["threshold_unset"] is True
    assert read_as(metadata) == [
        "Its threshold was never set; the k largest latents of each token stand in."
    ]
    assert metadata.get("group_sizes") == ([16, 48] if name.startswith("M") else None)
    set_one = read_dictionary_learning(written(tmp_path, name, case(name)[1]))[1]
    assert "threshold_unset" not in set_one
    assert read_as(set_one) == []
    assert set_one.get("group_sizes") == metadata.get("group_sizes")


def test_groups_that_do_not_add_up(tmp_path: Path) -> None:
    state = {**case("MatryoshkaBatchTopKSAE")[1], "group_sizes": torch.tensor([16, 47])}
    with pytest.raises(Mismatch, match="do not add up"):
        read_dictionary_learning(written(tmp_path, "MatryoshkaBatchTopKSAE", state))


@pytest.mark.parametrize(
    ("submodule", "side", "found"),
    [
        ("resid_post_layer_3", "out", "blocks.3.hook_resid_post"),
        ("resid_post_layer_3", "in", "blocks.3.hook_resid_pre"),
        ("resid_pre_layer_3", "out", "blocks.3.hook_resid_pre"),
        ("resid_out_layer3", "out", "blocks.3.hook_resid_post"),
        ("mlp_out_layer_2", "", "blocks.2.hook_mlp_out"),
        ("mlp_out_layer_2", "in", "blocks.2.hook_mlp_in"),
        ("attn_z_layer_2", "out", "blocks.2.attn.hook_z"),
        ("gpt_neox.layers.3", "out", "gpt_neox.layers.3"),
        ("gpt_neox.layers.3", "in", "blocks.3.hook_resid_pre"),
        ("gpt_neox.layers.3.mlp", "out", "gpt_neox.layers.3.mlp"),
        ("gpt_neox.layers.3.mlp", "in", "gpt_neox.layers.3.mlp.input"),
        ("", "out", ""),
    ],
)
def test_where_a_submodule_is(submodule: str, side: str, found: str) -> None:
    assert hook_name(submodule, side) == found


def made(architecture: str, *, subtracts: bool) -> SparseAutoencoder:
    p = parts()
    return SparseAutoencoder(
        p["W_enc"],
        p["b_enc"],
        p["W_dec"],
        p["b_dec"],
        architecture,
        k=K if architecture == "topk" else None,
        threshold_F=torch.linspace(0.1, 1.5, M) if architecture == "jumprelu" else None,
        apply_b_dec_to_input=subtracts,
        metadata={"model_name": "tiny", "hook_name": "model.layers.1", "context_size": 32},
    )


@pytest.mark.parametrize("subtracts", [True, False])
@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "standard"])
def test_round_trip(tmp_path: Path, architecture: str, subtracts: bool) -> None:
    sae = made(architecture, subtracts=subtracts)
    write_dictionary_learning(tmp_path / "out", sae, {"layer": 1, "hook": "resid_post"})
    again, metadata = read_dictionary_learning(tmp_path / "out")
    x = inputs()
    exact = (architecture, subtracts) in {
        ("topk", True),
        ("jumprelu", False),
        ("standard", True),
        ("standard", False),
    }
    if exact:
        assert torch.equal(again.encode(x), sae.encode(x))
        assert torch.equal(again.reconstruct(x), sae.reconstruct(x))
    else:
        assert torch.equal(again.encode(x) > 0, sae.encode(x) > 0)
        error = (again.reconstruct(x) - sae.reconstruct(x)).abs().max()
        assert error <= 1e-6 * sae.reconstruct(x).abs().max()
    assert metadata["model_name"] == "tiny"
    assert metadata["hook_name"] == "blocks.1.hook_resid_post"
    assert metadata["context_size"] == 32
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["ae.pt", "config.json"]


@pytest.mark.parametrize("trained_as", ["gated", "GatedAutoEncoder"])
@pytest.mark.parametrize("subtracts", [True, False])
def test_a_gated_sae_goes_out_as_one(tmp_path: Path, subtracts: bool, trained_as: str) -> None:
    sae, x = made("jumprelu", subtracts=subtracts), inputs()
    write_dictionary_learning(tmp_path / "out", sae, {"training_architecture": trained_as})
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["trainer"]["dict_class"] == "GatedAutoEncoder"
    state = {n: t.double() for n, t in read_state(tmp_path / "out" / "ae.pt").items()}
    pre = (x.double() - state["decoder_bias"]) @ state["encoder.weight"].T
    magnitude = (state["r_mag"].exp() * pre + state["mag_bias"]).relu()
    f = magnitude * (pre + state["gate_bias"] > 0)
    assert torch.equal(f > 0, sae.encode(x) > 0)
    assert ((magnitude > 0) & (f == 0)).any(), "the thresholds decide"
    assert (f.float() - sae.encode(x)).abs().max() <= 1e-5
    again, metadata = read_dictionary_learning(tmp_path / "out")
    assert (again.architecture, metadata["training_architecture"]) == (
        "jumprelu",
        "GatedAutoEncoder",
    )
    assert torch.equal(again.encode(x) > 0, sae.encode(x) > 0)
    error = (again.reconstruct(x) - sae.reconstruct(x)).abs().max()
    assert error <= 1e-6 * sae.reconstruct(x).abs().max()
    assert again.threshold_F is not None
    assert sae.threshold_F is not None
    assert (again.threshold_F - sae.threshold_F).abs().max() <= 1e-6


def test_the_written_pickle_is_a_plain_dictionary_of_tensors(tmp_path: Path) -> None:
    write_dictionary_learning(tmp_path / "out", made("topk", subtracts=True))
    state = torch.load(tmp_path / "out" / "ae.pt", weights_only=True)
    assert type(state) is dict
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
        "encoder.weight": (M, D),
        "encoder.bias": (M,),
        "decoder.weight": (D, M),
        "b_dec": (D,),
        "k": (),
        "threshold": (),
    }


@pytest.mark.parametrize(
    ("name", "change", "error", "words"),
    [
        ("GatedAutoEncoder", {}, Damaged, "lacks gate_bias"),
        ("IdentityDict", {}, Unsupported, "IdentityDict"),
        ("", {}, Unsupported, "unknown"),
        ("AutoEncoder", {}, Damaged, "lacks bias"),
        ("MatryoshkaBatchTopKSAE", {}, Damaged, "lacks W_enc"),
        ("BatchTopKSAE", {"threshold": torch.ones(M)}, Damaged, "not one number"),
        ("BatchTopKSAE", {"threshold": -torch.ones(()), "k": torch.tensor(9)}, Mismatch, "k is 9"),
        ("BatchTopKSAE", {"r_mag": torch.ones(M)}, Unsupported, "r_mag"),
        ("AutoEncoderTopK", {"k": torch.tensor(6)}, Mismatch, "k is 6"),
        ("AutoEncoderTopK", {"b_dec": torch.full((D,), torch.nan)}, Damaged, "b_dec"),
        ("AutoEncoderTopK", {"encoder.bias": torch.zeros(M + 1)}, Mismatch, "b_enc"),
        ("AutoEncoderTopK", {"encoder.weight": torch.zeros(M)}, Mismatch, "matrices"),
        ("AutoEncoderTopK", {"decoder.weight": torch.zeros(D + 1, M)}, Unsupported, "transcoder"),
    ],
)
def test_what_cannot_be_read_is_a_sentence(
    tmp_path: Path, name: str, change: dict[str, Any], error: type[StudioError], words: str
) -> None:
    state = {**case("BatchTopKSAE")[1], **change}
    with pytest.raises(error, match=words):
        read_dictionary_learning(written(tmp_path, name, state))


def test_files_that_contradict_each_other_or_are_damaged(tmp_path: Path) -> None:
    state = case("BatchTopKSAE")[1]
    with pytest.raises(NotFound, match=r"config\.json"):
        read_dictionary_learning(tmp_path)
    with pytest.raises(Mismatch, match="dict_size 65"):
        read_dictionary_learning(written(tmp_path, "BatchTopKSAE", state, dict_size=65))
    with pytest.raises(Unsupported, match="transcoder"):
        read_dictionary_learning(written(tmp_path, "BatchTopKSAE", state, {"io": "in_and_out"}))
    written(tmp_path, "BatchTopKSAE", state)
    whole = (tmp_path / "ae.pt").read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"no pickle at all", whole[:40]):
        (tmp_path / "ae.pt").write_bytes(broken)
        with pytest.raises((Damaged, Unsupported), match="damaged"):
            read_dictionary_learning(tmp_path)
    (tmp_path / "ae.pt").unlink()
    with pytest.raises(NotFound, match=r"ae\.pt"):
        read_dictionary_learning(tmp_path)
    write_json(tmp_path / "config.json", {"trainer": "x"})
    with pytest.raises(Damaged, match="describe"):
        read_dictionary_learning(tmp_path)


def test_vectors_of_a_gated_sae_that_do_not_fit(tmp_path: Path) -> None:
    state = case("GatedAutoEncoder")[1]
    short = {**state, "r_mag": state["r_mag"][1:]}
    with pytest.raises(Mismatch, match="do not fit"):
        read_dictionary_learning(written(tmp_path, "GatedAutoEncoder", short))


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "ran")


def test_no_code_in_a_file_is_run(tmp_path: Path) -> None:
    torch.save({"W_enc": Trap(tmp_path / "ran")}, tmp_path / "ae.pt")
    with pytest.raises(Unsupported, match="could run code"):
        read_state(tmp_path / "ae.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Trap(tmp_path / "ran")))
    with pytest.raises(Unsupported, match="could run code"):
        read_state(tmp_path / "old.pt")
    assert not (tmp_path / "ran").exists()
    torch.save([torch.ones(2)], tmp_path / "list.pt")
    with pytest.raises(Damaged, match="named tensors"):
        read_state(tmp_path / "list.pt")


def test_writing_replaces_nothing_and_a_full_disk_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InvalidInput, match="not empty"):
        write_dictionary_learning(tmp_path, made("topk", subtracts=True))

    def full(value: Any, stream: Any) -> None:
        stream.write(b"x")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(DiskFull, match="disk is full"):
        write_dictionary_learning(tmp_path / "out", made("topk", subtracts=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis.txt"]


def test_heads_of_a_model_that_is_not_at_hand_are_found_again(tmp_path: Path) -> None:
    """A file of SAELens names them without a path of the projection."""
    sae = made("topk", subtracts=True).with_metadata(hook_name="blocks.3.attn.hook_z")
    write_dictionary_learning(tmp_path / "out", sae, {"layer": 3, "hook": "attn_z"})
    _, metadata = read_dictionary_learning(tmp_path / "out")
    assert metadata["hook_name"] == "blocks.3.attn.hook_z"


def test_the_configuration_is_what_the_program_looks_for(tmp_path: Path) -> None:
    write_dictionary_learning(tmp_path / "out", made("topk", subtracts=True))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["trainer"]["dict_class"] == "AutoEncoderTopK"
    assert config["trainer"]["k"] == K
    assert config["trainer"]["submodule_name"] == "model.layers.1"
    assert config["buffer"]["io"] == "out"
