"""Transcoders in every format that holds them: against computations of their own, and back."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from mistudio.core.errors import Damaged, InvalidInput, Mismatch, StudioError, Unsupported
from mistudio.ml.formats.circuit_tracer import read_circuit_tracer, write_circuit_tracer
from mistudio.ml.formats.dictionary_learning import write_dictionary_learning
from mistudio.ml.formats.norm_gain import Gain, behind_gain, gain_before_mlp
from mistudio.ml.formats.registry import detect, read_any
from mistudio.ml.formats.saelens import read_saelens, write_saelens
from mistudio.ml.formats.sparsify import write_sparsify
from mistudio.ml.sae.base import SparseAutoencoder
from tests.ml_formats.foreign_files import (
    D,
    K,
    M,
    decoded,
    inputs,
    kept_above,
    kept_top_k,
    parts,
    pre_activations,
    random,
    write_json,
)

THRESHOLD = torch.linspace(0.1, 1.5, M)
W_SKIP = random(D, D, seed=11, scale=0.3)
ENCODERS = ("transcoder", "skip_transcoder")
ARCHITECTURES = ("standard", "jumprelu", "topk")
PLACES = {
    "model_name": "tiny",
    "hook_name": "model.layers.1.mlp.input",
    "hook_name_out": "model.layers.1.mlp",
}


def made(architecture: str, encoder: str, *, d_out: int = D) -> SparseAutoencoder:
    p = parts()
    W_dec = torch.nn.functional.normalize(random(M, d_out, seed=21), dim=1)
    return SparseAutoencoder(
        p["W_enc"],
        p["b_enc"],
        W_dec,
        random(d_out, seed=22),
        architecture,
        k=K if architecture == "topk" else None,
        threshold_F=THRESHOLD if architecture == "jumprelu" else None,
        apply_b_dec_to_input=False,
        W_skip_OD=random(d_out, D, seed=23, scale=0.3) if encoder == "skip_transcoder" else None,
        encoder=encoder,
        metadata=PLACES,
    )


def expected(
    f: torch.Tensor, p: dict[str, torch.Tensor], skip: torch.Tensor | None
) -> torch.Tensor:
    """y of latents that a program computed, its skip included; float64."""
    y = decoded(p, f)
    return y if skip is None else y + inputs().double() @ skip.double().T


def close(sae: SparseAutoencoder, f: torch.Tensor, y: torch.Tensor) -> None:
    assert torch.equal(sae.encode(inputs()) > 0, f > 0)
    assert (sae.reconstruct(inputs()).double() - y).abs().max() <= 3e-6 * y.abs().max()


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("d_out", [D, D - 5])
def test_the_library_keeps_every_bit(
    tmp_path: Path, architecture: str, encoder: str, d_out: int
) -> None:
    sae = made(architecture, encoder, d_out=d_out)
    write_saelens(tmp_path / "sae", sae, for_library=True)
    again, metadata = read_saelens(tmp_path / "sae")
    assert (again.encoder, again.architecture, again.d_out) == (encoder, architecture, d_out)
    assert torch.equal(again.reconstruct(inputs()), sae.reconstruct(inputs()))
    assert metadata["hook_name_out"] == "model.layers.1.mlp"
    config = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    assert config["apply_b_dec_to_input"] is False
    assert config["d_out"] == d_out


def test_a_skip_transcoder_does_not_decode_without_what_it_read() -> None:
    sae = made("jumprelu", "skip_transcoder")
    x = inputs()
    f, codes = sae.encode(x), sae.encode_sparse(x)
    for decode in (lambda: sae.decode(f), lambda: sae.decode_sparse(codes)):
        with pytest.raises(InvalidInput, match="without the activations it read"):
            decode()
    assert sae.W_skip_OD is not None
    plain = replace(sae, W_skip_OD=None, encoder="transcoder")
    y = plain.reconstruct(x) + x @ sae.W_skip_OD.T
    for whole in (sae.reconstruct(x), sae.decode(f, x), sae.decode_sparse(codes, x)):
        assert torch.allclose(whole, y, atol=1e-5)
    assert not torch.allclose(plain.reconstruct(x), y, atol=0.1)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"encoder": "transcoder"}, InvalidInput, "skip connection"),
        ({"W_skip_OD": None}, InvalidInput, "skip connection"),
        ({"W_skip_OD": torch.zeros(D, D + 1)}, Mismatch, "W_skip"),
        ({"encoder": "sae", "W_skip_OD": None, "W_dec_FO": torch.zeros(M, 3),
          "b_dec_O": torch.zeros(3)}, Mismatch, "cannot write width 3"),
        ({"encoder": "other"}, InvalidInput, "no encoder"),
    ],
)  # fmt: skip
def test_what_is_no_transcoder(
    changes: dict[str, object], error: type[StudioError], words: str
) -> None:
    with pytest.raises(error, match=words):
        replace(made("standard", "skip_transcoder"), **changes)  # type: ignore[arg-type]


def test_moving_takes_the_skip_along() -> None:
    sae = made("standard", "skip_transcoder")
    moved = sae.to("meta")
    assert moved.W_skip_OD is not None
    assert moved.W_skip_OD.device.type == "meta"


def test_what_a_format_cannot_hold_is_a_sentence(tmp_path: Path) -> None:
    topk, jumprelu = made("topk", "transcoder"), made("jumprelu", "transcoder")
    narrow = made("topk", "transcoder", d_out=D - 1)
    out = tmp_path / "out"
    with pytest.raises(Unsupported, match="SAELens has no topk transcoders; sparsify"):
        write_saelens(out, topk)
    with pytest.raises(Unsupported, match=r"only holds topk and groupmax SAEs.*SAELens can"):
        write_sparsify(out, jumprelu)
    with pytest.raises(Unsupported, match="reads 16 and gives 15"):
        write_sparsify(out, narrow)
    with pytest.raises(Unsupported, match="no transcoders"):
        write_dictionary_learning(out, jumprelu)
    with pytest.raises(Unsupported, match="no topk transcoders"):
        write_circuit_tracer(out, {0: topk}, "mlp_in", "mlp_out", "m")
    plain = replace(made("standard", "transcoder"), encoder="sae")
    with pytest.raises(Unsupported, match="only holds transcoders"):
        write_circuit_tracer(out, {0: plain}, "mlp_in", "mlp_out", "m")
    with pytest.raises(Unsupported, match="give the width they read"):
        write_circuit_tracer(
            out, {0: made("standard", "transcoder", d_out=3)}, "mlp_in", "mlp_out", "m"
        )
    with pytest.raises(InvalidInput, match="from 0 on, and these are of layer 0, 2"):
        write_circuit_tracer(out, {0: jumprelu, 2: jumprelu}, "mlp_in", "mlp_out", "m")
    skip = made("jumprelu", "skip_transcoder")
    with pytest.raises(InvalidInput, match="one kind"):
        write_circuit_tracer(out, {0: jumprelu, 1: skip}, "mlp_in", "mlp_out", "m")
    with pytest.raises(Unsupported, match="what the transcoder reads"):
        write_circuit_tracer(out, {0: jumprelu}, "", "mlp_out", "m")
    assert not out.exists()


def test_gated_files_are_read_as_the_jumprelu_that_computes_the_same(tmp_path: Path) -> None:
    p = parts(unit=False)
    b_gate, r_mag, b_mag = (random(M, seed=s, scale=0.3) for s in (31, 32, 33))
    write_json(tmp_path / "cfg.json", {
        "architecture": "gated", "d_in": D, "d_sae": M, "dtype": "float32",
        "metadata": {"sae_lens_version": "6.54.12"},
    })  # fmt: skip
    tensors = {"W_enc": p["W_enc"], "W_dec": p["W_dec"], "b_dec": p["b_dec"]}
    tensors |= {"b_gate": b_gate, "r_mag": r_mag, "b_mag": b_mag}
    save_file(tensors, tmp_path / "sae_weights.safetensors")
    sae, _ = read_saelens(tmp_path)
    pre = (inputs() - p["b_dec"]).double() @ p["W_enc"].double()
    magnitude = torch.relu(pre * r_mag.double().exp() + b_mag.double())
    f = torch.where(pre + b_gate.double() > 0, magnitude, torch.zeros_like(pre))
    assert 0 < (f > 0).double().mean() < 0.9
    close(sae, f, decoded(p, f))
    save_file(
        {k: v for k, v in tensors.items() if k != "r_mag"}, tmp_path / "sae_weights.safetensors"
    )
    with pytest.raises(Damaged, match="lacks r_mag"):
        read_saelens(tmp_path)


@pytest.mark.parametrize("skips", [True, False])
@pytest.mark.parametrize("transcode", [True, False])
def test_sparsify(tmp_path: Path, skips: bool, transcode: bool) -> None:
    p, folder = parts(unit=False), tmp_path / "layers.3.mlp"
    write_json(folder / "cfg.json", {
        "num_latents": M, "k": K, "d_in": D, "transcode": transcode, "skip_connection": skips,
    })  # fmt: skip
    write_json(tmp_path / "config.json", {"model": "org/model", "hook_mode": "transcode"
               if transcode else "output"})  # fmt: skip
    state = {"encoder.weight": p["W_enc"].T.contiguous(), "encoder.bias": p["b_enc"]}
    state |= {"W_dec": p["W_dec"], "b_dec": p["b_dec"]}
    save_file(state | ({"W_skip": W_SKIP} if skips else {}), folder / "sae.safetensors")
    _, sae, metadata = read_any(tmp_path)
    f = kept_top_k(pre_activations(p, inputs(), subtract=not transcode), K)
    close(sae, f, expected(f, p, W_SKIP if skips else None))
    wanted = "skip_transcoder" if skips else "transcoder" if transcode else "sae"
    assert sae.encoder == wanted
    assert metadata["hook_name"] == ("layers.3.mlp.input" if transcode else "layers.3.mlp")
    assert metadata.get("hook_name_out") == ("layers.3.mlp" if transcode or skips else None)
    if transcode:
        write_sparsify(tmp_path / "again", sae)
        _, again, _ = read_any(tmp_path / "again" / "layers.3.mlp")
        assert torch.equal(again.reconstruct(inputs()), sae.reconstruct(inputs()))


def test_a_gain_moves_into_the_encoder(tmp_path: Path) -> None:
    sae = made("jumprelu", "skip_transcoder")
    gain, bias = torch.linspace(-2.0, 3.1, D).double(), torch.linspace(1.0, -0.5, D).double()
    x = inputs()
    for added in (bias, torch.zeros_like(bias)):
        moved = behind_gain(sae, Gain(gain, added))
        told = moved.reconstruct((x.double() * gain + added).float())
        assert torch.allclose(told, sae.reconstruct(x), rtol=1e-4, atol=1e-4)
    for wrong in (gain * (torch.arange(D) != 3), gain[1:]):
        with pytest.raises(Unsupported, match="cannot be moved"):
            behind_gain(sae, Gain(wrong, bias))
    weights = {
        f"model.layers.{i}.pre_feedforward_layernorm.weight": torch.full((D,), float(i))
        for i in (1, 11)
    }
    save_file(weights, tmp_path / "model.safetensors")
    assert torch.equal(gain_before_mlp(tmp_path, 1).gain_D, torch.full((D,), 2.0).double())
    with pytest.raises(Unsupported, match="no such norm"):
        gain_before_mlp(tmp_path, 2)
    after = {"layers.1.post_attention_layernorm.weight": torch.full((D,), 0.25)}
    save_file(weights | after, tmp_path / "model.safetensors")
    for family, value in (("llama", 0.25), ("qwen3", 0.25), ("gemma2", 2.0), ("olmo2", 2.0)):
        write_json(tmp_path / "config.json", {"model_type": family})
        found = gain_before_mlp(tmp_path, 1)
        assert torch.equal(found.gain_D, torch.full((D,), value).double())
        assert not found.bias_D.any()
    norms = {
        "gpt2": "h.1.ln_2",
        "gpt_neo": "transformer.h.1.ln_2",
        "gpt_neox": "gpt_neox.layers.1.post_attention_layernorm",
        "opt": "model.decoder.layers.1.final_layer_norm",
    }
    for family, name in norms.items():
        write_json(tmp_path / "config.json", {"model_type": family})
        both = {f"{name}.weight": torch.full((D,), 0.5), f"{name}.bias": torch.full((D,), -3.0)}
        save_file(both, tmp_path / "model.safetensors")
        found = gain_before_mlp(tmp_path, 1)
        assert (found.gain_D == 0.5).all(), family
        assert (found.bias_D == -3.0).all(), family
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(Damaged, match="damaged"):
        gain_before_mlp(tmp_path, 1)


def test_gemma_scope(tmp_path: Path) -> None:
    p = parts(unit=False)
    folder = tmp_path / "gemma-scope-2b-pt-transcoders/layer_5/width_16k/average_l0_6"
    folder.mkdir(parents=True)
    arrays = {name: tensor.numpy() for name, tensor in p.items()}
    np.savez(folder / "params.npz", threshold=THRESHOLD.numpy(), **arrays)
    _, sae, metadata = read_any(folder)
    f = kept_above(pre_activations(p, inputs(), subtract=False), THRESHOLD.double())
    close(sae, f, decoded(p, f))
    assert sae.encoder == "transcoder"
    assert metadata["hook_name"] == "blocks.5.ln2.hook_normalized"
    assert metadata["hook_name_out"] == "blocks.5.hook_mlp_out"


@pytest.mark.parametrize("skips", [True, False])
@pytest.mark.parametrize("told", [True, False])
def test_gemma_scope_2(tmp_path: Path, skips: bool, told: bool) -> None:
    p = parts(unit=False)
    folder = tmp_path / "gemma-scope-2-1b-pt/transcoder_all/layer_7_width_16k_l0_small"
    folder.mkdir(parents=True)
    tensors = {name.lower(): tensor for name, tensor in p.items()} | {"threshold": THRESHOLD}
    if skips:  # stored from input to output
        tensors["affine_skip_connection"] = W_SKIP.T.contiguous()
    save_file(tensors, folder / "params.safetensors")
    if told:
        write_json(folder / "config.json", {
            "architecture": "jump_relu", "model_name": "gemma-v3-1b-pt", "affine_connection": skips,
            "hf_hook_point_in": "model.layers.7.pre_feedforward_layernorm.output",
            "hf_hook_point_out": "model.layers.7.post_feedforward_layernorm.output",
        })  # fmt: skip
    _, sae, metadata = read_any(folder)
    f = kept_above(pre_activations(p, inputs(), subtract=False), THRESHOLD.double())
    close(sae, f, expected(f, p, W_SKIP if skips else None))
    assert sae.encoder == ("skip_transcoder" if skips else "transcoder")
    assert metadata["hook_name"] == "blocks.7.mlp.hook_in"
    assert metadata["hook_name_out"] == "blocks.7.hook_mlp_out"
    assert metadata["model_name"] == "google/gemma-3-1b-pt"


@pytest.mark.parametrize("skips", [True, False])
@pytest.mark.parametrize("kind", ["relu", "jumprelu", "topk"])
def test_circuit_tracer(tmp_path: Path, kind: str, skips: bool) -> None:
    p = parts(unit=False)
    tensors = {**p, "W_enc": p["W_enc"].T.contiguous()}
    config = {
        "model_name": "org/model", "model_kind": "transcoder_set", "scan": "set",
        "feature_input_hook": "mlp.hook_in", "feature_output_hook": "hook_mlp_out",
        "transcoders": ["hf://a/b/layer_0.safetensors"],
    }  # fmt: skip
    if kind == "topk":
        config |= {"activation": "topk", "k": K}
    if kind == "jumprelu":
        tensors["activation_function.threshold"] = THRESHOLD
    if skips:
        tensors["W_skip"] = W_SKIP
    for layer in (0, 2, 10):
        save_file(tensors, tmp_path / f"layer_{layer}.safetensors")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(InvalidInput, match=r"3 SAEs; name one: layer_0\.safetensors, layer_2\.saf"):
        detect(tmp_path)
    _, sae, metadata = read_any(tmp_path / "layer_10.safetensors")
    h = pre_activations(p, inputs(), subtract=False)
    f = (
        kept_top_k(h, K)
        if kind == "topk"
        else kept_above(h, THRESHOLD.double() if kind == "jumprelu" else 0)
    )
    close(sae, f, expected(f, p, W_SKIP if skips else None))
    assert metadata["hook_name"] == "blocks.10.mlp.hook_in"
    assert metadata["hook_name_out"] == "blocks.10.hook_mlp_out"
    assert metadata["model_name"] == "org/model"


def test_a_file_of_a_set_without_its_config(tmp_path: Path) -> None:
    p = parts()
    file = tmp_path / "layer_0.safetensors"
    save_file({**p, "W_enc": p["W_enc"].T.contiguous()}, file)
    _, metadata = read_circuit_tracer(file)
    assert "hook_name" not in metadata
    for content, error, words in (
        ("model_kind: cross_layer_transcoder", Unsupported, "across layers"),
        ("- 1", Damaged, "does not describe"),
        ("a: [", Damaged, "no valid YAML"),
    ):
        (tmp_path / "config.yaml").write_text(content)
        with pytest.raises(error, match=words):
            read_circuit_tracer(file)
    (tmp_path / "config.yaml").unlink()
    save_file({"w_enc": p["W_enc"]}, file)
    with pytest.raises(Unsupported, match="across layers"):
        read_circuit_tracer(file)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("architecture", ["standard", "jumprelu"])
def test_a_set_for_circuit_tracer_comes_back(
    tmp_path: Path, architecture: str, encoder: str
) -> None:
    sae = made(architecture, encoder)
    write_circuit_tracer(tmp_path / "set", {0: sae, 1: sae}, "mlp_in", "mlp_out", "org/model")
    config = yaml.safe_load((tmp_path / "set" / "config.yaml").read_text())
    assert config == {
        "model_name": "org/model",
        "model_kind": "transcoder_set",
        "feature_input_hook": "mlp.hook_in",
        "feature_output_hook": "hook_mlp_out",
        "scan": "set",
        "transcoders": ["layer_0.safetensors", "layer_1.safetensors"],
    }
    _, again, metadata = read_any(tmp_path / "set" / "layer_1.safetensors")
    assert torch.equal(again.reconstruct(inputs()), sae.reconstruct(inputs()))
    assert again.encoder == encoder
    assert metadata["hook_name"] == "blocks.1.mlp.hook_in"


PROGRAMS = r"""
import sys, torch
from pathlib import Path
from safetensors.torch import load_file, save_file
from sae_lens import SAE
from sae_lens.saes.gated_sae import GatedSAE, GatedSAEConfig
from sparsify import SparseCoder, SparseCoderConfig

