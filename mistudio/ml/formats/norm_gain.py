"""Transcoders that read what the norm before an MLP gives before its gain (ln2.hook_normalized).

The MLP of a Hugging Face model reads x = n ⊙ gain + bias. An encoder of n becomes one of x by
dividing its weights by the gain and by taking out what it would make of the bias; both stand in the
model's files.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from mistudio.core.errors import Damaged, Unsupported, from_os_error
from mistudio.ml.formats.foreign import optional_json
from mistudio.ml.sae.base import SparseAutoencoder

CONFIG_FILE = "config.json"
# those whose norm before the MLP multiplies by its weight, and is called after what it follows
PLAIN = ("llama", "mistral", "qwen2", "qwen3")
# those whose norm before the MLP also adds a bias, with what the files call it in a block
BIASED = {
    "gpt2": "ln_2",
    "gpt_neo": "ln_2",
    "gpt_neox": "post_attention_layernorm",
    "opt": "final_layer_norm",
}
LEAST_GAIN = 1e-3  # of the median; below it rounding of x would be read as signal


class Gain(NamedTuple):
    """What a norm makes of n [D]: n ⊙ gain + bias, float64."""

    gain_D: torch.Tensor
    bias_D: torch.Tensor


def gain_before_mlp(folder: Path, layer: int) -> Gain:
    """The gain of the norm before the MLP from a model's safetensors files.

    It is the norm's weight w in models of the families in `PLAIN`, w with a bias in those of
    `BIASED`, and 1 + w in Gemma's. Raises `Unsupported` if there is no such norm, `Damaged` for
    broken files.
    """
    family = optional_json(folder / CONFIG_FILE, "model").get("model_type")
    norm = "post_attention_layernorm" if family in PLAIN else "pre_feedforward_layernorm"
    norm = BIASED.get(str(family), norm)
    found = _tensors(folder, rf"(?:^|\.)(?:layers|h)\.{layer}\.{norm}\.(weight|bias)$")
    if "weight" in found:
        weight_D = found["weight"].double()
        gain_D = weight_D if family in PLAIN or family in BIASED else 1.0 + weight_D
        bias_D = found.get("bias", torch.zeros_like(weight_D)).double()
        return Gain(gain_D, bias_D)
    raise Unsupported(
        "This transcoder reads what a norm gives before its gain (ln2.hook_normalized); in the "
        "files of the model no such norm was found, so that it cannot be used with it."
    )


def _tensors(folder: Path, pattern: str) -> dict[str, torch.Tensor]:
    """The tensors of a model's files whose names fit, by the pattern's group."""
    name, found = re.compile(pattern), dict[str, torch.Tensor]()
    try:
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, "pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118 - it is no mapping
                    match = name.search(key)
                    if match and "vision" not in key:
                        found.setdefault(match[1], tensors.get_tensor(key))
    except SafetensorError as error:
        raise Damaged("The model's files are damaged or incomplete.", details=str(error)) from None
    except OSError as error:
        raise from_os_error(error, "read the model's norm") from error
    return found


def behind_gain(sae: SparseAutoencoder, gain: Gain) -> SparseAutoencoder:
    """The transcoder that reads n ⊙ gain + bias and gives what this one makes of n.

    Raises `Unsupported` if the gain leaves out parts of n.
    """
    gain_D, bias_D = gain
    size_D = gain_D.abs()
    if gain_D.shape != (sae.d_in,) or bool((size_D < LEAST_GAIN * size_D.median()).any()):
        raise Unsupported(
            "The gain of the model's norm cannot be moved into this transcoder: it is zero in some "
            "directions, or of another width."
        )
    W_enc_DF, skip = sae.W_enc_DF.double() / gain_D[:, None], sae.W_skip_OD
    b_enc_F, b_dec_O = sae.b_enc_F.double() - bias_D @ W_enc_DF, sae.b_dec_O
    if skip is not None:
        skip = skip.double() / gain_D
        b_dec_O = (b_dec_O.double() - skip @ bias_D).to(sae.b_dec_O.dtype)
        skip = skip.to(b_dec_O.dtype)
    return replace(
        sae,
        W_enc_DF=W_enc_DF.to(sae.W_enc_DF.dtype),
        b_enc_F=b_enc_F.to(sae.b_enc_F.dtype),
        b_dec_O=b_dec_O,
        W_skip_OD=skip,
    )
