"""dictionary_learning folders (ae.pt + config.json): read and write.

The file holds the state of one of several classes. TopK and BatchTopK store the same tensors and
differ only in what config.json says, so nothing is read without it.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mistudio.core.errors import Damaged, Mismatch, Unsupported
from mistudio.core.sae_readings import UNSET_THRESHOLD
from mistudio.ml.formats.foreign import (
    assemble,
    b_enc_with_subtraction,
    b_enc_without_subtraction,
    check_no_token_norm,
    known,
    new_folder,
    read_json,
    reading,
    take,
    write_text_json,
)
from mistudio.ml.formats.gated import (
    GatedWeights,
    gated_as_jumprelu,
    is_gated,
    jumprelu_as_gated,
)
from mistudio.ml.sae.base import KEEPING_K, SparseAutoencoder
from mistudio.ml.sae.fold import fold_decoder_norms

PROGRAM = "dictionary_learning"
WEIGHTS_FILE = "ae.pt"
CONFIG_FILE = "config.json"
LINEAR = ("encoder.weight", "encoder.bias", "decoder.weight")
PLAIN = ("W_enc", "b_enc", "W_dec", "b_dec")
# class: (tensors, tensors that only its training needs)
CLASSES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "AutoEncoder": ((*LINEAR, "bias"), ()),
    "AutoEncoderNew": ((*LINEAR, "decoder.bias"), ()),
    "AutoEncoderTopK": ((*LINEAR, "b_dec"), ("k", "threshold")),
    "BatchTopKSAE": ((*LINEAR, "b_dec", "threshold"), ("k",)),
    "MatryoshkaBatchTopKSAE": ((*PLAIN, "threshold"), ("k", "group_sizes")),
    "JumpReluAutoEncoder": ((*PLAIN, "threshold"), ()),
    "GatedAutoEncoder": (
        ("encoder.weight", "gate_bias", "r_mag", "mag_bias", "decoder.weight", "decoder_bias"),
        (),
    ),
}
BATCH_TOPK = ("BatchTopKSAE", "MatryoshkaBatchTopKSAE")
NOT_SUBTRACTING = ("AutoEncoderNew", "JumpReluAutoEncoder")
# submodule names of its own, as against module paths
PLACES = {
    "resid_post": "resid_post",
    "resid_out": "resid_post",
    "resid_pre": "resid_pre",
    "resid_mid": "resid_mid",
    "mlp_out": "mlp_out",
    "attn_out": "attn_out",
    "attn_z": "attn_z",  # ours, where no path of a projection is known whose input they are
}


def read_dictionary_learning(folder: Path) -> tuple[SparseAutoencoder, dict[str, Any]]:
    """The SAE of a folder, in float32 on the CPU, and its metadata.

    A gated SAE becomes the JumpReLU that computes the same. A BatchTopK whose threshold was never
    set, as its training was shorter than the wait for it, is read as the TopK of its k: the program
    itself would keep every positive value. The metadata then has `UNSET_THRESHOLD`. Raises
    `NotFound`, `Damaged`, `Mismatch` or `Unsupported` (transcoders).
    """
    config = read_json(folder / CONFIG_FILE, PROGRAM)
    trainer, buffer = config.get("trainer"), config.get("buffer") or {}
    if not isinstance(trainer, dict) or not isinstance(buffer, dict):
        raise Damaged(f"{CONFIG_FILE} in {folder} does not describe a {PROGRAM} SAE.")
    name = str(trainer.get("dict_class") or "")
    if name not in CLASSES:
        raise Unsupported(
            f"SAEs of the class {name or 'unknown'!r} cannot be read; {', '.join(CLASSES)} can."
        )
    if buffer.get("io") == "in_and_out":
        raise Unsupported("This is a transcoder, which cannot be read yet.")
    state = read_state(folder / WEIGHTS_FILE)
    sae = _assemble(name, state, trainer)
    _check_sizes(sae, trainer)
    if sae.architecture != "topk":  # which selects by the latents as they are
        sae = fold_decoder_norms(sae)
    metadata = known(
        model_name=trainer.get("lm_name"),
        hook_name=hook_name(str(trainer.get("submodule_name") or ""), str(buffer.get("io") or "")),
        context_size=buffer.get("ctx_len"),
        training_architecture=name,
        group_sizes=_group_sizes(state, sae.n_latents),
        source_config=config,
    )
    if name in BATCH_TOPK and sae.architecture == "topk":
        metadata[UNSET_THRESHOLD] = True
    return sae.with_metadata(**metadata), metadata


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .pt file, without running any code that it may hold."""
    try:
        with reading(path), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about other protocols of pickle: read or refused
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise Unsupported(
            f"{path.name} in {path.parent} is damaged, or holds more than tensors: "
            "files that could run code are not read.",
            details=str(error),
        ) from None
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        raise Damaged(f"{path.name} in {path.parent} holds something else than named tensors.")
    return dict(state)


