"""The real programs open what is written here, and what they write is read here."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mistudio.ml.formats.dictionary_learning import write_dictionary_learning
from mistudio.ml.formats.registry import read_any
from mistudio.ml.formats.sparsify import write_sparsify
from mistudio.ml.sae.base import SparseAutoencoder
from tests.ml_formats import test_dictionary_learning, test_llama_scope
from tests.ml_formats.foreign_files import inputs

OURS = {
    "topk": ("topk", True),
    "topk-plain": ("topk", False),
    "jumprelu": ("jumprelu", True),
    "jumprelu-plain": ("jumprelu", False),
    "standard": ("standard", True),
    "standard-plain": ("standard", False),
}

PROGRAMS = r"""
import json, sys, torch
from pathlib import Path
from safetensors.torch import load_file, save_file
import dictionary_learning.dictionary as dl
from dictionary_learning.utils import load_dictionary
from dictionary_learning.trainers.top_k import AutoEncoderTopK
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
from sparsify import SparseCoder, SparseCoderConfig
from sae_lens.loading import pretrained_sae_loaders as lens

root = Path(sys.argv[1])
x = load_file(root / "x.safetensors")["x"]
d, m, k = x.shape[1], 64, 5
torch.manual_seed(0)


def sparse(coder):
    found = coder.encode(x)
    f = torch.zeros(len(x), m).scatter(1, found.top_indices, found.top_acts)
    return f, coder.decode(found.top_acts, found.top_indices)


