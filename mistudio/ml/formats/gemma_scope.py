"""Gemma Scope (1): `params.npz`, read only.

The file tells nothing but numbers. Layer, hook and model are read from the folders it lies in, as
the published repositories name them: gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mistudio.ml.formats.foreign import assemble, known, reading, take
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.sae.fold import fold_decoder_norms, fold_input_scale

WEIGHTS_FILE = "params.npz"
TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
REPOSITORY = re.compile(r"gemma-scope-(\d+b)-(pt|it)-(res|mlp|att|transcoders)$")
EMBEDDING = "embedding"  # the folder in place of one such as layer_20
HOOKS = {
    "res": "hook_resid_post",
    "mlp": "hook_mlp_out",
    "att": "attn.hook_z",
    "transcoders": "ln2.hook_normalized",  # before the norm's gain
}


def read_gemma_scope(folder: Path) -> tuple[SparseAutoencoder, dict[str, Any]]:
    """The SAE of a folder, in float32 on the CPU, and its metadata.

    b_dec is not subtracted from the input. Transcoders are told by their folders, and so are SAEs
    on the embedding: they read it before the model multiplies it by √d. Raises `NotFound`,
    `Damaged`, `Mismatch` or `Unsupported`.
    """
    words = [part.lower() for part in folder.resolve().parts]
    W_enc_DF, b_enc_F, W_dec_FO, b_dec_O, threshold_F = take(
        read_arrays(folder / WEIGHTS_FILE), TENSORS, WEIGHTS_FILE
    )
    sae = assemble(
        W_enc_DF,
        b_enc_F,
        W_dec_FO,
        b_dec_O,
        "jumprelu",
        subtracts_b_dec=False,
        threshold=threshold_F,
        encoder="transcoder" if any("transcoder" in word for word in words) else "sae",
    )
    if EMBEDDING in words:
        sae = fold_input_scale(sae, sae.d_in**-0.5)
    sae = fold_decoder_norms(sae)
    metadata = known(**place_of(words), training_architecture="jumprelu")
    return sae.with_metadata(**metadata), metadata


def place_of(words: list[str]) -> dict[str, str]:
    """Model and hook as far as the names of the folders tell."""
    found: dict[str, str] = {}
    layers = [m[1] for m in (re.fullmatch(r"layer_(\d+)", word) for word in words) if m]
    for word in words:
        name = REPOSITORY.search(word)
        if name is None:
            continue
        size, kind, site = name.groups()
        found["model_name"] = f"google/gemma-2-{size}" + ("-it" if kind == "it" else "")
        if EMBEDDING in words:
            found["hook_name"] = "blocks.0.hook_resid_pre"
        elif layers:
            found["hook_name"] = f"blocks.{layers[-1]}.{HOOKS[site]}"
            if site == "transcoders":
                found["hook_name_out"] = f"blocks.{layers[-1]}.{HOOKS['mlp']}"
    return found


def read_arrays(path: Path) -> dict[str, torch.Tensor]:
    """The arrays of an .npz file, without running any code that it may hold."""
    with reading(path), path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(np.array(arrays[name])) for name in arrays.files}
