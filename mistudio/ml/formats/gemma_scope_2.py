"""Gemma Scope 2: `params.safetensors` and, mostly, `config.json`; read only.

The config's hf_ names say where the SAE reads. Without a config the names of the folders do, as
the published repositories have them: gemma-scope-2-1b-pt/resid_post/layer_12_width_16k_l0_small.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mistudio.core.errors import Unsupported
from mistudio.ml.formats.foreign import assemble, known, optional_json, take
from mistudio.ml.formats.tensors import load_tensors
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.sae.fold import fold_decoder_norms

PROGRAM = "Gemma Scope 2"
WEIGHTS_FILE = "params.safetensors"
CONFIG_FILE = "config.json"
TENSORS = ("w_enc", "b_enc", "w_dec", "b_dec", "threshold")
# what follows the block's number in an hf_ name
HOOKS = {
    "output": "hook_resid_post",
    "input": "hook_resid_pre",
    "pre_feedforward_layernorm.output": "mlp.hook_in",
    "post_feedforward_layernorm.output": "hook_mlp_out",
    "post_attention_layernorm.output": "hook_attn_out",
    "self_attn.o_proj.input": "attn.hook_z",
}
FOLDERS = {
    "resid_post": "hook_resid_post",
    "mlp_out": "hook_mlp_out",
    "attn_out": "attn.hook_z",
    "transcoder": "mlp.hook_in",
}
SKIP = "affine_skip_connection"  # [d_in, d_out]


def read_gemma_scope_2(folder: Path) -> tuple[SparseAutoencoder, dict[str, Any]]:
    """The SAE of a folder, in float32 on the CPU, and its metadata.

    b_dec is not subtracted from the input. Raises `NotFound`, `Damaged`, `Mismatch`, or
    `Unsupported` for crosscoders and other architectures than jump_relu. Transcoders across layers
    are read by `gemma_scope_2_clt`, as their files are called otherwise.
    """
    config = optional_json(folder / CONFIG_FILE, PROGRAM)
    _refuse_others(folder, config)
    tensors = load_tensors(folder / WEIGHTS_FILE)
    needed = (*TENSORS, SKIP) if config.get("affine_connection") or SKIP in tensors else TENSORS
    parts = take(tensors, needed, WEIGHTS_FILE)
    read = str(config.get("hf_hook_point_in") or "")
    written = str(config.get("hf_hook_point_out") or "")
    is_transcoder = len(parts) > 5 or (written != read if read and written else _by_folder(folder))
    sae = of_tensors(parts, is_transcoder=is_transcoder)
    place_out = hook_name(written, folder, "hook_mlp_out") if is_transcoder else ""
    metadata = known(
        model_name=model_name(str(config.get("model_name") or "") or repository(folder)),
        hook_name=hook_name(read, folder),
        hook_name_out=place_out,
        hf_hook_name=config.get("hf_hook_point_in"),
        hf_hook_name_out=written if is_transcoder else None,
        training_architecture="jump_relu",
        source_config=config,
    )
    return sae.with_metadata(**metadata), metadata


def of_tensors(parts: Sequence[torch.Tensor], *, is_transcoder: bool) -> SparseAutoencoder:
    """The SAE of the tensors `TENSORS`, and `SKIP` behind them if there is one, with unit rows."""
    w_enc_DF, b_enc_F, w_dec_FO, b_dec_O, threshold_F, *skip = parts
    return fold_decoder_norms(
        assemble(
            w_enc_DF,
            b_enc_F,
            w_dec_FO,
            b_dec_O,
            "jumprelu",
            subtracts_b_dec=False,
            threshold=threshold_F,
            encoder="transcoder" if is_transcoder else "sae",
            W_skip_OD=skip[0].T if skip else None,
        )
    )


def _refuse_others(folder: Path, config: Mapping[str, Any]) -> None:
    architecture = config.get("architecture", "jump_relu")
    if architecture != "jump_relu":
        raise Unsupported(f"SAEs of architecture {architecture!r} cannot be read.")
    read, written = config.get("hf_hook_point_in"), config.get("hf_hook_point_out")
    if isinstance(read, list) or isinstance(written, list):
        raise Unsupported("Crosscoders cannot be read yet.")
    if not read and any(part.lower().startswith("crosscoder") for part in folder.resolve().parts):
        raise Unsupported("This lies in a folder of crosscoders, which cannot be read yet.")


def _by_folder(folder: Path) -> bool:
    kinds = ("transcoder", "clt")
    return any(part.lower().startswith(kinds) for part in folder.resolve().parts)


def hook_name(hf_name: str, folder: Path, site: str = "") -> str:
    """The place in the notation of our hooks: as the config says, else as the folders do.

    `site` is the hook to name where the config does not; empty takes that of the folder.
    """
    if hf_name:
        found = re.fullmatch(r"(?:\w+\.)+layers\.(\d+)\.([\w.]+)", hf_name)
        if found is None:
            return hf_name
        return f"blocks.{found[1]}.{HOOKS.get(found[2], f'hook_{found[2]}')}"
    above, own = folder.resolve().parent.name, folder.resolve().name
    layer = re.match(r"layer_(\d+)(?:_|$)", own)
    site = site or next((hook for name, hook in FOLDERS.items() if above.startswith(name)), "")
    return f"blocks.{layer[1]}.{site}" if layer and site else ""


def model_name(name: str) -> str:
    """The repository of the model; the 270m model's has no -pt."""
    if not name:
        return ""
    plain = name.removeprefix("google/").replace("-v3", "-3")
    if "270m" in plain:
        plain = plain.removesuffix("-pt")
    return f"google/{plain}"


def repository(folder: Path) -> str:
    """The model that the folders of the published repositories name, or ""."""
    names = [
        re.search(r"gemma-scope-2-([\w.]+-(?:pt|it))$", part) for part in folder.resolve().parts
    ]
    return next((f"gemma-3-{name[1]}" for name in names if name), "")
