"""SAELens folders: round trips, older files, damaged ones, and the real library if it is there."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mistudio.core.errors import Damaged, InvalidInput, Mismatch, NotFound, StudioError, Unsupported
from mistudio.jobs.skipped_positions import told_to_others
from mistudio.ml.formats.saelens import read_saelens, write_saelens
from mistudio.ml.sae.base import SparseAutoencoder

D, M = 16, 64
ARCHITECTURES = ("topk", "jumprelu", "standard")


def made_up(architecture: str) -> SparseAutoencoder:
    generator = torch.Generator().manual_seed(1)
    W_dec = torch.nn.functional.normalize(torch.randn(M, D, generator=generator), dim=1)
    return SparseAutoencoder(
        W_dec.T.contiguous() + 0.05 * torch.randn(D, M, generator=generator),
        0.1 * torch.randn(M, generator=generator),
        W_dec,
        torch.randn(D, generator=generator),
        architecture,
        k=5 if architecture == "topk" else None,
        threshold_F=0.5 + torch.rand(M, generator=generator)
        if architecture == "jumprelu"
        else None,
        metadata={"model_name": "tiny", "hook_name": "model.layers.1"},
    )


def inputs() -> torch.Tensor:
    return 2 * torch.randn(50, D, generator=torch.Generator().manual_seed(2))


def rewrite(folder: Path, config: dict[str, Any] | None = None, **tensors: torch.Tensor) -> None:
    """Change entries of a written folder; a value of None in `config` removes the key."""
    path = folder / "cfg.json"
    content = json.loads(path.read_text()) | (config or {})
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    if tensors:
        weights = folder / "sae_weights.safetensors"
        save_file({**load_file(weights), **tensors}, weights)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_round_trip_keeps_bits_and_metadata(tmp_path: Path, architecture: str) -> None:
    sae = made_up(architecture)
    write_saelens(tmp_path / "sae", sae, {"context_size": 128, "prepend_bos": False})
    again, metadata = read_saelens(tmp_path / "sae")
    assert torch.equal(again.encode(inputs()), sae.encode(inputs()))
    assert torch.equal(again.reconstruct(inputs()), sae.reconstruct(inputs()))
    assert metadata["hook_name"] == "model.layers.1"
    assert metadata["context_size"] == 128
    assert again.architecture == architecture
    config = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    assert config["metadata"]["sae_lens_version"] == "6.54.12"
    assert config.get("k") == (5 if architecture == "topk" else None)
    assert config["normalize_activations"] == "none"


def test_sparse_and_dense_encoding_agree() -> None:
    for architecture in ARCHITECTURES:
        sae = made_up(architecture)
        codes = sae.encode_sparse(inputs())
        dense = torch.zeros(50, M)
        dense[codes.rows, codes.ids] = codes.values
        assert torch.equal(dense, sae.encode(inputs()))
        assert (codes.values != 0).all()


def test_free_decoder_norms_are_folded(tmp_path: Path) -> None:
    norms = torch.linspace(0.5, 3, M)
    for architecture in ("jumprelu", "standard"):
        folder = tmp_path / architecture
        sae = made_up(architecture)
        write_saelens(folder, sae)
        rewrite(folder, W_dec=sae.W_dec_FO * norms[:, None])
        again, _ = read_saelens(folder)
        assert (again.W_dec_FO.norm(dim=1) - 1).abs().max() < 1e-6
        f = sae.encode(inputs())
        assert ((again.encode(inputs()) > 0) == (f > 0)).all()
        assert torch.allclose(again.encode(inputs()), f * norms, rtol=1e-5, atol=1e-5)
        expected = (f * norms) @ sae.W_dec_FO + sae.b_dec_O
        assert torch.allclose(again.reconstruct(inputs()), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rescale", [False, True])
def test_topk_is_folded_only_if_it_selects_by_length(tmp_path: Path, rescale: bool) -> None:
    sae, norms = made_up("topk"), torch.linspace(0.2, 3, M)
    write_saelens(tmp_path / "a", sae)
    rewrite(
        tmp_path / "a",
        {"rescale_acts_by_decoder_norm": rescale},
        W_dec=sae.W_dec_FO * norms[:, None],
    )
    again, _ = read_saelens(tmp_path / "a")
    h = sae.pre_activations(inputs()) * (norms if rescale else 1)
    f = torch.zeros_like(h).scatter_(1, h.topk(5).indices, h.topk(5).values.relu())
    expected = f @ (sae.W_dec_FO * (1 if rescale else norms[:, None])) + sae.b_dec_O
    assert torch.allclose(again.reconstruct(inputs()), expected, rtol=1e-4, atol=1e-4)


def test_files_older_than_version_six(tmp_path: Path) -> None:
    sae = made_up("topk")
    write_saelens(tmp_path / "a", sae)
    rewrite(
        tmp_path / "a",
        {
            "architecture": None,
            "k": None,
            "metadata": None,
            "activation_fn_str": "topk",
            "activation_fn_kwargs": {"k": 5},
            "normalize_activations": False,
            "hook_point": "blocks.3.hook_resid_post",
            "model_name": "gpt2",
            "context_size": 128,
        },
        scaling_factor=torch.ones(M),
    )
    again, metadata = read_saelens(tmp_path / "a")
    assert torch.equal(again.encode(inputs()), sae.encode(inputs()))
    assert (again.architecture, again.k) == ("topk", 5)
    assert metadata == {
        "hook_name": "blocks.3.hook_resid_post",
        "model_name": "gpt2",
        "context_size": 128,
    }
    rewrite(tmp_path / "a", scaling_factor=torch.full((M,), 2.0))
    with pytest.raises(Unsupported, match="scaling factor"):
        read_saelens(tmp_path / "a")


def test_a_checkpoint_with_its_scale_is_folded(tmp_path: Path) -> None:
    sae = made_up("jumprelu")
    write_saelens(tmp_path / "a", sae)
    rewrite(tmp_path / "a", {"normalize_activations": "expected_average_only_in"})
    with pytest.raises(Unsupported, match="activation_scaler"):
        read_saelens(tmp_path / "a")
    (tmp_path / "a" / "activation_scaler.json").write_text('{"scaling_factor": 4.0}')
    again, _ = read_saelens(tmp_path / "a")
    expected = sae.reconstruct(4 * inputs()) / 4
    assert torch.allclose(again.reconstruct(inputs()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("subtracts", [True, False])
def test_a_gated_sae_goes_out_as_one(tmp_path: Path, subtracts: bool) -> None:
    sae = replace(made_up("jumprelu"), apply_b_dec_to_input=subtracts)
    sae = sae.with_metadata(training_architecture="gated")
    write_saelens(tmp_path / "a", sae)
    config = json.loads((tmp_path / "a" / "cfg.json").read_text())
    assert (config["architecture"], config["apply_b_dec_to_input"]) == ("gated", subtracts)
    t = {n: v.double() for n, v in load_file(tmp_path / "a" / "sae_weights.safetensors").items()}
    assert sorted(t) == ["W_dec", "W_enc", "b_dec", "b_gate", "b_mag", "r_mag"]
    x = inputs().double() - (t["b_dec"] if subtracts else 0)
    magnitude = (x @ (t["W_enc"] * t["r_mag"].exp()) + t["b_mag"]).relu()
    f = magnitude * (x @ t["W_enc"] + t["b_gate"] > 0)
    assert (f.float() - sae.encode(inputs())).abs().max() <= 1e-5
    assert torch.equal(f > 0, sae.encode(inputs()) > 0)
    assert sae.threshold_F is not None
    assert ((magnitude > 0) & (f == 0)).any(), "the thresholds decide"
    again, metadata = read_saelens(tmp_path / "a")
    assert (again.architecture, metadata["training_architecture"]) == ("jumprelu", "gated")
    assert again.threshold_F is not None
    assert (again.threshold_F - sae.threshold_F).abs().max() <= 1e-6
    error = (again.reconstruct(inputs()) - sae.reconstruct(inputs())).abs().max()
    assert error <= 1e-6 * sae.reconstruct(inputs()).abs().max()


def test_what_has_no_gated_form_stays_a_jumprelu(tmp_path: Path) -> None:
    sae = made_up("jumprelu").with_metadata(training_architecture="gated")
    assert sae.threshold_F is not None
    negative = replace(sae, threshold_F=sae.threshold_F - 0.6)
    encoder = replace(sae, encoder="transcoder", apply_b_dec_to_input=False)
    plain = sae.with_metadata(training_architecture="jumprelu")
    for name, other in (("negative", negative), ("transcoder", encoder), ("plain", plain)):
        write_saelens(tmp_path / name, other)
        config = json.loads((tmp_path / name / "cfg.json").read_text())
        assert config["architecture"].startswith("jumprelu"), name
    write_saelens(tmp_path / "library", sae, for_library=True)
    again, _ = read_saelens(tmp_path / "library")
    assert torch.equal(again.threshold_F, sae.threshold_F)  # type: ignore[arg-type]


def test_a_gated_sae_of_saelens_is_known_as_one(tmp_path: Path) -> None:
    sae = made_up("jumprelu").with_metadata(training_architecture="gated")
    write_saelens(tmp_path / "a", sae)
    config = json.loads((tmp_path / "a" / "cfg.json").read_text())
    del config["metadata"]["training_architecture"]
    (tmp_path / "a" / "cfg.json").write_text(json.dumps(config))
    assert read_saelens(tmp_path / "a")[1]["training_architecture"] == "gated"


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        ({"architecture": "matryoshka_batchtopk"}, Unsupported, "matryoshka_batchtopk"),
        ({"normalize_activations": "by_hand"}, Unsupported, "by_hand"),
        ({"dtype": "int8"}, Unsupported, "int8"),
        ({"d_sae": 65}, Mismatch, "W_enc"),
        ({"d_in": None}, Damaged, "d_in"),
        ({"architecture": "jumprelu"}, Damaged, "threshold"),
        ({"k": 65}, InvalidInput, "between 1 and 64"),
    ],
)
def test_wrong_configurations_are_sentences(
    tmp_path: Path, config: dict[str, Any], error: type[StudioError], words: str
) -> None:
    write_saelens(tmp_path / "a", made_up("topk"))
    rewrite(tmp_path / "a", config)
    with pytest.raises(error, match=words):
        read_saelens(tmp_path / "a")


def test_damaged_and_missing_files_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"cfg\.json"):
        read_saelens(tmp_path)
    folder = tmp_path / "a"
    write_saelens(folder, made_up("jumprelu"))
    rewrite(folder, threshold=torch.tensor(0.5))
    with pytest.raises(Mismatch, match="threshold"):
        read_saelens(folder)
    rewrite(folder, threshold=torch.full((M,), float("nan")))
    with pytest.raises(Damaged, match="threshold"):
        read_saelens(folder)
    weights = folder / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(Damaged, match="damaged"):
        read_saelens(folder)
    weights.unlink()
    with pytest.raises(NotFound, match="sae_weights"):
        read_saelens(folder)
    (folder / "cfg.json").write_text("[1, 2]")
    with pytest.raises(Damaged, match="describe"):
        read_saelens(folder)
    (folder / "cfg.json").write_text("{")
    with pytest.raises(Damaged, match="JSON"):
        read_saelens(folder)


def test_files_of_the_user_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InvalidInput, match="not empty"):
        write_saelens(tmp_path, made_up("topk"))
    with pytest.raises(InvalidInput, match="not empty"):
        write_saelens(tmp_path / "thesis.txt", made_up("topk"))
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


READER = """
import sys, torch
from pathlib import Path
from safetensors.torch import load_file
from sae_lens import SAE
torch.set_num_threads(1)
for folder in sorted(Path(sys.argv[1]).glob("*/ours")):
    sae = SAE.load_from_disk(folder)
    ours = load_file(folder.parent / "ours.safetensors")
    f = sae.encode(ours["x"])
    assert torch.equal(f, ours["f"]), folder
    assert torch.equal(sae.decode(f), ours["y"]), folder
    assert sae.cfg.metadata.hook_name == "model.layers.1", folder
    assert sae.cfg.metadata.context_size == 128, folder
    kept = range(128)[slice(*sae.cfg.metadata.seqpos_slice)]
    assert set(range(128)) - set(kept) == {0, 1, 127}, folder
    sae.save_model(folder.parent / "theirs")
    print(folder.parent.name, "equal", type(sae).__name__)
