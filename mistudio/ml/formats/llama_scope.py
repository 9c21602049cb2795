"""Llama Scope (`hyperparams.json` + `checkpoints/final.safetensors`), read only.

These SAEs read activations times a scale and have one threshold for all latents; a transcoder gives
another hook's activations times a scale of their own. Their program divides the scales out, then
gives the decoder unit rows where `sparsity_include_decoder_norm` holds, and only then compares
latents with the threshold, which so is in units of the model's activations. The published rows are
no unit rows, and SAELens compares before.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mistudio.core.errors import Damaged, Mismatch, Unsupported
from mistudio.ml.formats.foreign import assemble, known, read_json, take
from mistudio.ml.formats.tensors import load_tensors
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.sae.fold import fold_decoder_norms, fold_input_scale

PROGRAM = "Llama Scope"
CONFIG_FILE = "hyperparams.json"
WEIGHTS_FILE = "checkpoints/final.safetensors"
TENSORS = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")


def read_llama_scope(folder: Path) -> tuple[SparseAutoencoder, dict[str, Any]]:
    """The SAE of a folder, in float32 on the CPU, and its metadata.

    Raises `NotFound`, `Damaged`, `Mismatch`, or `Unsupported` for scaling per token and other
    activations than jumprelu.
    """
    config = read_json(folder / CONFIG_FILE, PROGRAM)
    _refuse_others(config)
    threshold = _positive(config, "jump_relu_threshold", or_zero=True)
    norms = config.get("dataset_average_activation_norm")
    if not isinstance(norms, dict):
        raise Damaged(f"{CONFIG_FILE} does not say dataset_average_activation_norm.")
    written = written_hook(config)
    root = math.sqrt(_positive(config, "d_model"))
    scale = root / _positive(norms, "in")
    scale_out = root / _positive(norms, "out") if written else scale
    parts = take(load_tensors(folder / WEIGHTS_FILE), TENSORS, WEIGHTS_FILE)
    encoder_FD, b_enc_F, decoder_OF, b_dec_O = parts
    shape = (config.get("d_sae"), config.get("d_model"))
    if tuple(encoder_FD.shape) != shape:
        raise Mismatch(
            f"encoder.weight has shape {tuple(encoder_FD.shape)}, {CONFIG_FILE} says {shape}."
        )
    if decoder_OF.ndim != 2:
        raise Mismatch("decoder.weight is not a matrix.")
    sae = assemble(
        encoder_FD.T,
        b_enc_F,
        decoder_OF.T,
        b_dec_O,
        "jumprelu",
        subtracts_b_dec=False,
        threshold=torch.tensor(threshold * scale),
        encoder="transcoder" if written else "sae",
    )
    sae = fold_decoder_norms(fold_input_scale(sae, scale, scale_out))
    if config.get("sparsity_include_decoder_norm", True):
        sae = sae.with_threshold(threshold)
    metadata = known(
        model_name=_model_name(folder),
        hook_name=config.get("hook_point_in"),
        hook_name_out=written,
        training_architecture="jumprelu",
        source_config=config,
    )
    return sae.with_metadata(**metadata), metadata


def refuse_other_kinds(
    config: Mapping[str, Any],
    activations: Sequence[str] = ("jumprelu",),
    scalings: Sequence[str] = ("dataset-wise",),
) -> None:
    """Raise `Unsupported` for what a release of Llama Scope is not read with: other activations
    and scalings than these, gated encoders."""
    activation = config.get("act_fn", "jumprelu")
    if activation not in activations:
        raise Unsupported(f"SAEs with the activation {activation!r} cannot be read.")
    scaling = config.get("norm_activation", "dataset-wise")
    if scaling not in scalings:
        raise Unsupported(
            f"This SAE scales its input {scaling!r}, which cannot be folded into its weights."
        )
    if config.get("use_glu_encoder"):
        raise Unsupported("SAEs with a gated encoder cannot be read yet.")


def written_hook(config: Mapping[str, Any]) -> str:
    """The hook whose activations a transcoder gives; empty for an SAE, which gives those it
    reads."""
    read, written = config.get("hook_point_in"), config.get("hook_point_out")
    return "" if written in (None, "", read) else str(written)


def _refuse_others(config: Mapping[str, Any]) -> None:
    refuse_other_kinds(config)
    if config.get("apply_decoder_bias_to_pre_encoder"):
        raise Unsupported("SAEs of Llama Scope that subtract the decoder's bias cannot be read.")


def _positive(values: Mapping[str, Any], key: str, *, or_zero: bool = False) -> float:
    value = values.get(key)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        usable = math.isfinite(value) and (value > 0 or (or_zero and value == 0))
        if usable:
            return float(value)
    raise Damaged(f"{CONFIG_FILE} holds no usable {key}.")


def _model_name(folder: Path) -> str:
    published = any(re.match(r"Llama3_1-8B-Base-L", part) for part in folder.resolve().parts)
    return "meta-llama/Llama-3.1-8B" if published else ""