torch.set_num_threads(1)
root = Path(sys.argv[1])
x = load_file(root / "x.safetensors")["x"]
d = x.shape[1]
torch.manual_seed(0)
with torch.no_grad():
    for folder in sorted((root / "saelens").iterdir()):
        sae = SAE.load_from_disk(folder)
        save_file({"f": sae.encode(x), "y": sae(x)}, folder / "result.safetensors")
        sae.save_model(root / "again" / folder.name)
    for folder in sorted((root / "sparsify").iterdir()):
        (coder,) = SparseCoder.load_many(str(folder), local=True).values()
        save_file({"y": coder(x).sae_out.detach()}, folder / "result.safetensors")
    for skip in (False, True):
        config = SparseCoderConfig(num_latents=64, k=5, transcode=True, skip_connection=skip)
        coder = SparseCoder(d, config)
        for tensor in coder.parameters():
            tensor += 0.3 * torch.rand_like(tensor)
        folder = root / "theirs" / f"sparsify-{skip}" / "layers.3.mlp"
        coder.save_to_disk(folder)
        save_file({"y": coder(x).sae_out.detach()}, folder.parent / "result.safetensors")
    gated = GatedSAE(GatedSAEConfig(d_in=d, d_sae=64))
    for tensor in gated.parameters():
        tensor += 0.3 * torch.randn_like(tensor)
    gated.save_model(root / "theirs" / "gated" / "sae")
    save_file({"y": gated(x)}, root / "theirs" / "gated" / "result.safetensors")
