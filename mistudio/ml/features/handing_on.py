"""Runs a model whose first blocks, or all of them, are told what to give instead of running.

The rest is the model's own code. With all blocks told, that rest is the final norm and the output
matrix, which can so be run on chosen positions only: on a CPU the output matrix is a large part of
a pass, and most comparisons need few of its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from mistudio.core.errors import Unsupported
from mistudio.ml.hooks import first_tensor
from mistudio.ml.loading import LoadedModel


class _Kind(NamedTuple):
    """How a block gives its output: the container and how many other things are in it."""

    container: type | None
    others: int
    flat: bool


class HandingOn:
    """Makes blocks of a model hand on a stream. `run` calls the model with named inputs."""

    def __init__(self, loaded: LoadedModel, run: Callable[..., Any]) -> None:
        """Raises `Unsupported` if the model does not run each of its blocks once a pass."""
        self._loaded, self._run = loaded, run
        self._kinds = self._learn_kinds()

    @contextmanager
    def stream(self, stream_RSD: torch.Tensor, blocks: int) -> Iterator[None]:
        """While active, the first `blocks` blocks give this stream untouched."""
        modules = self._loaded.blocks.modules[:blocks]
        held = [vars(block).get("forward") for block in modules]
        for block, kind in zip(modules, self._kinds, strict=False):
            vars(block)["forward"] = _hand_on(stream_RSD, kind)
        try:
            yield
        finally:
            for block, before in zip(modules, held, strict=True):
                if before is None:
                    del vars(block)["forward"]
                else:
                    vars(block)["forward"] = before

    @contextmanager
    def to_the_end(self, shape: torch.Size) -> Iterator[list[torch.Tensor]]:
        """While active, what the last block gives is caught as [*shape, D].

        The output matrix gets one position of each row only, so that it costs nothing.
        """
        found: list[torch.Tensor] = []
        blocks = self._loaded.blocks

        def keep(_module: Any, _inputs: Any, output: Any) -> None:
            found.append(first_tensor(output).clone().view(*shape, -1))

        def starve(_module: Any, inputs: Any) -> Any:
            return (inputs[0][..., :1, :], *inputs[1:])

        handles = [blocks.modules[-1].register_forward_hook(keep)]
        if blocks.unembedding is not None:
            handles.append(blocks.unembedding.register_forward_pre_hook(starve))
        try:
            yield found
        finally:
            for handle in handles:
                handle.remove()

    def logits(self, end_TD: torch.Tensor, longest: int) -> torch.Tensor:
        """Logits [T, V] of positions by what the last block gave there, in rows of <= `longest`."""
        count = len(end_TD)
        rows = max(1, -(-count // longest))
        length = -(-count // rows)
        which_N = torch.arange(rows * length, device=end_TD.device).clamp_max(count - 1)
        end_RQD = end_TD[which_N].view(rows, length, -1)
        ids_RQ = torch.zeros(rows, length, dtype=torch.long, device=self._loaded.device)
        with self.stream(end_RQD, len(self._loaded.blocks.modules)):
            return self._run(input_ids=ids_RQ, use_cache=False).logits.flatten(0, 1)[:count]

    def _learn_kinds(self) -> list[_Kind]:
        kinds: list[_Kind] = []

        def note(_module: Any, _inputs: Any, output: Any) -> None:
            several = isinstance(output, (tuple, list))
            first = output[0] if several else output
            container = type(output) if several else None
            kinds.append(_Kind(container, len(output) - 1 if several else 0, first.ndim == 2))

        blocks = self._loaded.blocks.modules
        handles = [block.register_forward_hook(note) for block in blocks]
        try:
            ids_BS = torch.zeros(1, 2, dtype=torch.long, device=self._loaded.device)
            self._run(input_ids=ids_BS, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        if len(kinds) != len(blocks):
            raise Unsupported(
                f"{len(kinds)} of {len(blocks)} blocks ran in one pass, so the rest of this model "
                "cannot be run on its own.",
                code="hook_rerun",
            )
        return kinds


def _hand_on(stream_RSD: torch.Tensor, kind: _Kind) -> Any:
    x = stream_RSD.flatten(0, 1) if kind.flat else stream_RSD

    def forward(*_inputs: Any, **_named: Any) -> Any:
        if kind.container is None:
            return x
        return kind.container((x, *(None,) * kind.others))

    return forward
