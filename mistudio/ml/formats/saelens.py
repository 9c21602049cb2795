"""SAELens v6 folders (cfg.json + sae_weights.safetensors): write, read, and read older ones.

A folder written here opens in SAELens 6 with the same
bits; a folder read here is brought to unit decoder rows and to the units of the model. It is also
the form in which our own library keeps SAEs; topk transcoders and groupmax, which SAELens has none
of, are only written for that.

Their matching_pursuit reads by what it writes: its files hold no encoder. Where it does not
subtract b_dec it does not add it either, so that what the file says of it is left out.

Their temporal SAEs expect of each token what those before it say, in layers of attention over
latents (`ml/formats/temporal.py`); their weights and those of the layers are kept as they are.

Their abstopk keeps the k latents of largest magnitude with their signs. It is read as the topk SAE
of twice as many latents that computes the same: latent i + m is the negative side of latent i.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from mistudio.core.errors import Damaged, InvalidInput, Mismatch, Unsupported
from mistudio.ml.formats.foreign import (
    b_enc_without_subtraction,
    new_folder,
    read_json,
    write_text_json,
)
from mistudio.ml.formats.gated import (
    GatedWeights,
    gated_as_jumprelu,
    is_gated,
    jumprelu_as_gated,
)
from mistudio.ml.formats.temporal import (
    assemble_temporal,
    temporal_config,
    temporal_names,
    temporal_tensors,
)
from mistudio.ml.formats.tensors import load_tensors, save_tensors
from mistudio.ml.sae.base import KEEPING_K, SparseAutoencoder
from mistudio.ml.sae.fold import (
    fold_coordinates,
    fold_decoder_norms,
    fold_input_scale,
    fold_unit_scale,
)
from mistudio.ml.sae.matching_pursuit import Pursuit
from mistudio.ml.sae.token_norm import KINDS as TOKEN_NORMS
from mistudio.ml.whitening import Coordinates

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"
SCALER_FILE = "activation_scaler.json"
WHITENING_FILE = "activation_whitening.safetensors"
SAE_LENS_VERSION = "6.54.12"  # the version whose rules these are; 6.0.0 and later keep metadata
KINDS = {
    "standard": ("standard", "sae"),
    "topk": ("topk", "sae"),
    "abstopk": ("topk", "sae"),
    "jumprelu": ("jumprelu", "sae"),
    "gated": ("jumprelu", "sae"),
    "matching_pursuit": ("matching_pursuit", "sae"),
    "temporal": ("temporal", "sae"),
    "transcoder": ("standard", "transcoder"),
    "skip_transcoder": ("standard", "skip_transcoder"),
    "jumprelu_transcoder": ("jumprelu", "transcoder"),
    "jumprelu_skip_transcoder": ("jumprelu", "skip_transcoder"),
    "topk_transcoder": ("topk", "transcoder"),
    "topk_skip_transcoder": ("topk", "skip_transcoder"),
    "groupmax": ("groupmax", "sae"),
    "groupmax_transcoder": ("groupmax", "transcoder"),
    "groupmax_skip_transcoder": ("groupmax", "skip_transcoder"),
}
"""their name of an architecture: our architecture and encoder"""
READ_AS_ANOTHER = ("gated", "abstopk")
GATED = ("W_enc", "b_gate", "r_mag", "b_mag")  # in the order of `GatedWeights`
NAMES = {kind: name for name, kind in KINDS.items() if name not in READ_AS_ANOTHER}
OURS_ALONE = (
    "topk_transcoder",
    "topk_skip_transcoder",
    "groupmax",
    "groupmax_transcoder",
    "groupmax_skip_transcoder",
)
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
    folder: Path,
    sae: SparseAutoencoder,
    metadata: Mapping[str, Any] | None = None,
    *,
    for_library: bool = False,
) -> None:
    """Create `folder` with the SAE; `metadata` is added to the SAE's own.

    What was a gated SAE becomes one again, unless it is `for_library`.

    Raises `InvalidInput` if the folder holds files already, `DiskFull` if there is no room, and,
    unless it is `for_library`, `Unsupported` for what SAELens cannot read.
    """
    if NAMES[sae.architecture, sae.encoder] in OURS_ALONE and not for_library:
        what = "groupmax SAEs" if sae.architecture == "groupmax" else "topk transcoders"
        raise Unsupported(f"SAELens has no {what}; sparsify can hold this one.")
    config, tensors = config_of(sae, metadata or {}), tensors_of(sae)
    if not for_library and is_gated(sae, config["metadata"]["training_architecture"]):
        config["architecture"] = "gated"
        gated = jumprelu_as_gated(sae, sae.b_enc_F)
        own = dict(zip(GATED, gated, strict=True))
        tensors = {**own, "W_dec": sae.W_dec_FO, "b_dec": sae.b_dec_O}
    with new_folder(folder) as temporary:
        write_text_json(temporary / CONFIG_FILE, config)
        save_tensors(temporary / WEIGHTS_FILE, tensors)


def config_of(sae: SparseAutoencoder, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The content of cfg.json."""
    config: dict[str, Any] = {
        "architecture": NAMES[sae.architecture, sae.encoder],
        "d_in": sae.d_in,
        "d_sae": sae.n_latents,
        "dtype": str(sae.W_enc_DF.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": sae.apply_b_dec_to_input and not sae.is_transcoder,
        "normalize_activations": sae.token_norm or "none",
        "reshape_activations": "none",
    }
    if sae.architecture in KEEPING_K:
        config |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    if sae.pursuit is not None:
        config |= asdict(sae.pursuit)
    if sae.context is not None:
        config |= temporal_config(sae, sae.context)
    if sae.is_transcoder:
        config |= {"d_out": sae.d_out}
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
    """The tensors of sae_weights.safetensors; transcoders there never subtract b_dec."""
    if sae.pursuit is not None:
        return {"W_dec": sae.W_dec_FO, "b_dec": sae.b_dec_O}
    if sae.context is not None:
        return temporal_tensors(sae, sae.context)
    tensors = {
        "W_enc": sae.W_enc_DF,
        "b_enc": b_enc_without_subtraction(sae) if sae.is_transcoder else sae.b_enc_F,
        "W_dec": sae.W_dec_FO,
        "b_dec": sae.b_dec_O,
    }
    if sae.threshold_F is not None:
        tensors["threshold"] = sae.threshold_F
    if sae.W_skip_OD is not None:
        tensors["W_skip"] = sae.W_skip_OD
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
    if architecture not in KINDS:
        known = ", ".join(name for name in KINDS if name not in OURS_ALONE)
        raise Unsupported(f"SAEs of architecture {architecture!r} cannot be read; {known} can.")
    tensors = _read_tensors(folder / WEIGHTS_FILE, str(config.get("dtype", "float32")))
    metadata = dict(config.get("metadata") or {})
    sae = _assemble(architecture, config, tensors, metadata)
    alone = sae.pursuit is not None or sae.context is not None
    by_length = not alone and bool(config.get("rescale_acts_by_decoder_norm"))
    if by_length:  # before a whitening changes the lengths
        sae = fold_decoder_norms(sae)
    scaling = config.get("normalize_activations", "none")
    if scaling != "none":
        sae = _scaled(sae, str(scaling), folder, config)
    if not (sae.compares or alone) or (by_length and scaling != "covariance_whitening"):
        sae = fold_decoder_norms(sae)
    return sae, metadata


def _scaled(
    sae: SparseAutoencoder, scaling: str, folder: Path, config: Mapping[str, Any]
) -> SparseAutoencoder:
    """An SAE that reads activations scaled in one of SAELens' ways as one that reads them."""
    if scaling == "constant_scalar_rescale" and sae.context is not None:
        factor = config.get("activation_normalization_factor", 1.0)
        if not isinstance(factor, (int, float)) or not factor > 0:
            raise Damaged(f"{CONFIG_FILE} holds no positive activation_normalization_factor.")
        return sae if factor == 1 else fold_input_scale(sae, float(factor))
    if not sae.is_transcoder:
        if scaling == "expected_average_only_in":
            fold = fold_input_scale if sae.pursuit is None else fold_unit_scale
            return fold(sae, _scaling_factor(folder))
        if scaling == "covariance_whitening":
            return fold_coordinates(sae, _whitening(folder, sae.d_in))
        if scaling in TOKEN_NORMS:
            return replace(sae, token_norm=scaling)
    raise Unsupported(f"A {sae.encoder} with normalize_activations {scaling!r} cannot be used.")


def _assemble(
    name: str,
    config: Mapping[str, Any],
    tensors: dict[str, torch.Tensor],
    metadata: dict[str, Any],
) -> SparseAutoencoder:
    architecture, encoder = KINDS[name]
    needed = ["W_enc", "W_dec", "b_dec"]
    if name == "matching_pursuit":
        needed.remove("W_enc")
    elif name == "temporal":
        needed = temporal_names(config)
    elif name == "gated":
        needed += GATED[1:]
    else:
        needed += ["b_enc", "threshold"] if architecture == "jumprelu" else ["b_enc"]
    if encoder == "skip_transcoder":
        needed.append("W_skip")
    missing = [name for name in needed if name not in tensors]
    if missing:
        raise Damaged(f"{WEIGHTS_FILE} lacks {', '.join(missing)}.")
    scaling_factor = tensors.pop("scaling_factor", None)
    if scaling_factor is not None and not bool((scaling_factor == 1).all()):
        raise Unsupported("An SAE with a finetuned scaling factor cannot be used.")
    extra = sorted(set(tensors) - set(needed))
    if extra:
        raise Unsupported(f"{WEIGHTS_FILE} holds {', '.join(extra)}, which is not understood.")
    if name == "matching_pursuit":
        return _pursuing(config, tensors["W_dec"], tensors["b_dec"], metadata)
    if name == "temporal":
        return assemble_temporal(config, tensors, metadata)
    shape = (config["d_in"], config["d_sae"])
    if tuple(tensors["W_enc"].shape) != shape:
        raise Mismatch(
            f"W_enc has shape {tuple(tensors['W_enc'].shape)}, {CONFIG_FILE} says {shape}."
        )
    if name == "gated":
        parts = GatedWeights(*(tensors[key] for key in GATED))
        W_enc_DF, b_enc_F, threshold_F = gated_as_jumprelu(parts)
        metadata["training_architecture"] = metadata.get("training_architecture") or name
    else:
        W_enc_DF, b_enc_F = tensors["W_enc"], tensors["b_enc"]
        threshold_F = tensors.get("threshold")
    W_dec_FO = tensors["W_dec"]
    if name == "abstopk":
        # the k largest of |h| are the k largest of ReLU(h) and ReLU(-h) together
        W_enc_DF = torch.cat([W_enc_DF, -W_enc_DF], dim=1)
        b_enc_F = torch.cat([b_enc_F, -b_enc_F])
        W_dec_FO = torch.cat([W_dec_FO, -W_dec_FO])
        metadata["two_sided"] = config["d_sae"]
    return SparseAutoencoder(
        W_enc_DF,
        b_enc_F,
        W_dec_FO,
        tensors["b_dec"],
        architecture,
        k=int(config.get("k", 100)) if architecture in KEEPING_K else None,
        threshold_F=threshold_F,
        apply_b_dec_to_input=encoder == "sae" and bool(config.get("apply_b_dec_to_input", True)),
        W_skip_OD=tensors.get("W_skip"),
        encoder=encoder,
        metadata=metadata,
    )


def _pursuing(
    config: Mapping[str, Any],
    W_dec_FO: torch.Tensor,
    b_dec_O: torch.Tensor,
    metadata: dict[str, Any],
) -> SparseAutoencoder:
    shape = (config["d_sae"], config["d_in"])
    if tuple(W_dec_FO.shape) != shape:
        raise Mismatch(f"W_dec has shape {tuple(W_dec_FO.shape)}, {CONFIG_FILE} says {shape}.")
    known = Pursuit()
    least = config.get("residual_threshold", known.residual_threshold)
    steps = config.get("max_iterations", known.max_iterations)
    if not isinstance(least, (int, float)) or not isinstance(steps, (int, type(None))):
        raise Damaged(f"{CONFIG_FILE} does not say when the pursuit is done.")
    once = bool(config.get("stop_on_duplicate_support", known.stop_on_duplicate_support))
    subtracts = bool(config.get("apply_b_dec_to_input", True))
    try:
        pursuit = Pursuit(float(least), steps, once)
    except InvalidInput as error:
        raise Damaged(f"{CONFIG_FILE} is not usable. {error.sentence}") from error
    return SparseAutoencoder(
        W_dec_FO.T,
        torch.zeros(shape[0]),
        W_dec_FO,
        b_dec_O if subtracts else torch.zeros_like(b_dec_O),
        "matching_pursuit",
        apply_b_dec_to_input=subtracts,
        pursuit=pursuit,
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


def _whitening(folder: Path, width: int) -> Coordinates:
    path = folder / WHITENING_FILE
    if not path.is_file():
        raise Unsupported(
            "This SAE reads whitened activations, and the folder does not say by what matrix "
            f"({WHITENING_FILE} is missing)."
        )
    tensors = load_tensors(path)
    shapes = {"mean": (width,), "matrix": (width, width), "inverse_matrix": (width, width)}
    for name, shape in shapes.items():
        if name not in tensors or not bool(torch.isfinite(tensors[name]).all()):
            raise Damaged(f"{WHITENING_FILE} holds no usable {name}.")
        if tuple(tensors[name].shape) != shape:
            raise Mismatch(f"{name} in {WHITENING_FILE} has another width than the SAE.")
    return Coordinates(*(tensors[name].double() for name in shapes))


def _read_tensors(path: Path, dtype: str) -> dict[str, torch.Tensor]:
    tensors = load_tensors(path)
    if dtype.removeprefix("torch.") not in DTYPES:
        raise Unsupported(f"An SAE in {dtype} cannot be read.")
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise Damaged(f"{name} in {path.name} holds values that are not finite numbers.")
    target = getattr(torch, dtype.removeprefix("torch."))
    return {name: tensor.to(target).to(torch.float32) for name, tensor in tensors.items()}
