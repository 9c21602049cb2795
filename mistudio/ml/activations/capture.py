"""Reads one hook of a model with a forward pass that ends right after the hooked module."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mistudio.core.errors import (
    InvalidInput,
    OutOfMemory,
    StudioError,
    Unsupported,
    means_out_of_memory,
)
from mistudio.ml.hooks import edit, first_input, first_tensor, hook_place, listen, tl_name
from mistudio.ml.loading import LoadedModel

ADDED = ("mlp_out", "attn_out", "resid_mid")
"""hooks that need the block to add what its sublayers give to what it reads"""


class _Reached(BaseException):
    """The hooked module has run; nothing behind it is wanted. No error, so not an Exception."""


class Capture:
    """Activations of one hook point: call it with token ids.

    Neither the blocks behind the hook nor the final norm and the unembedding are computed, and no
    key-value cache is kept. Rows need no attention mask: attention is causal, so padding at a
    row's end cannot reach the tokens before it.
    """

    def __init__(self, loaded: LoadedModel, layer: int, hook: str) -> None:
        """Finds the module and probes it with one short forward pass.

        Raises `InvalidInput` for a layer or hook that does not exist, `StudioError` if the module
        does not run exactly once, `Unsupported` if a sublayer's output is not what the block adds.
        """
        self.loaded = loaded
        self.layer = layer
        self.hook = hook
        self.place = hook_place(loaded, layer, hook)
        self.path, self.module = self.place.path, self.place.module
        self.tl_name = tl_name(layer, hook)
        self._trunk: nn.Module = loaded.model.base_model
        self.d = self._probe()

    @property
    def device(self) -> torch.device:
        """Where ids must be and activations are."""
        return self.loaded.device

    def __call__(self, ids_BS: torch.Tensor) -> torch.Tensor:
        """Activations x_BSD for token ids [B, S], on the model's device and in its dtype.

        The result is an inference tensor: copy it before using it in autograd. Raises
        `StudioError` if the hook did not fire and `OutOfMemory` if the device is too small.
        """
        caught: list[torch.Tensor] = []

        def keep(x: torch.Tensor) -> None:
            caught.append(x)
            raise _Reached

        handle = listen(self.place, keep)
        try:
            with torch.inference_mode():
                self._trunk(input_ids=ids_BS.to(self.loaded.device), use_cache=False)
        except _Reached:
            pass
        except (RuntimeError, MemoryError) as error:
            if not means_out_of_memory(error):
                raise
            raise OutOfMemory(
                f"A forward pass of {ids_BS.shape[0]} rows of {ids_BS.shape[1]} tokens does not "
                "fit into memory; use shorter rows or free memory.",
                details=str(error),
            ) from error
        finally:
            handle.remove()
        if len(caught) != 1:
            raise StudioError(
                f"The hook {self.path} did not fire; this model cannot be read there.",
                code="hook_silent",
            )
        # Some families flatten rows and positions inside the block.
        return caught[0].view(*ids_BS.shape, -1) if caught[0].ndim == 2 else caught[0]

    def _probe(self) -> int:
        """Count firings in one whole pass over two tokens; returns the width seen."""
        blocks = self.loaded.blocks
        outputs: list[torch.Tensor] = []
        stream: list[torch.Tensor] = []
        added: list[torch.Tensor] = []

        def note(into: list[torch.Tensor]) -> Any:
            def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
                into.append(first_tensor(output).detach().flatten(0, -2).float())

            return keep

        def keep_input(_module: nn.Module, inputs: Any, named: Any) -> None:
            stream.append(first_input(inputs, named).detach().flatten(0, -2).float())

        block, is_sublayer = blocks.modules[self.layer], self.hook in ADDED
        handles = [
            listen(self.place, outputs.append),
            block.register_forward_pre_hook(keep_input, with_kwargs=True),
            block.register_forward_hook(note(stream)),
        ]
        for module in (blocks.mlp[self.layer], blocks.attention[self.layer]):
            if module is not None and is_sublayer:
                handles.append(module.register_forward_hook(note(added)))
        limit = self.loaded.facts.vocab_size
        ids_BS = torch.tensor([[min(2, limit - 1), min(3, limit - 1)]], device=self.loaded.device)
        try:
            with torch.inference_mode():
                self._trunk(input_ids=ids_BS, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        if len(outputs) != 1:
            raise StudioError(
                f"The hook {self.path} fired {len(outputs)} times in one pass instead of once; "
                "this model cannot be read there.",
                code="hook_count",
            )
        if is_sublayer:
            check_sublayers(self.path, stream[0], added, stream[1])
        if self.hook == "resid_mid":
            check_between(self.loaded, self.layer, self.path)
        return outputs[0].shape[-1]


def check_sublayers(
    path: str, before_TD: torch.Tensor, added: list[torch.Tensor], after_TD: torch.Tensor
) -> None:
    """Raise `Unsupported` unless block input plus both sublayers [T, D] is the block's output."""
    fits = len(added) == 2 and all(out_TD.shape == before_TD.shape for out_TD in added)
    if fits:
        gap = (before_TD + added[0] + added[1] - after_TD).norm()
        fits = bool(gap <= 0.03 * (after_TD - before_TD).norm() + 0.01 * after_TD.norm())
    if not fits:
        raise Unsupported(
            f"In this model the output of {path} is not what the block adds to its input; use the "
            "hook resid_post.",
            code="hook_not_additive",
        )


@torch.inference_mode()
def check_between(loaded: LoadedModel, layer: int, path: str) -> None:
    """Raise `Unsupported` unless the MLP of a block reads what its attention has added."""
    limit = loaded.facts.vocab_size
    ids_BS = torch.tensor([[min(2, limit - 1), min(3, limit - 1)]], device=loaded.device)
    read: list[torch.Tensor] = []
    for factor in (1.0, 2.0):
        handles = [
            edit(hook_place(loaded, layer, "attn_out"), lambda x, factor=factor: x * factor),
            listen(hook_place(loaded, layer, "mlp_in"), lambda x: read.append(x.clone())),
        ]
        try:
            loaded.model.base_model(input_ids=ids_BS, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
    if torch.equal(read[0], read[1]):
        raise Unsupported(
            f"In this model attention and MLP read the stream at once, so that there is no {path} "
            "between them; use the hook resid_post.",
            code="hook_parallel",
        )


def check_ids(ids_BS: torch.Tensor, vocab_size: int) -> None:
    """Raise `InvalidInput` unless every id [B, S] is one of a vocabulary of that size."""
    if ids_BS.ndim != 2:
        raise InvalidInput("Token ids must form rows: a tensor with two axes.")
    if ids_BS.numel() and (int(ids_BS.min()) < 0 or int(ids_BS.max()) >= vocab_size):
        raise InvalidInput(
            f"The tokens do not belong to this model: ids reach {int(ids_BS.max()):,}, its "
            f"vocabulary has {vocab_size:,}."
        )
