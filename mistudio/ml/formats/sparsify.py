"""sparsify folders (HOOKPOINT/cfg.json + HOOKPOINT/sae.safetensors): read and write topk SAEs.

A run's folder holds one such folder per hookpoint, named after the module whose output it reads,
and a config.json that names the model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mistudio.core.errors import Damaged, Mismatch, Unsupported
from mistudio.ml.formats.foreign import (
    assemble,
    b_enc_with_subtraction,
    known,
    new_folder,
    optional_json,
    read_json,
    take,
    write_text_json,
)
from mistudio.ml.formats.tensors import load_tensors, save_tensors
from mistudio.ml.sae.base import SparseAutoencoder

PROGRAM = "sparsify"
CONFIG_FILE = "cfg.json"
RUN_FILE = "config.json"
WEIGHTS_FILE = "sae.safetensors"
TENSORS = ("encoder.weight", "encoder.bias", "W_dec", "b_dec")
MODULE = re.compile(r"(?:\w+\.)*(?:layers|h|blocks)\.\d+(?:\.\w+)*")
SUBLAYERS = {"resid_post": "", "mlp_out": ".mlp", "attn_out": ".self_attn"}
DEFAULTS = {"activation": "topk", "expansion_factor": 32, "num_latents": 0, "k": 32}


def read_sparsify(folder: Path) -> tuple[SparseAutoencoder, dict[str, Any]]:
    """The SAE of a hookpoint's folder, in float32 on the CPU, and its metadata.

    Decoder rows keep their lengths: the selection is by the latents as they are, so that folding
    would change it. Raises `NotFound`, `Damaged`, `Mismatch` or `Unsupported` (transcoders,
    skip connections, groupmax).
    """
    config = {**DEFAULTS, **read_json(folder / CONFIG_FILE, PROGRAM)}
    if not isinstance(config.get("d_in"), int):
        raise Damaged(f"{CONFIG_FILE} in {folder} does not say d_in; it is no {PROGRAM} SAE.")
    for key, kind in (("transcode", "transcoder"), ("skip_connection", "skip transcoder")):
        if config.get(key):
            raise Unsupported(f"This is a {kind}, which cannot be read yet.")
    if config["activation"] != "topk":
        raise Unsupported(f"SAEs with the activation {config['activation']!r} cannot be read.")
    for key in ("expansion_factor", "num_latents", "k"):
        if not isinstance(config[key], int):
            raise Damaged(f"{key} in {CONFIG_FILE} is not a whole number.")
    parts = take(load_tensors(folder / WEIGHTS_FILE), TENSORS, WEIGHTS_FILE)
    encoder_FD, b_enc_F, W_dec_FO, b_dec_O = parts
    shape = (config["num_latents"] or config["d_in"] * config["expansion_factor"], config["d_in"])
    if tuple(encoder_FD.shape) != shape:
        raise Mismatch(
            f"encoder.weight has shape {tuple(encoder_FD.shape)}, {CONFIG_FILE} says {shape}."
        )
    sae = assemble(
        encoder_FD.T, b_enc_F, W_dec_FO, b_dec_O, "topk", subtracts_b_dec=True, k=config["k"]
    )
    run = optional_json(folder.parent / RUN_FILE, PROGRAM)
    metadata = known(
        model_name=run.get("model") if isinstance(run.get("model"), str) else None,
        hook_name=hook_name(folder.name, str(run.get("hook_mode") or "output")),
        context_size=run.get("ctx_len"),
        dataset_path=run.get("dataset"),
        training_architecture=f"{PROGRAM} topk",
        source_config=config,
    )
    return sae.with_metadata(**metadata), metadata


def hook_name(hookpoint: str, side: str) -> str:
    """A hookpoint in the notation of our hooks; `layers.3` is the output of block 3.

    A run may read the modules' inputs instead: that of a block is what the block before it puts
    out. Empty for a folder that is not named after a module.
    """
    if MODULE.fullmatch(hookpoint) is None:
        return ""
    if side == "output":
        return hookpoint
    block = re.fullmatch(r"(?:\w+\.)*\w+\.(\d+)", hookpoint)
    return f"blocks.{block[1]}.hook_resid_pre" if block else f"{hookpoint} ({side})"


def write_sparsify(
    folder: Path, sae: SparseAutoencoder, metadata: Mapping[str, Any] | None = None
) -> None:
    """Create `folder` as a run of one hookpoint; `metadata` may name `layer` and `hook`.

    Raises `Unsupported` for what sparsify has no form for, `InvalidInput`, `DiskFull`.
    """
    if sae.architecture != "topk" or sae.d_in != sae.d_out:
        raise Unsupported(
            f"sparsify only holds topk SAEs, and this one is {sae.architecture}; "
            "SAELens and dictionary_learning can hold it."
        )
    told = {**sae.metadata, **(metadata or {})}
    hookpoint = hookpoint_of(told)
    config = {
        "activation": "topk",
        "expansion_factor": max(1, sae.n_latents // sae.d_in),
        "normalize_decoder": True,
        "num_latents": sae.n_latents,
        "k": sae.k,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": sae.d_in,
    }
    run = known(
        model=told.get("model_name"), ctx_len=told.get("context_size"), hookpoints=[hookpoint]
    )
    tensors = {
        "encoder.weight": sae.W_enc_DF.T,
        "encoder.bias": b_enc_with_subtraction(sae),
        "W_dec": sae.W_dec_FO,
        "b_dec": sae.b_dec_O,
    }
    with new_folder(folder) as temporary:
        (temporary / hookpoint).mkdir()
        write_text_json(temporary / RUN_FILE, run)
        write_text_json(temporary / hookpoint / CONFIG_FILE, config)
        save_tensors(temporary / hookpoint / WEIGHTS_FILE, tensors)


def hookpoint_of(metadata: Mapping[str, Any]) -> str:
    """The module as the model without its head names it; "sae" if it is not known."""
    name = str(metadata.get("hf_hook_name") or metadata.get("hook_name") or "")
    found = re.search(r"(?:^|\.)((?:layers|h)\.\d+(?:\.\w+)*)$", name)
    if found is not None:
        return found[1]
    layer, hook = metadata.get("layer"), str(metadata.get("hook") or "")
    return f"layers.{layer}{SUBLAYERS[hook]}" if layer is not None and hook in SUBLAYERS else "sae"
