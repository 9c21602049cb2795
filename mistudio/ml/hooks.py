"""Names and modules of the hook points.

Block output and input, MLP output and input, attention output, the heads before they are led back
to the stream (attn_z), and the stream between attention and MLP (resid_mid).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from mistudio.core.configs import SAE_HOOKS
from mistudio.core.errors import InvalidInput
from mistudio.ml import architecture
from mistudio.ml.loading import LoadedModel

INPUT = ".input"


class Removable(Protocol):
    """What ends a hook."""

    def remove(self) -> None:
        """End it."""


class Place(NamedTuple):
    """Where a hook is: the path of its module, with `INPUT` behind it if that is what is read.

    With a `block`, it is the stream behind `module`, whose output the block adds to what it reads:
    no module reads that alone, for it goes on beside the norm that reads it. A change of it is
    made to what `module` gives.
    """

    path: str
    module: nn.Module
    reads_input: bool
    block: nn.Module | None = None


def hook_place(loaded: LoadedModel, layer: int, hook: str) -> Place:
    """The place of any hook.

    Raises `InvalidInput` naming what exists if the layer or the hook does not.
    """
    if hook == "resid_mid":
        _, module = _find(loaded, layer, "attn_out")
        mlp_reader(loaded, layer)  # says so where there is none
        path = f"{architecture.reader_between(loaded.blocks, layer)}{INPUT}"
        return Place(path, module, False, block(loaded, layer)[1])
    if hook in _INPUTS:
        path, module = _INPUTS[hook](loaded, layer)
        return Place(f"{path}{INPUT}", module, True)
    path, module = _find(loaded, layer, hook)
    return Place(path, module, False)


def first_input(inputs: Any, named: Any) -> torch.Tensor:
    """What a module reads, given as its first argument or by name."""
    return inputs[0] if inputs else named["hidden_states"]


def first_tensor(output: Any) -> torch.Tensor:
    """A module's output, or its element 0 if the module returns several things."""
    return output[0] if isinstance(output, (tuple, list)) else output


def listen(place: Place, keep: Callable[[torch.Tensor], None]) -> Removable:
    """Hand what a place sees to `keep` in every forward pass, until the handle is removed."""
    if place.block is not None:

        def seen(x: torch.Tensor) -> torch.Tensor:
            keep(x)
            return x

        return _between(place, seen)
    if place.reads_input:

        def before(_module: nn.Module, inputs: Any, named: Any) -> None:
            keep(first_input(inputs, named))

        return place.module.register_forward_pre_hook(before, with_kwargs=True)

    def after(_module: nn.Module, _inputs: Any, output: Any) -> None:
        keep(first_tensor(output))

    return place.module.register_forward_hook(after)


