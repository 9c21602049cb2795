"""Transcoders that read what the norm before an MLP gives before its gain (ln2.hook_normalized).

The MLP of a Hugging Face model reads x = n ⊙ gain. An encoder of n becomes one of x by dividing its
weights by the gain, which stands in the model's files.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from mistudio.core.errors import Damaged, Unsupported, from_os_error
from mistudio.ml.formats.foreign import optional_json
from mistudio.ml.sae.base import SparseAutoencoder

CONFIG_FILE = "config.json"
# those whose norm before the MLP multiplies by its weight, and is called after what it follows
PLAIN = ("llama", "mistral", "qwen2", "qwen3")
LEAST_GAIN = 1e-3  # of the median; below it rounding of x would be read as signal


def gain_before_mlp(folder: Path, layer: int) -> torch.Tensor:
    """The gain [D] of the norm before the MLP, float64, from a model's safetensors files.

    It is the norm's weight w in models of the families in `PLAIN`, and 1 + w in Gemma's. Raises
    `Unsupported` if there is no such norm, `Damaged` for broken files.
    """
    is_plain = optional_json(folder / CONFIG_FILE, "model").get("model_type") in PLAIN
    norm = "post_attention_layernorm" if is_plain else "pre_feedforward_layernorm"
    name = re.compile(rf"(?:^|\.)layers\.{layer}\.{norm}\.weight$")
    try:
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, "pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118 - it is no mapping
                    if name.search(key) and "vision" not in key:
                        weight_D = tensors.get_tensor(key).double()
                        return weight_D if is_plain else 1.0 + weight_D
    except SafetensorError as error:
        raise Damaged("The model's files are damaged or incomplete.", details=str(error)) from None
    except OSError as error:
        raise from_os_error(error, "read the model's norm") from error
    raise Unsupported(
        "This transcoder reads what a norm gives before its gain (ln2.hook_normalized); in the "
        "files of the model no such norm was found, so that it cannot be used with it."
    )


def behind_gain(sae: SparseAutoencoder, gain_D: torch.Tensor) -> SparseAutoencoder:
    """The transcoder that reads n ⊙ gain and gives what this one makes of n.

    Raises `Unsupported` if the gain leaves out parts of n.
    """
    size_D = gain_D.abs()
    if gain_D.shape != (sae.d_in,) or bool((size_D < LEAST_GAIN * size_D.median()).any()):
        raise Unsupported(
            "The gain of the model's norm cannot be moved into this transcoder: it is zero in some "
            "directions, or of another width."
        )
    W_enc_DF = (sae.W_enc_DF.double() / gain_D[:, None]).to(sae.W_enc_DF.dtype)
    skip = sae.W_skip_OD
    if skip is not None:
        skip = (skip.double() / gain_D).to(skip.dtype)
    return replace(sae, W_enc_DF=W_enc_DF, W_skip_OD=skip)
