"""Temporal SAEs: what SAELens's files of them hold, and the files of the program that makes them.

Either holds the decoder, the bias, the layers of attention and, where it does not read by what it
writes, the encoder. `conf.yaml` and `latest_ckpt.safetensors` are of the program (TemporalSAEs, of
arXiv 2511.01836), which multiplies activations by `scaling_factor` before it reads them, and always
subtracts and adds the bias. Its folders, such as "gemma-2-2B/layer_12/temporal", name the layer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from mistudio.core.errors import Damaged, InvalidInput, Mismatch, NotFound, Unsupported
from mistudio.ml.formats.foreign import known, take
from mistudio.ml.formats.tensors import load_tensors
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.sae.context import Attention, Context
from mistudio.ml.sae.fold import fold_input_scale

PROGRAM = "TemporalSAEs"
CONFIG_FILE = "conf.yaml"
WEIGHTS_FILE = "latest_ckpt.safetensors"
PROJECTIONS = ("k_ctx", "q_target", "v_ctx", "c_proj")  # of a layer, in the order of `Attention`
ACTIVATIONS = ("relu", "topk")
MOST_LAYERS = 64
_OURS = {"D": "W_dec", "E": "W_enc", "b": "b_dec"}


def temporal_names(config: Mapping[str, Any]) -> list[str]:
    """The names of a temporal SAE's tensors by SAELens's configuration; raises `Damaged`."""
    layers = config.get("n_attn_layers", 1)
    if not isinstance(layers, int) or not 0 <= layers <= MOST_LAYERS:
        raise Damaged("The SAE's configuration does not say how many attention layers it has.")
    names = ["W_dec", "b_dec"] if config.get("tied_weights", True) else ["W_enc", "W_dec", "b_dec"]
    return names + [name for layer in range(layers) for name in _layer_names(layer)]


def _layer_names(layer: int) -> list[str]:
    parts = ("weight", "bias")
    return [f"attn_layers.{layer}.{name}.{part}" for name in PROJECTIONS for part in parts]


def assemble_temporal(
    config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], metadata: dict[str, Any]
) -> SparseAutoencoder:
    """The SAE of tensors by `temporal_names`; one that reads by what it writes, and does not
    subtract b_dec, has none. Raises `Damaged` and `Mismatch`."""
    W_dec_FO, b_dec_O, is_tied = tensors["W_dec"], tensors["b_dec"], "W_enc" not in tensors
    shape = (config["d_sae"], config["d_in"])
    if tuple(W_dec_FO.shape) != shape:
        raise Mismatch(f"W_dec has shape {tuple(W_dec_FO.shape)}, the configuration says {shape}.")
    kind, heads = config.get("sae_diff_type", "topk"), config.get("n_heads", 8)
    k = config.get("kval_topk") if kind == "topk" else None
    if kind not in ACTIVATIONS or not all(isinstance(n, int) for n in (heads, k or 1)):
        raise Damaged("The SAE's configuration does not say which latents of a token it keeps.")
    subtracts = bool(config.get("apply_b_dec_to_input", True))
    layers = range(config.get("n_attn_layers", 1))
    try:
        return SparseAutoencoder(
            W_dec_FO.T if is_tied else tensors["W_enc"],
            torch.zeros(shape[0]),
            W_dec_FO,
            b_dec_O if subtracts or not is_tied else torch.zeros_like(b_dec_O),
            "temporal",
            k=k,
            apply_b_dec_to_input=subtracts,
            context=Context(
                tuple(Attention(*(tensors[name] for name in _layer_names(i))) for i in layers),
                heads,
                1 / (4 * shape[1]),
            ),
            metadata=metadata,
        )
    except InvalidInput as error:
        raise Damaged(f"The SAE's configuration is not usable. {error.sentence}") from error


def temporal_config(sae: SparseAutoencoder, context: Context) -> dict[str, Any]:
    """What SAELens's configuration says of a temporal SAE beside what it says of others."""
    keys = context.layers[0].key_EF.shape[0] if context.layers else sae.n_latents
    return {
        "n_heads": context.heads,
        "n_attn_layers": len(context.layers),
        "bottleneck_factor": sae.n_latents // keys,
        "sae_diff_type": "relu" if sae.k is None else "topk",
        "kval_topk": sae.k,
        "tied_weights": sae.is_tied,
        "activation_normalization_factor": 1.0,
    }


def temporal_tensors(sae: SparseAutoencoder, context: Context) -> dict[str, torch.Tensor]:
    """The tensors of SAELens's file."""
    tensors = {} if sae.is_tied else {"W_enc": sae.W_enc_DF}
    tensors |= {"W_dec": sae.W_dec_FO, "b_dec": sae.b_dec_O}
    for number, layer in enumerate(context.layers):
        tensors |= dict(zip(_layer_names(number), layer.tensors, strict=True))
    return tensors


def read_temporal(folder: Path) -> tuple[SparseAutoencoder, dict[str, Any]]:
    """The SAE of the program's folder, in float32 on the CPU, and its metadata.

    Raises `NotFound`, `Damaged`, `Mismatch`, or `Unsupported` for what keeps latents by a whole
    batch, or none.
    """
    given = _configuration(folder / CONFIG_FILE)
    try:
        width, told = int(given["llm"]["dimin"]), dict(given["sae"])
        config: dict[str, Any] = told | {
            "d_in": width,
            "d_sae": int(width * told["exp_factor"]),
            "apply_b_dec_to_input": True,
        }
        scale = float(told["scaling_factor"])
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(
            f"{CONFIG_FILE} in {folder} does not describe a temporal SAE.", details=repr(error)
        ) from error
    kind = told.get("sae_diff_type", "topk")
    if kind not in ACTIVATIONS:
        raise Unsupported(
            f"A temporal SAE whose sae_diff_type is {kind!r} cannot be read; "
            f"{' and '.join(ACTIVATIONS)} can."
        )
    if not scale > 0:
        raise Damaged(f"The scaling_factor in {CONFIG_FILE} is not positive.")
    names = temporal_names(config)
    theirs = {ours: their for their, ours in _OURS.items()}
    found = take(
        load_tensors(folder / WEIGHTS_FILE),
        [theirs.get(name, name) for name in names],
        WEIGHTS_FILE,
    )
    tensors = dict(zip(names, found, strict=True))
    tensors["b_dec"] = tensors["b_dec"].reshape(-1)
    layer = re.search(r"layer_(\d+)", "/".join(folder.parts[-3:]))
    metadata = known(
        hook_name=f"blocks.{layer[1]}.hook_resid_post" if layer else None,
        training_architecture=f"{PROGRAM} {kind}",
    )
    sae = assemble_temporal(config, tensors, metadata)
    return (sae if scale == 1 else fold_input_scale(sae, scale)), metadata


def _configuration(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise NotFound(f"There is no {path.name} in {path.parent}; it is no {PROGRAM} folder.")
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise Damaged(f"{path.name} in {path.parent} is no YAML.", details=str(error)) from error
    return value if isinstance(value, dict) else {}
