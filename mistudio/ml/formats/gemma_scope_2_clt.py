"""Gemma Scope 2's transcoders across layers: `params_layer_N.safetensors`, one file a layer.

The latents of layer N read that layer alone and write into the MLP output of every layer from it
on: w_dec has an axis of layers. What a latent writes is added up over them, as SAELens does, to one
row: what it gives to the stream in all. The encoder is exact; no layer's output is reconstructed.
A `config.json` beside the files is of all layers; the file's name says which one it is.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mistudio.core.errors import Unsupported
from mistudio.core.sae_readings import CROSS_LAYER, OUTPUT_LAYERS
from mistudio.ml.formats.foreign import known, optional_json, take
from mistudio.ml.formats.gemma_scope_2 import (
    CONFIG_FILE,
    PROGRAM,
    SKIP,
    TENSORS,
    hook_name,
    model_name,
    of_tensors,
    repository,
)
from mistudio.ml.formats.tensors import load_with_sum
from mistudio.ml.sae.base import SparseAutoencoder

FILE = re.compile(r"params_layer_(\d+)\.safetensors")
READ, WRITTEN = "pre_feedforward_layernorm.output", "post_feedforward_layernorm.output"


def read_gemma_scope_2_clt(path: Path) -> tuple[SparseAutoencoder, dict[str, Any]]:
    """One layer's latents as a transcoder with summed rows, in float32 on the CPU, and metadata.

    b_dec and the skip are those of the layer's own output. Raises `NotFound`, `Damaged`,
    `Mismatch`, or `Unsupported` for crosscoders and other architectures than jump_relu.
    """
    config = optional_json(path.parent / CONFIG_FILE, PROGRAM)
    architecture = str(config.get("architecture") or "jump_relu")
    if not architecture.startswith("jump_relu"):
        raise Unsupported(f"Transcoders across layers of {architecture!r} cannot be read.")
    if any(part.lower().startswith("crosscoder") for part in path.parent.resolve().parts):
        raise Unsupported("This lies in a folder of crosscoders, which cannot be read yet.")
    numbered = FILE.fullmatch(path.name)
    if numbered is None:
        raise Unsupported(f"{path.name} does not name its layer.")
    tensors, layers = load_with_sum(path, "w_dec")
    has_skip = SKIP in tensors or bool(config.get("affine_connection"))
    needed = (*TENSORS, SKIP) if has_skip else TENSORS
    sae = of_tensors(take(tensors, needed, path.name), is_transcoder=True)
    layer = int(numbered[1])
    read = _of_layer(config.get("hf_hook_point_in"), layer, READ)
    written = _of_layer(config.get("hf_hook_point_out"), layer, WRITTEN)
    metadata = known(
        model_name=model_name(str(config.get("model_name") or "") or repository(path.parent)),
        hook_name=hook_name(read, path.parent),
        hook_name_out=hook_name(written, path.parent),
        hf_hook_name=read,
        hf_hook_name_out=written,
        training_architecture="jump_relu",
        source_config=config,
    )
    metadata |= {CROSS_LAYER: True, OUTPUT_LAYERS: layers}
    return sae.with_metadata(**metadata), metadata


def _of_layer(told: Any, layer: int, usual: str) -> str:
    """The hf_ name of one layer; of all layers the config may list them, or name one of them."""
    if isinstance(told, list):
        told = told[layer] if layer < len(told) else None
    if not isinstance(told, str) or "layers." not in told:
        return f"model.layers.{layer}.{usual}"
    return re.sub(r"layers\.[^.]+\.", f"layers.{layer}.", told, count=1)
