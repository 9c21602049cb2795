"""Llama Scope R1-Distill (`config.json` + `sae_weights.safetensors`), read only.

These SAEs read activations times √d / the average norm of their training, which stands among the
weights. Thresholds are stored as logarithms, one per latent, in units of the scaled input; where
`sparsity_include_decoder_norm` holds they are compared with a latent times its row's length.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mistudio.core.errors import Damaged, Mismatch, Unsupported
from mistudio.ml.formats.foreign import assemble, known, read_json, take
from mistudio.ml.formats.llama_scope import refuse_other_kinds
from mistudio.ml.formats.tensors import load_tensors
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.sae.fold import fold_decoder_norms, fold_input_scale

PROGRAM = "Llama Scope"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "sae_weights.safetensors"
TENSORS = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")
THRESHOLD = "log_jumprelu_threshold"
THRESHOLDS = (THRESHOLD, f"activation_function.{THRESHOLD}")
NORM = "dataset_average_activation_norm."


def read_lm_saes(folder: Path) -> tuple[SparseAutoencoder, dict[str, Any]]:
    """The SAE of a folder, in float32 on the CPU, and its metadata.

    Raises `NotFound`, `Damaged`, `Mismatch`, or `Unsupported` for transcoders, other scalings than
    by the average norm and other activations than jumprelu.
    """
    config = read_json(folder / CONFIG_FILE, PROGRAM)
    _refuse_others(config)
    tensors = load_tensors(folder / WEIGHTS_FILE)
    norms = {name: tensors.pop(name) for name in list(tensors) if name.startswith(NORM)}
    hook = str(config.get("hook_point_in") or "")
    width = config.get("d_model")
    if not isinstance(width, int):
        raise Damaged(f"{CONFIG_FILE} in {folder} does not say d_model; it is no SAE.")
    scale = math.sqrt(width) / _average_norm(norms, hook)
    threshold = next((name for name in THRESHOLDS if name in tensors), THRESHOLD)
    parts = take(tensors, (*TENSORS, threshold), WEIGHTS_FILE)
    encoder_FD, b_enc_F, decoder_OF, b_dec_O, log_threshold_F = parts
    if encoder_FD.ndim != 2 or encoder_FD.shape[1] != width:
        raise Mismatch(
            f"encoder.weight has shape {tuple(encoder_FD.shape)}, {CONFIG_FILE} says a width of "
            f"{width:,}."
        )
    if decoder_OF.ndim != 2 or decoder_OF.shape[1] != encoder_FD.shape[0]:
        raise Mismatch(f"The weights in {WEIGHTS_FILE} do not fit each other.")
    threshold_F = log_threshold_F.double().exp()
    if config.get("sparsity_include_decoder_norm"):
        lengths_F = torch.linalg.vector_norm(decoder_OF.double(), dim=0)
        threshold_F = threshold_F / torch.where(lengths_F > 0, lengths_F, 1.0)
    sae = assemble(
        encoder_FD.T,
        b_enc_F,
        decoder_OF.T,
        b_dec_O,
        "jumprelu",
        subtracts_b_dec=bool(config.get("apply_decoder_bias_to_pre_encoder")),
        threshold=threshold_F.float(),
    )
    sae = fold_decoder_norms(fold_input_scale(sae, scale))
    metadata = known(hook_name=hook, training_architecture="jumprelu", source_config=config)
    return sae.with_metadata(**metadata), metadata


def _average_norm(norms: Mapping[str, torch.Tensor], hook: str) -> float:
    """The norm whose place is the hook's; a file may hold but one."""
    found = norms.get(f"{NORM}{hook}")
    if found is None and len(norms) == 1:
        (found,) = norms.values()
    if found is None:
        raise Unsupported(
            "This SAE reads scaled activations, and its weights do not say by how much "
            f"({NORM}{hook} is missing)."
        )
    value = float(found.float()) if found.numel() == 1 else 0.0
    if not math.isfinite(value) or value <= 0:
        raise Damaged(f"{WEIGHTS_FILE} holds no usable average norm.")
    return value


def _refuse_others(config: Mapping[str, Any]) -> None:
    read, written = config.get("hook_point_in"), config.get("hook_point_out")
    kind = str(config.get("sae_type") or "sae")
    if kind != "sae" or written not in (None, read):
        raise Unsupported(
            "This is a transcoder or another kind of dictionary of Llama Scope, of which only SAEs "
            "can be read."
        )
    refuse_other_kinds(config)
