"""Reads what a transcoder reads and what it is to give, in one forward pass."""

from __future__ import annotations

import torch

from mistudio.ml.activations.capture import Capture
from mistudio.ml.activations.multi_capture import HookPoint, MultiCapture
from mistudio.ml.hooks import Place, hook_place, tl_name
from mistudio.ml.loading import LoadedModel


class PairCapture:
    """Activations of two hooks of one block; of one hook, if both are the same.

    Call it with token ids. The pass ends after the later of the two.
    """

    def __init__(self, loaded: LoadedModel, layer: int, hook_in: str, hook_out: str) -> None:
        """Finds the modules and probes them; raises as `Capture` and `MultiCapture`."""
        self.loaded = loaded
        self.read: Place = hook_place(loaded, layer, hook_in)
        self.written: Place = hook_place(loaded, layer, hook_out)
        self._one: Capture | None = None
        self._both: MultiCapture | None = None
        if hook_in == hook_out:
            self._one = Capture(loaded, layer, hook_in)
            self.d_in = self.d_out = self._one.d
            self.tl_name = tl_name(layer, hook_in)
        else:
            points = [HookPoint(layer, hook_in), HookPoint(layer, hook_out)]
            self._both = MultiCapture(loaded, points)
            self.d_in, self.d_out = self._both.widths
            self.tl_name = f"{tl_name(layer, hook_in)} → {tl_name(layer, hook_out)}"

    @property
    def device(self) -> torch.device:
        """Where ids must be and activations are."""
        return self.loaded.device

    @property
    def path(self) -> str:
        """The place that is read."""
        return self.read.path

    @property
    def is_pair(self) -> bool:
        """Whether there are two hooks."""
        return self._both is not None

    def __call__(self, ids_BS: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x [B, S, d_in] and y [B, S, d_out] for token ids [B, S], in the model's dtype.

        Both are inference tensors, and the same one if there is one hook. Raises as `Capture`.
        """
        if self._one is not None:
            x_BSD = self._one(ids_BS)
            return x_BSD, x_BSD
        assert self._both is not None
        found: dict[int, torch.Tensor] = {}

        def take(i: int, x_BSD: torch.Tensor) -> None:
            found[i] = x_BSD.clone()  # the model may change its own before the pass ends

        self._both.run(ids_BS, take)
        return found[0], found[1]
