"""sparsify folders (HOOKPOINT/cfg.json + HOOKPOINT/sae.safetensors): SAEs and transcoders.

A run's folder holds one such folder per hookpoint, named after the module whose output it reads,
and a config.json that names the model. A transcoder reads the module's input and gives its output.
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
    b_enc_without_subtraction,
    check_no_token_norm,
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
ACTIVATIONS = ("topk", "groupmax")  # which are our names of these architectures too
DEFAULTS = {"activation": "topk", "expansion_factor": 32, "num_latents": 0, "k": 32}


def read_sparsify(folder: Path) -> tuple[SparseAutoencoder, dict[str, Any]]:
    """The SAE of a hookpoint's folder, in float32 on the CPU, and its metadata.

    Decoder rows keep their lengths: the selection is by the latents as they are, so that folding
    would change it. Raises `NotFound`, `Damaged`, `Mismatch`, `InvalidInput` or `Unsupported`.
    """
    config = {**DEFAULTS, **read_json(folder / CONFIG_FILE, PROGRAM)}
    if not isinstance(config.get("d_in"), int):
        raise Damaged(f"{CONFIG_FILE} in {folder} does not say d_in; it is no {PROGRAM} SAE.")
    if config["activation"] not in ACTIVATIONS:
        raise Unsupported(f"SAEs with the activation {config['activation']!r} cannot be read.")
    for key in ("expansion_factor", "num_latents", "k"):
        if not isinstance(config[key], int):
            raise Damaged(f"{key} in {CONFIG_FILE} is not a whole number.")
    transcodes, skips = bool(config.get("transcode")), bool(config.get("skip_connection"))
    needed = (*TENSORS, "W_skip") if skips else TENSORS
    parts = take(load_tensors(folder / WEIGHTS_FILE), needed, WEIGHTS_FILE)
    encoder_FD, b_enc_F, W_dec_FO, b_dec_O = parts[:4]
    shape = (config["num_latents"] or config["d_in"] * config["expansion_factor"], config["d_in"])
    if tuple(encoder_FD.shape) != shape:
        raise Mismatch(
            f"encoder.weight has shape {tuple(encoder_FD.shape)}, {CONFIG_FILE} says {shape}."
        )
    sae = assemble(
        encoder_FD.T,
        b_enc_F,
        W_dec_FO,
        b_dec_O,
        config["activation"],
        subtracts_b_dec=not transcodes,
        k=config["k"],
        encoder="transcoder" if transcodes else "sae",
        W_skip_OD=parts[4] if skips else None,
    )
    run = optional_json(folder.parent / RUN_FILE, PROGRAM)
    side = "input" if transcodes else str(run.get("hook_mode") or "output")
    written = hook_name(folder.name, "output" if transcodes else side) if sae.is_transcoder else ""
    metadata = known(
        model_name=run.get("model") if isinstance(run.get("model"), str) else None,
        hook_name=hook_name(folder.name, side),
        hook_name_out=written,
        context_size=run.get("ctx_len"),
        dataset_path=run.get("dataset"),
        training_architecture=f"{PROGRAM} {sae.architecture}",
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
    return f"blocks.{block[1]}.hook_resid_pre" if block else f"{hookpoint}.{side}"


def write_sparsify(
    folder: Path, sae: SparseAutoencoder, metadata: Mapping[str, Any] | None = None
) -> None:
    """Create `folder` as a run of one hookpoint; `metadata` may name `layer` and `hook`.

    A transcoder's hookpoint is the module whose output it gives (`hook_out`). Raises `Unsupported`
    for what sparsify has no form for, `InvalidInput`, `DiskFull`.
    """
    check_no_token_norm(sae, PROGRAM)
    if sae.architecture not in ACTIVATIONS:
        alone = sae.is_transcoder or sae.architecture in ("matching_pursuit", "temporal")
        others = "SAELens" if alone else "SAELens and dictionary_learning"
        raise Unsupported(
            f"sparsify only holds topk and groupmax SAEs, and this one is {sae.architecture}; "
            f"{others} can hold it."
        )
    if sae.d_in != sae.d_out:
        raise Unsupported(
            "sparsify only holds transcoders that give activations of the width they read; this "
            f"one reads {sae.d_in:,} and gives {sae.d_out:,}."
        )
    told = {**sae.metadata, **(metadata or {})}
    read = {"attn_z": "the attention's projection", "resid_pre": "a block", "resid_mid": "a norm"}
    read = read.get(str(told.get("hook")))
    if not sae.is_transcoder and read is not None:
        raise Unsupported(
            f"sparsify's SAEs read what a module gives, and this one reads what {read} does; "
            "SAELens and dictionary_learning can hold it."
        )
    hookpoint = hookpoint_of(told, "_out" if sae.is_transcoder else "")
    config = {
        "activation": sae.architecture,
        "expansion_factor": max(1, sae.n_latents // sae.d_in),
        "normalize_decoder": True,
        "num_latents": sae.n_latents,
        "k": sae.k,
        "multi_topk": False,
        "skip_connection": sae.W_skip_OD is not None,
        "transcode": sae.is_transcoder,
        "d_in": sae.d_in,
    }
    run = known(
        model=told.get("model_name"),
        ctx_len=told.get("context_size"),
        hookpoints=[hookpoint],
        hook_mode="transcode" if sae.is_transcoder else "output",
    )
    tensors = {
        "encoder.weight": sae.W_enc_DF.T,
        "encoder.bias": b_enc_without_subtraction(sae)
        if sae.is_transcoder
        else b_enc_with_subtraction(sae),
        "W_dec": sae.W_dec_FO,
        "b_dec": sae.b_dec_O,
    }
    if sae.W_skip_OD is not None:
        tensors["W_skip"] = sae.W_skip_OD
    with new_folder(folder) as temporary:
        (temporary / hookpoint).mkdir()
        write_text_json(temporary / RUN_FILE, run)
        write_text_json(temporary / hookpoint / CONFIG_FILE, config)
        save_tensors(temporary / hookpoint / WEIGHTS_FILE, tensors)


def hookpoint_of(metadata: Mapping[str, Any], which: str = "") -> str:
    """The module as the model without its head names it; "sae" if it is not known.

    `which` "_out" asks for the module whose output a transcoder gives.
    """
    name = str(metadata.get(f"hf_hook_name{which}") or metadata.get(f"hook_name{which}") or "")
    found = re.search(r"(?:^|\.)((?:layers|h)\.\d+(?:\.\w+)*)$", name)
    if found is not None:
        return found[1]
    layer, hook = metadata.get("layer"), str(metadata.get(f"hook{which}") or "")
    return f"layers.{layer}{SUBLAYERS[hook]}" if layer is not None and hook in SUBLAYERS else "sae"