"""


@pytest.mark.heavy
def test_real_saelens_computes_the_same_bits(tmp_path: Path) -> None:
    python = os.environ.get("MISTUDIO_SAELENS_PYTHON")
    if not python:
        pytest.skip("MISTUDIO_SAELENS_PYTHON names no interpreter with sae-lens")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    saes = {architecture: made_up(architecture) for architecture in ARCHITECTURES}
    saes["gated"] = made_up("jumprelu").with_metadata(training_architecture="gated")
    for architecture, sae in saes.items():
        folder = tmp_path / architecture
        told = {"context_size": 128, "prepend_bos": False, **told_to_others("0-1,127", 128)}
        write_saelens(folder / "ours", sae, told)
        f = sae.encode(inputs())
        save_file({"x": inputs(), "f": f, "y": sae.decode(f)}, folder / "ours.safetensors")
    done = subprocess.run(
        [python, "-c", READER, str(tmp_path)],
        env={**os.environ, "WANDB_MODE": "disabled", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("equal") == 4
    assert "gated equal GatedSAE" in done.stdout
    for architecture, sae in saes.items():
        again, metadata = read_saelens(tmp_path / architecture / "theirs")
        assert torch.equal(again.encode(inputs()), sae.encode(inputs()))
        assert metadata["model_name"] == "tiny"
    torch.set_num_threads(threads)
