"""Reads several hooks of a model in one forward pass that ends after the last of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from mistudio.core.errors import InvalidInput, OutOfMemory, StudioError, means_out_of_memory
from mistudio.ml.activations.capture import ADDED, check_between, check_sublayers
from mistudio.ml.hooks import first_input, first_tensor, hook_path, hook_place, listen
from mistudio.ml.loading import LoadedModel

Take = Callable[[int, torch.Tensor], None]


class HookPoint(NamedTuple):
    """A place in a model: a layer and one of `EXTRACTION_HOOKS`."""

    layer: int
    hook: str

    @property
    def name(self) -> str:
        """As folders and statistics call it, such as "L3.resid_post"."""
        return f"L{self.layer}.{self.hook}"


class _Reached(BaseException):
    """Every wanted hook has fired; nothing behind is wanted. No error, so not an Exception."""


class MultiCapture:
    """Activations of several hook points.

    Each is handed on as soon as it exists, so that only one is in memory at a time and the model
    cannot change it afterwards.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        points: Sequence[HookPoint],
        check: Callable[[], object] | None = None,
    ) -> None:
        """Finds the modules and probes them with one short forward pass.

        `check` is called before each block and sublayer and may raise. Raises `InvalidInput` for a
        place that does not exist, `StudioError` if a module does not run exactly once,
        `Unsupported` if a sublayer's output is not what the block adds.
        """
        if not points or len(set(points)) != len(points):
            raise InvalidInput("Choose at least one layer and hook, each once.")
        self.loaded = loaded
        self.points = list(points)
        self._check = check
        self._trunk: nn.Module = loaded.model.base_model
        self._places = [hook_place(loaded, *point) for point in points]
        self._paths = [place.path for place in self._places]
        self.widths = self._probe()

    @property
    def device(self) -> torch.device:
        """Where the activations are."""
        return self.loaded.device

    def run(self, ids_BS: torch.Tensor, take: Take) -> None:
        """Forward token ids [B, S]; `take(i, x_BSD)` gets each point's activations once.

        They are inference tensors on the model's device in its dtype, valid only inside `take`.
        Raises `OutOfMemory` if the device is too small (some points may have been taken), and
        `StudioError` if a hook did not fire.
        """
        shape = tuple(ids_BS.shape)
        seen = [False] * len(self.points)

        def keep(i: int, x: torch.Tensor) -> None:
            if seen[i]:
                raise _fired(self._paths[i], 2)
            seen[i] = True
            # Some families flatten rows and positions inside the block.
            take(i, x.view(*shape, -1) if x.ndim == 2 else x)
            if all(seen):
                raise _Reached

        handles = [self._listen(i, keep) for i in range(len(self.points))]
        handles += self._checks()
        try:
            with torch.inference_mode():
                self._trunk(input_ids=ids_BS.to(self.device), use_cache=False)
        except _Reached:
            return
        except (RuntimeError, MemoryError) as error:
            if not means_out_of_memory(error):
                raise
            raise OutOfMemory(
                f"A forward pass of {shape[0]} rows of {shape[1]} tokens does not fit into memory; "
                "use shorter rows or free memory.",
                details=str(error),
            ) from error
        finally:
            for handle in handles:
                handle.remove()
        silent = [path for path, fired in zip(self._paths, seen, strict=True) if not fired]
        raise StudioError(
            f"The hook {silent[0]} did not fire; this model cannot be read there.",
            code="hook_silent",
        )

    def _listen(self, i: int, keep: Callable[[int, torch.Tensor], None]) -> Any:
        return listen(self._places[i], lambda x: keep(i, x))

    def _checks(self) -> list[Any]:
        if self._check is None:
            return []
        check = self._check
        blocks = self.loaded.blocks
        modules = [m for m in (*blocks.modules, *blocks.mlp, *blocks.attention) if m is not None]

        def ask(_module: nn.Module, _inputs: Any) -> None:
            check()

        return [module.register_forward_pre_hook(ask) for module in modules]

    def _probe(self) -> list[int]:
        """Count firings in one whole pass over two tokens; returns the widths seen."""
        widths: list[list[int]] = [[] for _ in self.points]
        sublayers = [p for p in self.points if p.hook in ADDED]
        watched = {p.layer: _BlockWatch(self.loaded, p.layer) for p in sublayers}
        handles = [
            self._listen(i, lambda i, x: widths[i].append(x.shape[-1]))
            for i in range(len(self.points))
        ]
        handles += [handle for watch in watched.values() for handle in watch.handles]
        limit = self.loaded.facts.vocab_size
        ids_BS = torch.tensor([[min(2, limit - 1), min(3, limit - 1)]], device=self.device)
        try:
            with torch.inference_mode():
                self._trunk(input_ids=ids_BS, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        for path, found in zip(self._paths, widths, strict=True):
            if len(found) != 1:
                raise _fired(path, len(found))
        for point in sublayers:
            path = hook_path(self.loaded, *point)
            watched[point.layer].verify(path)
            if point.hook == "resid_mid":
                check_between(self.loaded, point.layer, path)
        return [found[0] for found in widths]


class _BlockWatch:
    """What goes into a block, what its sublayers give and what comes out."""

    def __init__(self, loaded: LoadedModel, layer: int) -> None:
        self._stream: list[torch.Tensor] = []
        self._added: list[torch.Tensor] = []
        block = loaded.blocks.modules[layer]

        def before(_module: nn.Module, inputs: Any, named: Any) -> None:
            self._stream.append(_flat(first_input(inputs, named)))

        self.handles = [
            block.register_forward_pre_hook(before, with_kwargs=True),
            block.register_forward_hook(self._note(self._stream)),
        ]
        for module in (loaded.blocks.mlp[layer], loaded.blocks.attention[layer]):
            if module is not None:
                self.handles.append(module.register_forward_hook(self._note(self._added)))

    @staticmethod
    def _note(into: list[torch.Tensor]) -> Any:
        def after(_module: nn.Module, _inputs: Any, output: Any) -> None:
            into.append(_flat(first_tensor(output)))

        return after

    def verify(self, path: str) -> None:
        """Raise `Unsupported` unless the sublayers add up."""
        check_sublayers(path, self._stream[0], self._added, self._stream[-1])


def _flat(x: torch.Tensor) -> torch.Tensor:
    """A copy as [T, D] in fp32."""
    return x.detach().flatten(0, -2).to(torch.float32, copy=True)


def _fired(path: str, times: int) -> StudioError:
    return StudioError(
        f"The hook {path} fired {times} times in one pass instead of once; this model cannot be "
        "read there.",
        code="hook_count",
    )
