"""circuit-tracer transcoder sets (config.yaml + layer_N.safetensors): read one, write a set.

A set has one transcoder per layer, all of one width, from layer 0 on. The encoder is stored one row
per latent; b_dec is not subtracted; a file with thresholds is a JumpReLU, one without a ReLU.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mistudio.core.errors import Damaged, InvalidInput, Unsupported, from_os_error
from mistudio.ml.formats.foreign import (
    assemble,
    b_enc_without_subtraction,
    known,
    new_folder,
    take,
)
from mistudio.ml.formats.tensors import load_tensors, save_tensors
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.sae.fold import fold_decoder_norms

PROGRAM = "circuit-tracer"
CONFIG_FILE = "config.yaml"
FILE = re.compile(r"layer_(\d+)\.safetensors")
TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec")
THRESHOLD = "activation_function.threshold"
SKIP = "W_skip"  # [d_out, d_in]
HOOKS = {
    "mlp_in": "mlp.hook_in",
    "mlp_out": "hook_mlp_out",
    "attn_out": "hook_attn_out",
    "resid_post": "hook_resid_post",
    "resid_mid": "hook_resid_mid",
}
"""our hooks in the names of a set's config, which the layer's number precedes"""


def read_circuit_tracer(path: Path) -> tuple[SparseAutoencoder, dict[str, Any]]:
    """The transcoder of one layer's file, in float32 on the CPU, and its metadata.

    Where it reads and what it gives stand in the set's config beside it. Raises `NotFound`,
    `Damaged`, `Mismatch` or `Unsupported` (transcoders across layers).
    """
    config = _config(path.parent / CONFIG_FILE)
    if config.get("model_kind", "transcoder_set") != "transcoder_set":
        raise Unsupported("Transcoders across layers cannot be read yet.")
    tensors = load_tensors(path)
    if "w_enc" in tensors or any(name.startswith("W_enc_") for name in tensors):
        raise Unsupported("Transcoders across layers cannot be read yet.")
    optional = [name for name in (THRESHOLD, SKIP) if name in tensors]
    found = dict(
        zip((*TENSORS, *optional), take(tensors, (*TENSORS, *optional), path.name), strict=True)
    )
    k = config.get("k") if config.get("activation") == "topk" else None
    architecture = "topk" if k else "jumprelu" if THRESHOLD in found else "standard"
    sae = assemble(
        found["W_enc"].T,
        found["b_enc"],
        found["W_dec"],
        found["b_dec"],
        architecture,
        subtracts_b_dec=False,
        k=k,
        threshold=found.get(THRESHOLD) if architecture == "jumprelu" else None,
        encoder="transcoder",
        W_skip_OD=found.get(SKIP),
    )
    if architecture != "topk":
        sae = fold_decoder_norms(sae)
    number = FILE.fullmatch(path.name)
    metadata = known(
        model_name=config.get("model_name"),
        hook_name=_place(config.get("feature_input_hook"), number),
        hook_name_out=_place(config.get("feature_output_hook"), number),
        training_architecture=f"{PROGRAM} {architecture}",
        source_config={key: value for key, value in config.items() if key != "transcoders"},
    )
    return sae.with_metadata(**metadata), metadata


def _config(path: Path) -> dict[str, Any]:
    """The set's config; a missing one is empty, as a single file may have been downloaded."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except OSError as error:
        raise from_os_error(error, f"read {path.name}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise Damaged(
            f"{path.name} in {path.parent} is no valid YAML.", details=str(error)
        ) from None
    if not isinstance(value, dict):
        raise Damaged(f"{path.name} in {path.parent} does not describe a set of transcoders.")
    return value


def _place(hook: Any, number: re.Match[str] | None) -> str:
    if not isinstance(hook, str) or number is None:
        return ""
    name = hook.removeprefix("blocks.{layer}.")
    return f"blocks.{number[1]}.{name}"


def write_circuit_tracer(
    folder: Path,
    transcoders: Mapping[int, SparseAutoencoder],
    hook_in: str,
    hook_out: str,
    model_name: str,
) -> None:
    """Create `folder` with one transcoder per layer, by the layer's number.

    Raises `Unsupported` for what the program has no form for, `InvalidInput` for layers that are
    not 0, 1, 2 … and for a folder with files, `DiskFull`.
    """
    _check(transcoders, hook_in, hook_out)
    config = {
        "model_name": model_name,
        "model_kind": "transcoder_set",
        "feature_input_hook": HOOKS[hook_in],
        "feature_output_hook": HOOKS[hook_out],
        "scan": folder.name,
        "transcoders": [f"layer_{layer}.safetensors" for layer in sorted(transcoders)],
    }
    with new_folder(folder) as temporary:
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        (temporary / CONFIG_FILE).write_text(text, encoding="utf-8")
        for layer, sae in transcoders.items():
            tensors = {
                "W_enc": sae.W_enc_DF.T,
                "b_enc": b_enc_without_subtraction(sae),
                "W_dec": sae.W_dec_FO,
                "b_dec": sae.b_dec_O,
            }
            if sae.threshold_F is not None:
                tensors[THRESHOLD] = sae.threshold_F
            if sae.W_skip_OD is not None:
                tensors[SKIP] = sae.W_skip_OD
            save_tensors(temporary / f"layer_{layer}.safetensors", tensors)


def _check(transcoders: Mapping[int, SparseAutoencoder], hook_in: str, hook_out: str) -> None:
    saes = list(transcoders.values())
    if not all(sae.is_transcoder for sae in saes):
        raise Unsupported(f"{PROGRAM} only holds transcoders; SAELens can hold this one.")
    kind = next((sae.architecture for sae in saes if sae.compares), None)
    if kind is not None:
        raise Unsupported(f"{PROGRAM} holds no {kind} transcoders; sparsify can hold this one.")
    if any(sae.d_in != sae.d_out for sae in saes):
        raise Unsupported(f"{PROGRAM} only holds transcoders that give the width they read.")
    if hook_in not in HOOKS or hook_out not in HOOKS:
        raise Unsupported(f"{PROGRAM} needs to know what the transcoder reads and gives.")
    if sorted(transcoders) != list(range(len(transcoders))):
        shown = ", ".join(str(layer) for layer in sorted(transcoders))
        raise InvalidInput(
            f"{PROGRAM} reads one transcoder for every layer from 0 on, and these are of layer "
            f"{shown}; name the others too."
        )
    shapes = {(sae.d_in, sae.n_latents, sae.encoder) for sae in saes}
    if len(shapes) > 1:
        raise InvalidInput(
            f"{PROGRAM} reads transcoders of one kind, with equally many latents in every layer."
        )