print("done")
"""


@pytest.mark.heavy
def test_the_real_programs_agree(tmp_path: Path) -> None:
    python = os.environ.get("MISTUDIO_PEERS_PYTHON")
    if not python:
        pytest.skip("MISTUDIO_PEERS_PYTHON names no interpreter with eai-sparsify and sae-lens")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    save_file({"x": inputs()}, tmp_path / "x.safetensors")
    saes = {f"{a}-{e}": made(a, e) for a in ARCHITECTURES for e in ENCODERS}
    for name, sae in saes.items():
        if sae.architecture == "topk":
            write_sparsify(tmp_path / "sparsify" / name, sae)
        else:
            write_saelens(tmp_path / "saelens" / name, sae)
    narrow = made("jumprelu", "skip_transcoder", d_out=D - 3)
    saes["narrow"] = narrow
    write_saelens(tmp_path / "saelens" / "narrow", narrow)
    done = subprocess.run(
        [python, "-c", PROGRAMS, str(tmp_path)],
        env={**os.environ, "WANDB_MODE": "disabled", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for folder in (tmp_path / "saelens").iterdir():
        sae, result = saes[folder.name], load_file(folder / "result.safetensors")
        f = sae.encode(inputs())
        assert torch.equal(f, result["f"]), folder.name
        assert torch.equal(sae.decode(f, inputs()), result["y"]), folder.name
        again, metadata = read_saelens(tmp_path / "again" / folder.name)
        assert torch.equal(again.reconstruct(inputs()), sae.reconstruct(inputs())), folder.name
        assert again.encoder == sae.encoder
        assert metadata["hook_name_out"] == PLACES["hook_name_out"]
    for folder in (tmp_path / "sparsify").iterdir():
        y = load_file(folder / "result.safetensors")["y"]
        error = (saes[folder.name].reconstruct(inputs()) - y).abs().max() / y.abs().max()
        assert error <= 1e-6, folder.name
    theirs = sorted((tmp_path / "theirs").iterdir())
    assert len(theirs) == 3
    for folder in theirs:
        y = load_file(folder / "result.safetensors")["y"]
        error = (read_any(folder)[1].reconstruct(inputs()) - y).abs().max() / y.abs().max()
        assert error <= 2e-6, (folder.name, error)
    torch.set_num_threads(threads)
