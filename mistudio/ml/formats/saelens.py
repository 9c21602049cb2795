"""SAELens v6 folders (cfg.json + sae_weights.safetensors): write, read, and read older ones.

A folder written here opens in SAELens 6 with the same
bits; a folder read here is brought to unit decoder rows and to the units of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mistudio.core.errors import Damaged, Mismatch, Unsupported
from mistudio.ml.formats.foreign import new_folder, read_json, write_text_json
from mistudio.ml.formats.tensors import load_tensors, save_tensors
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.sae.fold import fold_decoder_norms, fold_input_scale

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"
SCALER_FILE = "activation_scaler.json"
SAE_LENS_VERSION = "6.54.12"  # the version whose rules these are; 6.0.0 and later keep metadata
READABLE = ("standard", "topk", "jumprelu")
OLD_NAMES = {"hook_point": "hook_name", "activation_fn_str": "activation_fn"}
OLD_METADATA = (
    "model_name",
    "hook_name",
    "hook_layer",
    "hook_head_index",
    "model_class_name",
    "context_size",
    "prepend_bos",
    "seqpos_slice",
    "dataset_path",
    "exclude_special_tokens",
    "sequence_separator_token",
    "model_from_pretrained_kwargs",
    "neuronpedia_id",
)
DTYPES = ("float32", "float16", "bfloat16", "float64")


def write_saelens(
    folder: Path, sae: SparseAutoencoder, metadata: Mapping[str, Any] | None = None
) -> None:
    """Create `folder` with the SAE; `metadata` is added to the SAE's own.

    Raises `InvalidInput` if the folder holds files already, `DiskFull` if there is no room.
    """
    if sae.d_in != sae.d_out:
        raise Unsupported("A transcoder cannot be written in this format yet.")
    with new_folder(folder) as temporary:
        write_text_json(temporary / CONFIG_FILE, config_of(sae, metadata or {}))
        save_tensors(temporary / WEIGHTS_FILE, tensors_of(sae))


def config_of(sae: SparseAutoencoder, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The content of cfg.json."""
    config: dict[str, Any] = {
        "architecture": sae.architecture,
        "d_in": sae.d_in,
        "d_sae": sae.n_latents,
        "dtype": str(sae.W_enc_DF.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": sae.apply_b_dec_to_input,
        "normalize_activations": "none",
        "reshape_activations": "none",
    }
    if sae.architecture == "topk":
        config |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    described = {
        "hook_head_index": None,
        "seqpos_slice": [None],
        "model_from_pretrained_kwargs": {},
        "training_architecture": sae.architecture,
        **sae.metadata,
        **metadata,
        "sae_lens_version": SAE_LENS_VERSION,
    }
    return config | {"metadata": described}


def tensors_of(sae: SparseAutoencoder) -> dict[str, torch.Tensor]:
    """The tensors of sae_weights.safetensors."""
    tensors = {
        "W_enc": sae.W_enc_DF,
        "b_enc": sae.b_enc_F,
        "W_dec": sae.W_dec_FO,
        "b_dec": sae.b_dec_O,
    }
    if sae.threshold_F is not None:
        tensors["threshold"] = sae.threshold_F
    return tensors


def read_saelens(folder: Path) -> tuple[SparseAutoencoder, dict[str, Any]]:
    """The SAE of a folder, in float32 on the CPU, and its metadata (also in `sae.metadata`).

    Raises `NotFound` for a missing file, `Damaged` for an unreadable one, `Mismatch` for tensors
    that contradict cfg.json, `Unsupported` for an architecture or scaling that cannot be used.
    """
    config = _modern(read_json(folder / CONFIG_FILE, "SAELens"))
    for key in ("d_in", "d_sae"):
        if not isinstance(config.get(key), int) or config[key] < 1:
            raise Damaged(f"{CONFIG_FILE} in {folder} does not say {key}; it is no SAE.")
    architecture = config.get("architecture", "standard")
    if architecture not in READABLE:
        raise Unsupported(
            f"SAEs of architecture {architecture!r} cannot be read; {', '.join(READABLE)} can."
        )
    tensors = _read_tensors(folder / WEIGHTS_FILE, str(config.get("dtype", "float32")))
    metadata = dict(config.get("metadata") or {})
    sae = _assemble(architecture, config, tensors, metadata)
    scaling = config.get("normalize_activations", "none")
    if scaling == "expected_average_only_in":
        sae = fold_input_scale(sae, _scaling_factor(folder))
    elif scaling != "none":
        raise Unsupported(f"An SAE with normalize_activations {scaling!r} cannot be used.")
    if architecture != "topk" or config.get("rescale_acts_by_decoder_norm"):
        sae = fold_decoder_norms(sae)
    return sae, metadata


def _assemble(
    architecture: str,
    config: Mapping[str, Any],
    tensors: dict[str, torch.Tensor],
    metadata: dict[str, Any],
) -> SparseAutoencoder:
    needed = ["W_enc", "b_enc", "W_dec", "b_dec"]
    if architecture == "jumprelu":
        needed.append("threshold")
    missing = [name for name in needed if name not in tensors]
    if missing:
        raise Damaged(f"{WEIGHTS_FILE} lacks {', '.join(missing)}.")
    scaling_factor = tensors.pop("scaling_factor", None)
    if scaling_factor is not None and not bool((scaling_factor == 1).all()):
        raise Unsupported("An SAE with a finetuned scaling factor cannot be used.")
    extra = sorted(set(tensors) - set(needed))
    if extra:
        raise Unsupported(f"{WEIGHTS_FILE} holds {', '.join(extra)}, which is not understood.")
    shape = (config["d_in"], config["d_sae"])
    if tuple(tensors["W_enc"].shape) != shape:
        raise Mismatch(
            f"W_enc has shape {tuple(tensors['W_enc'].shape)}, {CONFIG_FILE} says {shape}."
        )
    return SparseAutoencoder(
        tensors["W_enc"],
        tensors["b_enc"],
        tensors["W_dec"],
        tensors["b_dec"],
        architecture,
        k=int(config.get("k", 100)) if architecture == "topk" else None,
        threshold_F=tensors.get("threshold"),
        apply_b_dec_to_input=bool(config.get("apply_b_dec_to_input", True)),
        metadata=metadata,
    )


def _modern(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration older than SAELens 6 in the present form; a present one as it is."""
    if "metadata" in config and "sae_lens_version" in (config["metadata"] or {}):
        return config
    flat = {OLD_NAMES.get(key, key): value for key, value in config.items()}
    arguments = flat.get("activation_fn_kwargs") or {}
    if flat.get("activation_fn") == "topk" and arguments.get("k"):
        flat |= {"architecture": "topk", "k": arguments["k"]}
    scaling = flat.get("normalize_activations")
    if scaling is None or isinstance(scaling, bool):
        flat["normalize_activations"] = "expected_average_only_in" if scaling else "none"
    nested = flat.get("metadata") or {}
    flat["metadata"] = {k: flat[k] for k in OLD_METADATA if k in flat} | nested
    return flat


def _scaling_factor(folder: Path) -> float:
    path = folder / SCALER_FILE
    if not path.is_file():
        raise Unsupported(
            "This SAE reads scaled activations, and the folder does not say by how much "
            f"({SCALER_FILE} is missing)."
        )
    factor = read_json(path, "SAELens").get("scaling_factor")
    if not isinstance(factor, (int, float)) or not factor > 0:
        raise Damaged(f"{SCALER_FILE} holds no positive scaling_factor.")
    return float(factor)


def _read_tensors(path: Path, dtype: str) -> dict[str, torch.Tensor]:
    tensors = load_tensors(path)
    if dtype.removeprefix("torch.") not in DTYPES:
        raise Unsupported(f"An SAE in {dtype} cannot be read.")
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise Damaged(f"{name} in {path.name} holds values that are not finite numbers.")
    target = getattr(torch, dtype.removeprefix("torch."))
    return {name: tensor.to(target).to(torch.float32) for name, tensor in tensors.items()}
