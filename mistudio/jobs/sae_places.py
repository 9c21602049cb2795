"""Where an SAE from elsewhere belongs: its model, block and hooks, as named or as its files say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from mistudio.core.configs import (
    HOOKS,
    MLP_NORMS,
    SAE_HOOKS,
    TRANSCODER_INPUTS,
    SaePlaceConfig,
)
from mistudio.core.errors import InvalidInput, Mismatch
from mistudio.jobs import lookup
from mistudio.jobs.runner import Studio
from mistudio.store.hook_width import hook_width
from mistudio.store.records import ModelRow
from mistudio.store.tables import MODELS

if TYPE_CHECKING:
    from mistudio.ml.sae.base import SparseAutoencoder

# the last part of a module path below a block, as transformers' families name it
SUBLAYERS = {
    "": "resid_post",
    "output": "resid_post",
    "input": "resid_pre",
    "mlp": "mlp_out",
    "self_attn": "attn_out",
    "attn": "attn_out",
    "attention": "attn_out",
    "mlp.input": "mlp_in",
    "pre_feedforward_layernorm": "mlp_in",
    "post_feedforward_layernorm": "mlp_out",
    **{f"{norm}.input": "resid_mid" for norm in MLP_NORMS},
    **{
        f"{attention}.{projection}.input": "attn_z"
        for attention in ("self_attn", "self_attention", "attn", "attn.attention", "attention")
        for projection in ("o_proj", "out_proj", "c_proj", "dense")
    },
}
# names in TransformerLens that stand for one of our hooks under another name, or for none of them
LENS_NAMES = {
    "mlp.in": "mlp_in",
    "mlp.out": "mlp_out",
    "attn.z": "attn_z",
    "mlp_in": "mlp_in (the stream before the norm)",
}
EMBEDDING = "hook_embed"  # what enters the first block, where no positions are added to it
BEFORE_GAIN = "ln2.normalized"


class Hooks(NamedTuple):
    """Where an SAE reads and, a transcoder, what it gives; None is not known."""

    layer: int | None
    read: str | None
    written: str | None


def model_for(
    studio: Studio, config: SaePlaceConfig, metadata: Mapping[str, Any]
) -> ModelRow | None:
    """The model that is named, or that of the library which the files name; None for none."""
    if config.model:
        return lookup.model(studio, config.model)
    wanted = str(metadata.get("model_name") or "")
    short = wanted.rsplit("/", 1)[-1]
    # of a model that was not downloaded nobody knows the owner
    for where, value in (
        ("name = ?", wanted),
        ("repo_id = ?", wanted),
        ("name = ? AND repo_id IS NULL", short),
    ):
        found = MODELS.select(studio.db(), f"{where} AND status = 'ready'", [value], limit=1)
        if found and wanted:
            return found[0]
    return None


def hooks_for(config: SaePlaceConfig, metadata: Mapping[str, Any], *, is_transcoder: bool) -> Hooks:
    """Layer and hooks: as given, as we wrote them, or read from the names of the hooks."""
    layer, hook = metadata.get("layer"), metadata.get("hook")
    if layer is None or hook is None:
        layer, hook = read_hook_name(str(metadata.get("hook_name") or ""))
    if config.layer >= 0:
        layer = config.layer
    hook = config.hook or hook
    known = TRANSCODER_INPUTS if is_transcoder else SAE_HOOKS
    if hook is not None and hook not in known:
        what = "transcoder" if is_transcoder else "SAE"
        raise InvalidInput(
            f"This {what} reads {hook!r}; supported are {', '.join(known)}. Name one with --hook."
        )
    if not is_transcoder:
        return Hooks(layer, hook, hook)
    layer_out, hook_out = layer, metadata.get("hook_out")
    if hook_out is None:
        layer_out, hook_out = read_hook_name(str(metadata.get("hook_name_out") or ""))
    hook_out = config.hook_out or hook_out
    if hook_out is not None and hook_out not in HOOKS:
        raise InvalidInput(
            f"This transcoder gives {hook_out!r}; supported are {', '.join(HOOKS)}. Name one with "
            "--hook-out."
        )
    if config.layer < 0 and None not in (layer, layer_out) and layer != layer_out:
        raise InvalidInput(
            f"This transcoder reads block {layer} and gives what block {layer_out} does; only "
            "transcoders inside one block can be used."
        )
    return Hooks(layer if layer is not None else layer_out, hook, hook_out)


def read_hook_name(name: str) -> tuple[int | None, str | None]:
    """Block and hook that a TransformerLens name or a module path stands for; None if unclear.

    `blocks.3.hook_resid_pre`, the input of block 3, is the output of block 2; only that of block 0
    is no other block's output.
    """
    if name == EMBEDDING:
        return 0, "resid_pre"
    lens = re.fullmatch(r"blocks\.(\d+)\.((?:\w+\.)*)hook_(\w+)", name)
    if lens is not None:
        layer, hook = int(lens[1]), lens[2] + lens[3]
        return _of_one_block(layer, LENS_NAMES.get(hook, hook))
    module = re.fullmatch(
        r"(?:\w+\.)+(\d+)(?:\.(\w+(?:(?:\.\w+){0,2}\.input)?))?(?:\.output)?", name
    )
    if module is None:
        return None, None
    return _of_one_block(int(module[1]), SUBLAYERS.get(module[2] or ""))


def _of_one_block(layer: int, hook: str | None) -> tuple[int, str | None]:
    return (layer - 1, "resid_post") if hook == "resid_pre" and layer else (layer, hook)


def reads_before_gain(metadata: Mapping[str, Any]) -> bool:
    """Whether it reads the norm before the MLP without its gain, which no hook of ours is."""
    if metadata.get("hook") is not None:
        return False
    return read_hook_name(str(metadata.get("hook_name") or ""))[1] == BEFORE_GAIN


def check_fits(
    sae: SparseAutoencoder, model: ModelRow | None, layer: int | None, hook: str | None
) -> None:
    """Raise `Mismatch` for an SAE of another width than the model's at `hook`, or of no block.

    What a transcoder gives is as wide as the stream.
    """
    if model is None:
        return
    for expects, read in ((sae.d_in, hook), (sae.d_out, None if sae.is_transcoder else hook)):
        width = hook_width(model, read)
        if width not in (None, expects):
            raise Mismatch(f"This SAE expects width {expects:,}, the model has {width:,}.")
    if layer is not None and model.num_layers is not None and layer >= model.num_layers:
        raise Mismatch(f"This SAE reads block {layer}; the model has {model.num_layers}.")