def edit(place: Place, change: Callable[[torch.Tensor], torch.Tensor]) -> Removable:
    """Put `change(x)` in place of what a place sees in every forward pass, until the handle is
    removed. Where it gives x itself, nothing is touched."""
    if place.block is not None:
        return _between(place, change)
    if place.reads_input:

        def before(_module: nn.Module, inputs: Any, named: Any) -> Any:
            x = first_input(inputs, named)
            changed = change(x)
            if changed is x:
                return None
            if inputs:
                return (changed, *inputs[1:]), named
            return inputs, {**named, "hidden_states": changed}

        return place.module.register_forward_pre_hook(before, with_kwargs=True)

    def after(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        x = first_tensor(output)
        changed = change(x)
        return None if changed is x else _with_first(output, changed)

    return place.module.register_forward_hook(after)


class _Handles:
    """Several hooks that are removed together."""

    def __init__(self, *handles: RemovableHandle) -> None:
        self._handles = handles

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


def _between(place: Place, change: Callable[[torch.Tensor], torch.Tensor]) -> _Handles:
    """`edit` of the stream behind a sublayer."""
    assert place.block is not None
    entered: list[torch.Tensor] = []

    def before(_module: nn.Module, inputs: Any, named: Any) -> None:
        entered[:] = [first_input(inputs, named)]

    def after(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        added = first_tensor(output)
        x = entered.pop().view_as(added) + added
        changed = change(x)
        return None if changed is x else _with_first(output, added + (changed - x))

    return _Handles(
        place.block.register_forward_pre_hook(before, with_kwargs=True),
        place.module.register_forward_hook(after),
    )


def _with_first(output: Any, first: torch.Tensor) -> Any:
    """A module's output with another tensor in place of `first_tensor`."""
    if isinstance(output, (tuple, list)):
        return type(output)((first, *output[1:]))
    return first


def place_metadata(
    loaded: LoadedModel, layer: int, hook_in: str, hook_out: str | None = None
) -> dict[str, Any]:
    """How the files of an SAE say where it reads and, a transcoder, what it gives (`hook_out`)."""
    paths = {hook: hook_place(loaded, layer, hook).path for hook in (hook_in, hook_out) if hook}
    return named_place(layer, hook_in, hook_out, paths)


def named_place(
    layer: int, hook_in: str, hook_out: str | None, paths: Mapping[str, str]
) -> dict[str, Any]:
    """As `place_metadata`, by the paths of the hooks' places, as far as they are known.

    A path is one inside the Hugging Face model, which is not changed for reading it. Without one
    `hook_name` is TransformerLens's.
    """
    told: dict[str, Any] = {
        **_names(layer, hook_in, paths.get(hook_in)),
        "layer": layer,
        "hook": hook_in,
        "tl_processing": "none",
    }
    if hook_out is not None:
        names = _names(layer, hook_out, paths.get(hook_out))
        told |= {f"{name}_out": value for name, value in names.items()}
        told |= {"hook_out": hook_out, "hook_head_index_out": None}
    return told


def _names(layer: int, hook: str, path: str | None) -> dict[str, str]:
    lens = tl_name(layer, hook)
    own = {"hook_name": lens} if path is None else {"hook_name": path, "hf_hook_name": path}
    return {**own, "tl_hook_name": lens}


def reads_input(hook: str) -> bool:
    """Whether a hook is what its module reads, so that `INPUT` stands behind the path."""
    return hook in _INPUTS or hook == "resid_mid"


def hook_path(loaded: LoadedModel, layer: int, hook: str) -> str:
    """The place's path inside the Hugging Face model, such as "model.layers.3.mlp"."""
    return hook_place(loaded, layer, hook).path


def mlp_reader(loaded: LoadedModel, layer: int) -> tuple[str, nn.Module]:
    """Path and module of a block's MLP, whose input is the hook mlp_in.

    That is the MLP itself even where a norm follows it. Raises as `hook_place`.
    """
    _check_layer(loaded, layer)
    found = architecture.mlp_reader(loaded.blocks, layer)
    if found is None:
        raise InvalidInput(f"Layer {layer} of {loaded.facts.name} has no MLP to hook.")
    return found


def attention_projection(loaded: LoadedModel, layer: int) -> tuple[str, nn.Module]:
    """Path and module of the attention's output projection, whose input is the hook attn_z.

    Raises as `hook_place`.
    """
    _check_layer(loaded, layer)
    found = architecture.attention_projection(loaded.blocks, layer)
    if found is None:
        raise InvalidInput(
            f"Layer {layer} of {loaded.facts.name} has no attention whose heads can be hooked."
        )
    return found


def heads_width(loaded: LoadedModel, layer: int) -> int:
    """Numbers per token at attn_z: all heads together. Raises as `hook_place`."""
    module: Any = attention_projection(loaded, layer)[1]
    known = getattr(module, "in_features", None)
    return int(known if known is not None else module.weight.shape[0])  # Conv1D


def block(loaded: LoadedModel, layer: int) -> tuple[str, nn.Module]:
    """Path and module of a block, whose input is the hook resid_pre. Raises as `hook_place`."""
    _check_layer(loaded, layer)
    return f"{loaded.blocks.path}.{layer}", loaded.blocks.modules[layer]


_INPUTS = {"mlp_in": mlp_reader, "attn_z": attention_projection, "resid_pre": block}
"""hooks that are a module's input, with what finds the module"""


def tl_name(layer: int, hook: str) -> str:
    """The hook's name in TransformerLens, such as "blocks.3.hook_resid_post".

    mlp_in is hook_in of its bridged MLPs: hook_mlp_in stands for the stream before the norm, and
    ln2.hook_normalized for what the norm gives before its gain.
    """
    if hook == "mlp_in":
        return f"blocks.{layer}.mlp.hook_in"
    if hook == "attn_z":
        return f"blocks.{layer}.attn.hook_z"
    _check_hook(hook)
    return f"blocks.{layer}.hook_{hook}"


def _check_hook(hook: str) -> None:
    if hook not in SAE_HOOKS:
        raise InvalidInput(f"There is no hook {hook!r}; choose one of {', '.join(SAE_HOOKS)}.")


def _check_layer(loaded: LoadedModel, layer: int) -> None:
    count = len(loaded.blocks)
    if not 0 <= layer < count:
        raise InvalidInput(
            f"There is no layer {layer}; {loaded.facts.name} has layers 0 to {count - 1}."
        )


def _find(loaded: LoadedModel, layer: int, hook: str) -> tuple[str, nn.Module]:
    _check_hook(hook)
    _check_layer(loaded, layer)
    blocks = loaded.blocks
    if hook == "resid_post":
        return block(loaded, layer)
    modules = blocks.mlp if hook == "mlp_out" else blocks.attention
    paths = blocks.mlp_path if hook == "mlp_out" else blocks.attention_path
    module = modules[layer]
    if module is None:
        what = "MLP" if hook == "mlp_out" else "attention"
        raise InvalidInput(f"Layer {layer} of {loaded.facts.name} has no {what} to hook.")
    return paths[layer], module
