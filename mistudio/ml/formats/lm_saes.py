"""Llama Scope R1-Distill and later (`config.json` + `sae_weights.safetensors`), read only.

These SAEs read activations times √d / the average norm of their training, which stands among the
weights. Thresholds are stored as logarithms, one per latent, in units of the scaled input; where
`sparsity_include_decoder_norm` holds they are compared with a latent times its row's length.

One whose hooks differ is a transcoder, which has no `sae_type` of its own; what it gives has its
own scale. The program's later versions name the tensors anew and turn the two matrices round.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mistudio.core.errors import Damaged, Mismatch, Unsupported
from mistudio.ml.formats.foreign import (
    assemble,
    b_enc_without_subtraction,
    known,
    read_json,
    take,
)
from mistudio.ml.formats.llama_scope import refuse_other_kinds, written_hook
from mistudio.ml.formats.tensors import load_tensors
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.sae.fold import fold_decoder_norms, fold_input_scale

PROGRAM = "Llama Scope"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "sae_weights.safetensors"
TENSORS = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")
LATER_TENSORS = ("W_E", "b_E", "W_D", "b_D")  # [D, F], [F], [F, O], [O]
THRESHOLD = "log_jumprelu_threshold"
THRESHOLDS = (THRESHOLD, f"activation_function.{THRESHOLD}")
NORM = "dataset_average_activation_norm."


def read_lm_saes(folder: Path) -> tuple[SparseAutoencoder, dict[str, Any]]:
    """The SAE of a folder, in float32 on the CPU, and its metadata.

    Raises `NotFound`, `Damaged`, `Mismatch`, or `Unsupported` for other kinds of dictionaries,
    other scalings than by the average norm and other activations than jumprelu.
    """
    config = read_json(folder / CONFIG_FILE, PROGRAM)
    _refuse_others(config)
    tensors = load_tensors(folder / WEIGHTS_FILE)
    norms = {name: tensors.pop(name) for name in list(tensors) if name.startswith(NORM)}
    hook, written = str(config.get("hook_point_in") or ""), written_hook(config)
    width = config.get("d_model")
    if not isinstance(width, int):
        raise Damaged(f"{CONFIG_FILE} in {folder} does not say d_model; it is no SAE.")
    scale = math.sqrt(width) / _average_norm(norms, hook, may_be_any=not written)
    scale_out = math.sqrt(width) / _average_norm(norms, written) if written else scale
    W_enc_DF, b_enc_F, W_dec_FO, b_dec_O, log_threshold_F = _weights(tensors)
    if W_enc_DF.ndim != 2 or W_enc_DF.shape[0] != width:
        raise Mismatch(
            f"The encoder's weights have shape {tuple(W_enc_DF.shape)}, {CONFIG_FILE} says a width "
            f"of {width:,}."
        )
    if W_dec_FO.ndim != 2 or W_dec_FO.shape[0] != W_enc_DF.shape[1]:
        raise Mismatch(f"The weights in {WEIGHTS_FILE} do not fit each other.")
    threshold_F = log_threshold_F.double().exp()
    if config.get("sparsity_include_decoder_norm"):
        lengths_F = torch.linalg.vector_norm(W_dec_FO.double(), dim=1)
        threshold_F = threshold_F / torch.where(lengths_F > 0, lengths_F, 1.0)
    sae = assemble(
        W_enc_DF,
        b_enc_F,
        W_dec_FO,
        b_dec_O,
        "jumprelu",
        subtracts_b_dec=bool(config.get("apply_decoder_bias_to_pre_encoder")),
        threshold=threshold_F.float(),
        encoder="transcoder" if written else "sae",
    )
    if sae.is_transcoder:
        b_enc_F = b_enc_without_subtraction(sae)
        sae = replace(sae, b_enc_F=b_enc_F, apply_b_dec_to_input=False)
    sae = fold_decoder_norms(fold_input_scale(sae, scale, scale_out))
    metadata = known(
        hook_name=hook,
        hook_name_out=written,
        training_architecture="jumprelu",
        source_config=config,
    )
    return sae.with_metadata(**metadata), metadata


def _weights(tensors: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    """Weights and biases in our orientation, and the logarithms of the thresholds."""
    threshold = next((name for name in THRESHOLDS if name in tensors), THRESHOLD)
    if LATER_TENSORS[0] in tensors:
        return take(tensors, (*LATER_TENSORS, threshold), WEIGHTS_FILE)
    parts = take(tensors, (*TENSORS, threshold), WEIGHTS_FILE)
    for at in (0, 2):
        if parts[at].ndim == 2:
            parts[at] = parts[at].T
    return parts


def _average_norm(
    norms: Mapping[str, torch.Tensor], hook: str, *, may_be_any: bool = False
) -> float:
    """The norm whose place is the hook's; of an SAE a file may hold but one."""
    found = norms.get(f"{NORM}{hook}")
    if found is None and may_be_any and len(norms) == 1:
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
    kind = str(config.get("sae_type") or "sae")
    if kind != "sae":
        raise Unsupported(
            f"This dictionary of Llama Scope is of type {kind!r}; only SAEs and transcoders of one "
            "block can be read."
        )
    refuse_other_kinds(config)
