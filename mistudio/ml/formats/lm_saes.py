"""Llama Scope R1-Distill and later (`config.json` + `sae_weights.safetensors`), read only.

These SAEs read activations times √d / the average norm of their training, which stands among the
weights; where `norm_activation` is "inference" the weights are those of plain activations, and what
stands there is without meaning. Thresholds are stored as logarithms, one per latent, in units of
the scaled input. Where `sparsity_include_decoder_norm` holds, latents times their rows' lengths are
compared with the thresholds, and with each other for the `top_k` largest of a token; else latents
as they are. ReLU comes before that choice: versions of the program without it differ where fewer
than k latents are positive. The larger k with which a training may begin is not in these files.

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
from mistudio.ml.sae.fold import fold_decoder_norms, fold_input_ratio, fold_unit_scale

PROGRAM = "Llama Scope"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "sae_weights.safetensors"
TENSORS = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")
LATER_TENSORS = ("W_E", "b_E", "W_D", "b_D")  # [D, F], [F], [F, O], [O]
THRESHOLD = "log_jumprelu_threshold"
THRESHOLDS = (THRESHOLD, f"activation_function.{THRESHOLD}")
NORM = "dataset_average_activation_norm."
ARCHITECTURES = {"jumprelu": "jumprelu", "topk": "topk", "relu": "standard"}  # ours of an act_fn
FOLDED = "inference"  # the norm_activation of weights that read plain activations
SCALINGS = ("dataset-wise", FOLDED)


def read_lm_saes(folder: Path) -> tuple[SparseAutoencoder, dict[str, Any]]:
    """The SAE of a folder, in float32 on the CPU, and its metadata.

    A topk that chose among latents as they are keeps the lengths of its rows, which others have
    folded in. Raises `NotFound`, `Damaged`, `Mismatch`, `InvalidInput`, or `Unsupported` for other
    kinds of dictionaries, other scalings than by the average norm and other activations than
    jumprelu, topk and relu.
    """
    config = read_json(folder / CONFIG_FILE, PROGRAM)
    _refuse_others(config)
    architecture = ARCHITECTURES[config.get("act_fn", "jumprelu")]
    tensors = load_tensors(folder / WEIGHTS_FILE)
    norms = {name: tensors.pop(name) for name in list(tensors) if name.startswith(NORM)}
    hook, written = str(config.get("hook_point_in") or ""), written_hook(config)
    width = config.get("d_model")
    if not isinstance(width, int):
        raise Damaged(f"{CONFIG_FILE} in {folder} does not say d_model; it is no SAE.")
    scale = scale_out = 1.0
    if config.get("norm_activation") != FOLDED:
        scale = math.sqrt(width) / _average_norm(norms, hook, may_be_any=not written)
        scale_out = math.sqrt(width) / _average_norm(norms, written) if written else scale
    W_enc_DF, b_enc_F, W_dec_FO, b_dec_O, *more = _weights(tensors, architecture)
    if W_enc_DF.ndim != 2 or W_enc_DF.shape[0] != width:
        raise Mismatch(
            f"The encoder's weights have shape {tuple(W_enc_DF.shape)}, {CONFIG_FILE} says a width "
            f"of {width:,}."
        )
    if W_dec_FO.ndim != 2 or W_dec_FO.shape[0] != W_enc_DF.shape[1]:
        raise Mismatch(f"The weights in {WEIGHTS_FILE} do not fit each other.")
    sae = assemble(
        W_enc_DF,
        b_enc_F,
        W_dec_FO,
        b_dec_O,
        architecture,
        subtracts_b_dec=bool(config.get("apply_decoder_bias_to_pre_encoder")),
        k=_top_k(config) if architecture == "topk" else None,
        threshold=more[0].double().exp().float() if more else None,
        encoder="transcoder" if written else "sae",
    )
    by_length = bool(config.get("sparsity_include_decoder_norm", True))
    sae = folded(sae, scale, scale_out, by_length=by_length)
    metadata = known(
        hook_name=hook,
        hook_name_out=written,
        training_architecture=architecture,
        source_config=config,
    )
    return sae.with_metadata(**metadata), metadata


def folded(
    sae: SparseAutoencoder, scale: float, scale_out: float, *, by_length: bool
) -> SparseAutoencoder:
    """An SAE that reads scale * x and gives scale_out * y of it as one that reads x and gives y.

    Latents are compared times their rows' lengths where `by_length` holds. Rows become unit rows,
    except of a topk that compares latents as they are: there they keep their lengths, since
    another length would choose others.
    """
    lengths_F = torch.linalg.vector_norm(sae.W_dec_FO.double(), dim=1)
    threshold_F = sae.threshold_F
    if by_length and threshold_F is not None:
        by_F = torch.where(lengths_F > 0, lengths_F, 1.0)
        sae = replace(sae, threshold_F=(threshold_F.double() / by_F).to(threshold_F.dtype))
    if sae.is_transcoder:
        b_enc_F = b_enc_without_subtraction(sae)
        sae = replace(sae, b_enc_F=b_enc_F, apply_b_dec_to_input=False)
    sae = fold_input_ratio(fold_unit_scale(sae, scale_out), scale / scale_out)
    if sae.architecture == "topk":
        if not by_length:
            return sae
        if not bool((lengths_F > 0).all()):  # they give nothing, and must not take a place
            lives_F = (lengths_F > 0).to(sae.b_enc_F.dtype)
            sae = replace(sae, W_enc_DF=sae.W_enc_DF * lives_F, b_enc_F=sae.b_enc_F * lives_F)
    return fold_decoder_norms(sae)


def _weights(tensors: Mapping[str, torch.Tensor], architecture: str) -> list[torch.Tensor]:
    """Weights and biases in our orientation, and of a jumprelu the logarithms of the thresholds."""
    threshold = [next((name for name in THRESHOLDS if name in tensors), THRESHOLD)]
    if architecture != "jumprelu":
        threshold = []
    if LATER_TENSORS[0] in tensors:
        return take(tensors, (*LATER_TENSORS, *threshold), WEIGHTS_FILE)
    parts = take(tensors, (*TENSORS, *threshold), WEIGHTS_FILE)
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


def _top_k(config: Mapping[str, Any]) -> int:
    k = config.get("top_k")
    if not isinstance(k, int) or isinstance(k, bool):
        raise Damaged(f"top_k in {CONFIG_FILE} is not a whole number.")
    return k


def _refuse_others(config: Mapping[str, Any]) -> None:
    kind = str(config.get("sae_type") or "sae")
    if kind != "sae":
        raise Unsupported(
            f"This dictionary of Llama Scope is of type {kind!r}; only SAEs and transcoders of one "
            "block can be read."
        )
    if config.get("act_fn") == "batchtopk":
        raise Unsupported(
            "SAEs with the activation 'batchtopk' cannot be read: it keeps the largest latents of "
            "a whole batch, so that what it makes of a token depends on the tokens beside it."
        )
    refuse_other_kinds(config, tuple(ARCHITECTURES), SCALINGS)