def hook_name(submodule: str, side: str) -> str:
    """Where a submodule is in the notation of our hooks; `side` is "out" or "in".

    `resid_post_layer_3` is the output of block 3; the input of a block is what the block before
    it puts out, which `resid_pre` says. That of another module has ".input" behind its path.
    """
    own = re.fullmatch(r"([a-z]+_[a-z]+)_layer_?(\d+)", submodule)
    block = re.fullmatch(r"(?:\w+\.)*(?:layers|h|blocks)\.(\d+)", submodule)
    if own is not None and own[1] in PLACES:
        layer, place = own[2], PLACES[own[1]]
    elif block is not None:
        if side != "in":
            return submodule
        layer, place = block[1], "resid_post"
    else:
        return f"{submodule}.input" if submodule and side == "in" else submodule
    if place == "attn_z":
        return f"blocks.{layer}.attn.hook_z"
    if side == "in":
        place = "resid_pre" if place.startswith("resid") else f"{place.removesuffix('_out')}_in"
    return f"blocks.{layer}.hook_{place}"


def _assemble(
    name: str, state: dict[str, torch.Tensor], trainer: Mapping[str, Any]
) -> SparseAutoencoder:
    needed, ignored = CLASSES[name]
    parts = dict(zip(needed, take(state, needed, WEIGHTS_FILE, ignored), strict=True))
    threshold = parts.get("threshold")
    keeps_k = name == "AutoEncoderTopK"
    if name in BATCH_TOPK:
        assert threshold is not None
        if threshold.numel() != 1:
            raise Damaged(f"The threshold in {WEIGHTS_FILE} is not one number, as {name} has it.")
        keeps_k = float(threshold) < 0
    subtracts = name not in NOT_SUBTRACTING
    if name == "GatedAutoEncoder":
        return _gated(parts)
    if "W_enc" in parts:
        weights = parts["W_enc"], parts["b_enc"], parts["W_dec"], parts["b_dec"]
    else:
        b_dec = next(parts[key] for key in ("b_dec", "bias", "decoder.bias") if key in parts)
        W_enc, W_dec = parts["encoder.weight"], parts["decoder.weight"]
        if W_enc.ndim != 2 or W_dec.ndim != 2:
            raise Mismatch(f"The weights in {WEIGHTS_FILE} are not matrices.")
        weights = W_enc.T, parts["encoder.bias"], W_dec.T, b_dec
    if keeps_k:
        k = _k_of(state, trainer)
        return assemble(*weights, "topk", subtracts_b_dec=subtracts, k=k)
    architecture = "standard" if threshold is None else "jumprelu"
    return assemble(*weights, architecture, subtracts_b_dec=subtracts, threshold=threshold)


def _gated(parts: Mapping[str, torch.Tensor]) -> SparseAutoencoder:
    if parts["encoder.weight"].ndim != 2 or parts["decoder.weight"].ndim != 2:
        raise Mismatch(f"The weights in {WEIGHTS_FILE} are not matrices.")
    vectors = [parts[key] for key in ("gate_bias", "r_mag", "mag_bias")]
    if any(vector.shape != parts["encoder.weight"].shape[:1] for vector in vectors):
        raise Mismatch(f"The biases in {WEIGHTS_FILE} do not fit its weights.")
    gated = GatedWeights(parts["encoder.weight"].T, *vectors)
    W_enc_DF, b_enc_F, threshold_F = gated_as_jumprelu(gated)
    return assemble(
        W_enc_DF,
        b_enc_F,
        parts["decoder.weight"].T,
        parts["decoder_bias"],
        "jumprelu",
        subtracts_b_dec=True,
        threshold=threshold_F,
    )


def _group_sizes(state: Mapping[str, torch.Tensor], latents: int) -> list[int]:
    """How many latents each group of a Matryoshka adds; [] of another."""
    sizes = [int(size) for size in state.get("group_sizes", torch.zeros(0)).reshape(-1)]
    if sizes and sum(sizes) != latents:
        raise Mismatch(f"group_sizes in {WEIGHTS_FILE} do not add up to {latents:,} latents.")
    return sizes


def _k_of(state: Mapping[str, torch.Tensor], trainer: Mapping[str, Any]) -> int:
    stored, said = state.get("k"), trainer.get("k")
    if stored is not None and stored.numel() != 1:
        raise Damaged(f"k in {WEIGHTS_FILE} is not one number.")
    k = said if stored is None else int(stored)
    if not isinstance(k, int) or isinstance(k, bool):
        raise Damaged(f"Neither {WEIGHTS_FILE} nor {CONFIG_FILE} says k.")
    if said is not None and said != k:
        raise Mismatch(f"k is {k} in {WEIGHTS_FILE} and {said} in {CONFIG_FILE}.")
    return k