with torch.no_grad():
    for folder in sorted((root / "ours").glob("dl-*")):
        net, _ = load_dictionary(str(folder), "cpu")
        assert isinstance(net, dl.GatedAutoEncoder) == ("gated" in folder.name), folder
        f = net.encode(x)
        save_file({"f": f, "y": net.decode(f)}, folder / "result.safetensors")
    for folder in sorted((root / "ours").glob("sp-*")):
        (coder,) = SparseCoder.load_many(str(folder), local=True).values()
        f, y = sparse(coder)
        save_file({"f": f, "y": y.detach()}, folder / "result.safetensors")
    made = {
        "AutoEncoder": dl.AutoEncoder(d, m),
        "AutoEncoderNew": dl.AutoEncoderNew(d, m),
        "JumpReluAutoEncoder": dl.JumpReluAutoEncoder(d, m),
        "GatedAutoEncoder": dl.GatedAutoEncoder(d, m),
        "AutoEncoderTopK": AutoEncoderTopK(d, m, k),
        "BatchTopKSAE": BatchTopKSAE(d, m, k),
        "MatryoshkaBatchTopKSAE": MatryoshkaBatchTopKSAE(d, m, k, [16, 48]),
    }
    for unset in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        made[f"{unset}-unset"] = made[unset]  # once more, without a threshold
    for title, net in made.items():
        name = title.removesuffix("-unset")
        for key, tensor in net.named_parameters():
            tensor += 0.1 * torch.rand_like(tensor)
        if name in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE", "AutoEncoderTopK"):
            net.threshold.fill_(0.7 if name == title else -1.0)
        folder = root / "theirs" / title
        folder.mkdir(parents=True)
        torch.save(net.state_dict(), folder / "ae.pt")
        config = {"dict_class": name, "activation_dim": d, "dict_size": m, "k": k}
        config |= {"submodule_name": "resid_post_layer_3", "lm_name": "a/b", "layer": 3}
        whole = {"trainer": config, "buffer": {"io": "out", "ctx_len": 128}}
        (folder / "config.json").write_text(json.dumps(whole))
        if name == title:
            f = net.encode(x)
        else:  # as it was trained, in batches of one token
            f = torch.cat([net.encode(row[None], use_threshold=False) for row in x])
        save_file({"f": f, "y": net.decode(f)}, folder / "result.safetensors")
    for activation, kept in (("topk", k), ("groupmax", 8), ("groupmax", 32)):
        config = SparseCoderConfig(activation, expansion_factor=m // d, k=kept)
        coder = SparseCoder(d, config)
        for tensor in coder.parameters():
            tensor += 0.1 * torch.rand_like(tensor)
        folder = root / "theirs" / f"sparsify-{activation}-{kept}" / "layers.3"
        coder.save_to_disk(folder)
        f, y = sparse(coder)
        save_file({"f": f, "y": y.detach()}, folder.parent / "result.safetensors")

    lens.hf_hub_download = lambda repo_id, filename, subfolder="", **_: str(
        root / subfolder / filename
    )
    config, state, _ = lens.llama_scope_sae_huggingface_loader("", "llama", device="cpu")
    state = {name: tensor.float() for name, tensor in state.items()}
    raw = json.loads((root / "llama" / "hyperparams.json").read_text())
    s = d**0.5 / raw["dataset_average_activation_norm"]["in"]
    h = x @ (state["W_enc"] * s) + state["b_enc"]
    f = h.relu() * (h > state["threshold"])
    y = f @ (state["W_dec"] / s) + state["b_dec"] / s
    save_file({"f": f, "y": y}, root / "llama" / "result.safetensors")
print("done")
"""


def same(sae: SparseAutoencoder, result: dict[str, torch.Tensor], name: str) -> None:
    """Equal selection and reconstruction, to a few roundings of float32."""
    error = (sae.reconstruct(inputs()) - result["y"]).abs().max() / result["y"].abs().max()
    assert error <= 2e-6, (name, error)
    assert torch.equal(sae.encode(inputs()) > 0, result["f"] > 0), name


@pytest.mark.heavy
def test_the_real_programs_agree(tmp_path: Path) -> None:
    python = os.environ.get("MISTUDIO_PEERS_PYTHON")
    if not python:
        pytest.skip(
            "MISTUDIO_PEERS_PYTHON names no interpreter with dictionary-learning, eai-sparsify "
            "and sae-lens"
        )
    saes = {
        name: test_dictionary_learning.made(architecture, subtracts=subtracts)
        for name, (architecture, subtracts) in OURS.items()
    }
    save_file({"x": inputs()}, tmp_path / "x.safetensors")
    for name, sae in saes.items():
        write_dictionary_learning(tmp_path / "ours" / f"dl-{name}", sae)
        if sae.architecture == "topk":
            write_sparsify(tmp_path / "ours" / f"sp-{name}", sae)
    for name in ("jumprelu", "jumprelu-plain"):
        gated = f"gated-{name}"
        saes[gated] = saes[name].with_metadata(training_architecture="gated")
        write_dictionary_learning(tmp_path / "ours" / f"dl-{gated}", saes[gated])
    saes["groupmax"] = replace(saes["topk"], architecture="groupmax", k=8)
    write_sparsify(tmp_path / "ours" / "sp-groupmax", saes["groupmax"])
    plain = {"sparsity_include_decoder_norm": False}  # which SAELens does not look at
    test_llama_scope.written(tmp_path / "llama", plain, unit=False)
    done = subprocess.run(
        [python, "-c", PROGRAMS, str(tmp_path)],
        env={**os.environ, "WANDB_MODE": "disabled", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = sorted((tmp_path / "ours").glob("*/result.safetensors"))
    assert len(results) == len(OURS) + 2 + 3
    for path in results:
        same(saes[path.parent.name[3:]], load_file(path), path.parent.name)
    results = sorted((tmp_path / "theirs").glob("*/result.safetensors"))
    assert len(results) == 12
    for path in results:
        same(read_any(path.parent)[1], load_file(path), path.parent.name)
    llama = load_file(tmp_path / "llama" / "result.safetensors")
    sae = read_any(tmp_path / "llama")[1]
    assert (sae.reconstruct(inputs()) - llama["y"]).abs().max() <= 0.01 * llama["y"].abs().max()
