"""What SAELens scales in its run, signed latents, and every architecture of the real library."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mistudio.core.errors import Damaged, InvalidInput, Mismatch, Unsupported
from mistudio.core.training_configs import TrainConfig
from mistudio.ml.features.own_values import own_values
from mistudio.ml.formats.dictionary_learning import write_dictionary_learning
from mistudio.ml.formats.saelens import KINDS, OURS_ALONE, read_saelens, write_saelens
from mistudio.ml.formats.sparsify import write_sparsify
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.steering.readers import Reader
from mistudio.ml.steering.sources import PlacedSae
from mistudio.ml.training.continue_run import check_fits
from tests.ml_formats.foreign_files import (
    D,
    K,
    M,
    inputs,
    kept_above,
    kept_top_k,
    parts,
    temporal_parts,
    texts,
    written_temporal,
)

THRESHOLD = torch.linspace(0.3, 0.9, M)
NORMS = ("layer_norm", "constant_norm_rescale")


def written(
    folder: Path,
    config: dict[str, Any],
    *,
    unit: bool = True,
    whitening: dict[str, torch.Tensor] | None = None,
) -> Path:
    p = parts(unit=unit)
    if config["architecture"] == "jumprelu":
        p["threshold"] = THRESHOLD
    if config["architecture"] == "matching_pursuit":
        p = {name: p[name] for name in ("W_dec", "b_dec")}
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"sae_lens_version": "6.54.12"}
    whole = {"d_in": D, "d_sae": M, "dtype": "float32", "k": K, "metadata": metadata, **config}
    (folder / "cfg.json").write_text(json.dumps(whole))
    save_file(p, folder / "sae_weights.safetensors")
    if whitening is not None:
        save_file(whitening, folder / "activation_whitening.safetensors")
    return folder


def scaled(x: torch.Tensor, norm: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What is read of x in float64, and how it is undone: z times the second plus the third."""
    x = x.double()
    if norm == "constant_norm_rescale":
        length = x.norm(dim=1, keepdim=True) / D**0.5
        return x / length, length, torch.zeros_like(length)
    mean = x.mean(1, keepdim=True)
    deviation = ((x - mean).square().sum(1, keepdim=True) / (D - 1)).sqrt()
    return (x - mean) / (deviation + 1e-5), deviation, mean