def _check_sizes(sae: SparseAutoencoder, trainer: Mapping[str, Any]) -> None:
    sizes = {"activation_dim": sae.d_in, "dict_size": sae.n_latents}
    for key, size in sizes.items():
        if trainer.get(key) not in (None, size):
            raise Mismatch(
                f"{CONFIG_FILE} says {key} {trainer[key]}, the tensors in {WEIGHTS_FILE} "
                f"have {size}."
            )


def write_dictionary_learning(
    folder: Path, sae: SparseAutoencoder, metadata: Mapping[str, Any] | None = None
) -> None:
    """Create `folder` with the SAE; raises `InvalidInput`, `Unsupported`, `DiskFull`.

    ae.pt is a plain dictionary of tensors, so that it opens without running code. `metadata` may
    name `layer` and `hook`. What was a gated SAE becomes one again.
    """
    if sae.is_transcoder:
        raise Unsupported("dictionary_learning has no transcoders; SAELens can hold this one.")
    check_no_token_norm(sae, PROGRAM)
    told = {**sae.metadata, **(metadata or {})}
    name, state = state_of(sae, told.get("training_architecture"))
    with new_folder(folder) as temporary:
        write_text_json(temporary / CONFIG_FILE, config_of(sae, name, told))
        plain = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
        with (temporary / WEIGHTS_FILE).open("wb") as stream:
            torch.save(plain, stream)


def state_of(
    sae: SparseAutoencoder, trained_as: object = None
) -> tuple[str, dict[str, torch.Tensor]]:
    """The class that computes what the SAE does, and the tensors it loads.

    `trained_as` tells a gated SAE from other JumpReLUs.
    """
    if is_gated(sae, trained_as):
        gated = jumprelu_as_gated(sae, b_enc_with_subtraction(sae))
        return "GatedAutoEncoder", {
            "encoder.weight": gated.W_enc_DF.T,
            "gate_bias": gated.b_gate_F,
            "r_mag": gated.r_mag_F,
            "mag_bias": gated.b_mag_F,
            "decoder.weight": sae.W_dec_FO.T,
            "decoder_bias": sae.b_dec_O,
        }
    if sae.architecture == "jumprelu":
        assert sae.threshold_F is not None
        return "JumpReluAutoEncoder", {
            "W_enc": sae.W_enc_DF,
            "b_enc": b_enc_without_subtraction(sae),
            "W_dec": sae.W_dec_FO,
            "b_dec": sae.b_dec_O,
            "threshold": sae.threshold_F,
        }
    linear = {
        "encoder.weight": sae.W_enc_DF.T,
        "encoder.bias": sae.b_enc_F,
        "decoder.weight": sae.W_dec_FO.T,
    }
    if sae.architecture == "topk":
        own = {
            "encoder.bias": b_enc_with_subtraction(sae),
            "b_dec": sae.b_dec_O,
            "k": torch.tensor(sae.k, dtype=torch.int32),
            "threshold": torch.tensor(-1.0),
        }
        return "AutoEncoderTopK", {**linear, **own}
    if sae.architecture != "standard":
        holder = "sparsify" if sae.architecture in KEEPING_K else "SAELens"
        raise Unsupported(f"{PROGRAM} has no {sae.architecture} SAEs; {holder} can hold this one.")
    if sae.apply_b_dec_to_input:
        return "AutoEncoder", {**linear, "bias": sae.b_dec_O}
    return "AutoEncoderNew", {**linear, "decoder.bias": sae.b_dec_O}


def config_of(sae: SparseAutoencoder, name: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The content of config.json."""
    layer, hook = metadata.get("layer"), metadata.get("hook")
    submodule = str(metadata.get("hf_hook_name") or metadata.get("hook_name") or "")
    side = "in" if submodule.endswith(".input") else "out"
    if side == "in":
        submodule = submodule.removesuffix(".input")
    elif layer is not None and hook:
        submodule = f"{hook}_layer_{layer}"
    trainer = {
        "dict_class": name,
        "activation_dim": sae.d_in,
        "dict_size": sae.n_latents,
        "layer": layer,
        "lm_name": str(metadata.get("model_name") or ""),
        "submodule_name": submodule,
    }
    if sae.k is not None:
        trainer["k"] = sae.k
    buffer = {"d_submodule": sae.d_in, "io": side, "ctx_len": metadata.get("context_size")}
    return {"trainer": trainer, "buffer": buffer}