def activated(architecture: str, h: torch.Tensor) -> torch.Tensor:
    if architecture == "topk":
        return kept_top_k(h, K)
    return kept_above(h, THRESHOLD if architecture == "jumprelu" else 0.0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu"])
def test_a_token_norm_is_run_and_undone(tmp_path: Path, architecture: str, norm: str) -> None:
    config = {"architecture": architecture, "normalize_activations": norm}
    sae, _ = read_saelens(written(tmp_path / "a", config))
    x, p = inputs(), {name: tensor.double() for name, tensor in parts().items()}
    z, scale, mean = scaled(x, norm)
    f = activated(architecture, (z - p["b_dec"]) @ p["W_enc"] + p["b_enc"])
    y = (f @ p["W_dec"] + p["b_dec"]) * scale + mean
    assert (sae.reconstruct(x).double() - y).abs().max() <= 3e-6 * y.abs().max()
    ours = sae.encode(x)
    assert (ours.double() - f * scale).abs().max() <= 3e-6 * (f * scale).abs().max()
    codes = sae.encode_sparse(x)
    dense = torch.zeros(len(x), M)
    dense[codes.rows, codes.ids] = codes.values
    assert torch.equal(dense, ours)
    assert torch.allclose(sae.decode(ours, x), sae.reconstruct(x), atol=1e-5)
    # the few readers that encode one latent, and the library's own files
    features = torch.tensor([3, 40])
    reader = Reader.of(PlacedSae(sae, 0, "resid_post"), [3, 40], torch.device("cpu"))
    assert torch.allclose(reader(x), ours[:, features], atol=1e-5)
    own = own_values(sae, x[None, :].expand(2, -1, -1), features)
    assert torch.allclose(own.T, ours[:, features], atol=1e-5)
    write_saelens(tmp_path / "b", sae)
    assert torch.equal(read_saelens(tmp_path / "b")[0].reconstruct(x), sae.reconstruct(x))


def test_a_token_without_deviation_activates_nothing(tmp_path: Path) -> None:
    config = {"architecture": "standard", "normalize_activations": "layer_norm"}
    sae, _ = read_saelens(written(tmp_path / "a", config))
    codes = sae.encode_sparse(torch.ones(3, D))
    assert codes.ids.numel() == 0
    assert torch.equal(sae.reconstruct(torch.ones(3, D)), torch.ones(3, D))
    config = {"architecture": "standard", "normalize_activations": "constant_norm_rescale"}
    sae, _ = read_saelens(written(tmp_path / "b", config))
    assert torch.isfinite(sae.reconstruct(torch.zeros(3, D))).all()


def test_what_has_no_token_norm_says_so(tmp_path: Path) -> None:
    config = {"architecture": "topk", "normalize_activations": "layer_norm"}
    sae, _ = read_saelens(written(tmp_path / "a", config))
    for write in (write_dictionary_learning, write_sparsify):
        with pytest.raises(Unsupported, match="scale each token"):
            write(tmp_path / "b", sae)
    with pytest.raises(InvalidInput, match="cannot be trained on"):
        check_fits(sae, TrainConfig(architecture="topk", width=M), D)
    with pytest.raises(InvalidInput, match="without the activations"):
        sae.decode(sae.encode(inputs()))


@pytest.mark.parametrize("rescale", [True, False])
def test_signed_latents_become_two(tmp_path: Path, rescale: bool) -> None:
    config = {"architecture": "abstopk", "rescale_acts_by_decoder_norm": rescale}
    sae, metadata = read_saelens(written(tmp_path / "a", config, unit=False))
    p = {name: tensor.double() for name, tensor in parts(unit=False).items()}
    lengths = p["W_dec"].norm(dim=1) if rescale else torch.ones(M, dtype=torch.float64)
    h = ((inputs().double() - p["b_dec"]) @ p["W_enc"] + p["b_enc"]) * lengths
    at = h.abs().topk(K, dim=1).indices
    f = torch.zeros_like(h).scatter_(1, at, h.gather(1, at))
    y = (f / lengths) @ p["W_dec"] + p["b_dec"]
    assert (sae.reconstruct(inputs()).double() - y).abs().max() <= 3e-6 * y.abs().max()
    ours = sae.encode(inputs())
    assert torch.equal(ours[:, :M] > 0, f > 0)
    assert torch.equal(ours[:, M:] > 0, f < 0)
    assert (f < 0).any()
    assert (sae.architecture, sae.n_latents, sae.k) == ("topk", 2 * M, K)
    assert metadata["two_sided"] == M


@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu"])
def test_a_whitening_beside_the_weights_is_folded(
    tmp_path: Path, architecture: str, subtract: bool
) -> None:
    generator = torch.Generator().manual_seed(9)
    matrix = torch.randn(D, D, generator=generator, dtype=torch.float64) / 4 + torch.eye(D)
    mean = torch.randn(D, generator=generator, dtype=torch.float64)
    whitening = {"mean": mean, "matrix": matrix, "inverse_matrix": matrix.inverse().contiguous()}
    config = {"architecture": architecture, "apply_b_dec_to_input": subtract}
    config |= {"normalize_activations": "covariance_whitening"}
    config |= {"rescale_acts_by_decoder_norm": True}
    folder = written(tmp_path, config, whitening=whitening)
    sae, _ = read_saelens(folder)
    p = {name: tensor.double() for name, tensor in parts().items()}
    z = (inputs().double() - mean) @ matrix
    read = z - p["b_dec"] if subtract else z
    f = activated(architecture, read @ p["W_enc"] + p["b_enc"])
    y = (f @ p["W_dec"] + p["b_dec"]) @ whitening["inverse_matrix"] + mean
    assert (sae.reconstruct(inputs()).double() - y).abs().max() <= 1e-5 * y.abs().max()
    save_file({**whitening, "mean": mean[:3]}, folder / "activation_whitening.safetensors")
    with pytest.raises(Mismatch, match="mean"):
        read_saelens(folder)
    save_file({"mean": mean}, folder / "activation_whitening.safetensors")
    with pytest.raises(Damaged, match="matrix"):
        read_saelens(folder)
    (folder / "activation_whitening.safetensors").unlink()
    with pytest.raises(Unsupported, match="whitened"):
        read_saelens(folder)


def test_a_transcoder_that_scales_each_token_is_refused(tmp_path: Path) -> None:
    config = {"architecture": "transcoder", "normalize_activations": "layer_norm"}
    with pytest.raises(Unsupported, match="layer"):
        read_saelens(written(tmp_path, config))


REAL = r"""
import json, sys, torch
from pathlib import Path
from safetensors.torch import load_file, save_file
from sae_lens import SAE
from sae_lens.registry import SAE_CLASS_REGISTRY

torch.set_num_threads(1)
root = Path(sys.argv[1])
x = load_file(root / "x.safetensors")["x"]
d, m = x.shape[1], 64
(root / "registry.json").write_text(json.dumps(sorted(SAE_CLASS_REGISTRY)))


def told(sae, folder):
    read = x.view(5, 10, d) if sae.cfg.architecture() == "temporal" else x
    with torch.no_grad():
        f = sae.encode(read).flatten(0, -2)
        save_file({"f": f, "y": sae(read).flatten(0, -2)}, folder / "result.safetensors")


with torch.no_grad():
    for folder in sorted((root / "ours").glob("*")):
        told(SAE.load_from_disk(folder), folder)
    for name, (kind, config) in SAE_CLASS_REGISTRY.items():
        encoder = "transcoder" in name
        for norm in ("none",) if encoder else ("none", "layer_norm", "constant_norm_rescale"):
            given = {"d_in": d, "d_sae": m, "normalize_activations": norm}
            given |= {"k": 5} if "topk" in name else {}
            if name == "temporal":
                given |= {"kval_topk": 5, "n_heads": 2, "n_attn_layers": 2, "bottleneck_factor": 8}
            given |= {"d_out": d, "apply_b_dec_to_input": False} if encoder else {}
            torch.manual_seed(len(name))
            sae = kind(config(**given))
            for tensor in sae.parameters():
                tensor += 0.3 * torch.rand_like(tensor)
            if name == "matching_pursuit":
                sae.W_dec /= sae.W_dec.norm(dim=1, keepdim=True)
            folder = root / "theirs" / f"{name}-{norm}"
            sae.save_model(folder)
            told(sae, folder)
    kind, config = SAE_CLASS_REGISTRY["temporal"]
    for name, given in (
        ("relu", {"sae_diff_type": "relu", "tied_weights": False}),
        ("plain", {"apply_b_dec_to_input": False, "kval_topk": 5}),
        ("rescaled", {"kval_topk": 5, "normalize_activations": "constant_scalar_rescale",
                      "activation_normalization_factor": 0.3}),
    ):
        sae = kind(config(d, m, n_heads=2, bottleneck_factor=8, **given))
        for tensor in sae.parameters():
            tensor += 0.3 * torch.rand_like(tensor)
        folder = root / "theirs" / f"temporal-{name}"
        sae.save_model(folder)
        told(sae, folder)
    name = "matching_pursuit"
    kind, config = SAE_CLASS_REGISTRY[name]
    scaled = "expected_average_only_in"
    sae = kind(config(d, m, residual_threshold=0.5, normalize_activations=scaled))
    sae.W_dec /= sae.W_dec.norm(dim=1, keepdim=True)
    sae.b_dec += torch.rand_like(sae.b_dec)
    folder = root / "theirs" / f"{name}-scaled"
    sae.save_model(folder)
    (folder / "activation_scaler.json").write_text('{"scaling_factor": 0.3}')
    sae.fold_activation_norm_scaling_factor(0.3)
    told(sae, folder)
print("done")
"""


PURSUITS: dict[str, dict[str, Any]] = {
    "longest-none": {"residual_threshold": 0.0, "stop_on_duplicate_support": False},
    "short-none": {"residual_threshold": 2.0, "max_iterations": 3},
    "plain-none": {"apply_b_dec_to_input": False},
}


def read_by(sae: SparseAutoencoder) -> torch.Tensor:
    """What it reads of the tokens, which are five texts to a temporal one."""
    return inputs() if sae.context is None else sae.in_context(texts()).flatten(0, 1)


def close(sae: SparseAutoencoder, result: dict[str, torch.Tensor], name: str) -> None:
    x, y = read_by(sae), result["y"]
    error = (sae.reconstruct(x) - y).abs().max() / y.abs().max()
    assert error <= 2e-6, (name, float(error))
    fires, theirs = sae.encode(x) > 0, result["f"] > 0
    if name.startswith("abstopk"):
        theirs = torch.cat([theirs, result["f"] < 0], dim=1)
    assert torch.equal(fires, theirs), name


@pytest.mark.heavy
def test_every_architecture_of_the_real_library(tmp_path: Path) -> None:
    python = os.environ.get("MISTUDIO_SAELENS_PYTHON")
    if not python:
        pytest.skip("MISTUDIO_SAELENS_PYTHON names no interpreter with sae-lens")
    save_file({"x": inputs()}, tmp_path / "x.safetensors")
    ours: dict[str, SparseAutoencoder] = {}
    for architecture in ("standard", "topk", "jumprelu", "abstopk", "matching_pursuit"):
        for norm in ("none", *NORMS):
            config = {"architecture": architecture, "normalize_activations": norm}
            sae, _ = read_saelens(written(tmp_path / "made" / f"{architecture}-{norm}", config))
            ours[f"{architecture}-{norm}"] = sae
            write_saelens(tmp_path / "ours" / f"{architecture}-{norm}", sae)
    for tied in (True, False):
        tensors = temporal_parts(tied=tied, unit=False)
        folder = written_temporal(tmp_path / "made" / f"temporal-{tied}", tensors)
        name = f"temporal-{tied}-none"
        ours[name] = read_saelens(folder)[0]
        write_saelens(tmp_path / "ours" / name, ours[name])
    for name, rules in PURSUITS.items():
        config = {"architecture": "matching_pursuit", **rules}
        ours[name] = read_saelens(written(tmp_path / "made" / name, config))[0]
        write_saelens(tmp_path / "ours" / name, ours[name])
    done = subprocess.run(
        [python, "-c", REAL, str(tmp_path)],
        env={**os.environ, "WANDB_MODE": "disabled", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    known = {name for name in KINDS if name not in OURS_ALONE}
    assert set(json.loads((tmp_path / "registry.json").read_text())) == known
    for name, sae in ours.items():
        result = load_file(tmp_path / "ours" / name / "result.safetensors")
        if name.endswith("none"):  # one computation
            x = read_by(sae)
            assert torch.equal(sae.encode(x), result["f"]), name
            if sae.context is None:  # which adds up latents before it decodes, here vectors
                assert torch.equal(sae.decode(sae.encode(x), x), result["y"]), name
            else:
                close(sae, result, name)
        else:
            assert (sae.reconstruct(inputs()) - result["y"]).abs().max() <= (
                2e-6 * result["y"].abs().max()
            ), name
    folders = sorted((tmp_path / "theirs").glob("*"))
    assert len(folders) == 7 * 3 + 3 + 1 + 4
    for folder in folders:
        close(read_saelens(folder)[0], load_file(folder / "result.safetensors"), folder.name)
