"""The forward hook that steers: adds the delta at one module, and proves that it did."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from mistudio.core.errors import StudioError
from mistudio.ml.hooks import Place, listen
from mistudio.ml.steering.operators import Steering


class SteeringHook:
    """Edits a module's output while it is entered as a context; removed in every case.

    Before each forward pass `expect` says which rows and tokens may be steered; after it,
    `confirm` raises if the hook did not fire exactly once, so that text is never passed off as
    steered when it is not. An error inside the hook ends the pass.
    """

    def __init__(
        self,
        module: nn.Module,
        steering: Steering,
        norm_limit: float,
        read: Place | None = None,
    ) -> None:
        """Tokens with a norm above `norm_limit` (attention sinks) are not steered; inf: all are.

        `read` is where the SAE reads if that is not the module's output; it runs before it.
        """
        self._module = module
        self._read = read
        self._seen: torch.Tensor | None = None
        self._listening: RemovableHandle | None = None
        self._steering = steering
        self._norm_limit = norm_limit
        self._handle: Any = None
        self._allowed_BS: torch.Tensor | None = None
        self.forwards = 0
        self.firings = 0
        self.acted_BS: torch.Tensor | None = None  # tokens changed by the last pass
        self.ratio_BS: torch.Tensor | None = None  # their |delta| / |x|, 0 elsewhere

    def __enter__(self) -> SteeringHook:
        self._handle = self._module.register_forward_hook(self._edit)
        if self._read is not None:
            self._listening = listen(self._read, self._keep)
        return self

    def _keep(self, x: torch.Tensor) -> None:
        self._seen = x

    def __exit__(self, *exception: object) -> None:
        self._handle.remove()
        if self._listening is not None:
            self._listening.remove()

    def expect(self, allowed_BS: torch.Tensor) -> None:
        """Announce a forward pass and the tokens [B, S] it may steer."""
        self._allowed_BS = allowed_BS
        self.acted_BS = self.ratio_BS = None
        self.forwards += 1

    def confirm(self) -> None:
        """Raise `StudioError` unless the hook fired once for each announced pass."""
        if self.firings != self.forwards:
            raise StudioError(
                f"The steered layer ran {self.firings} times in {self.forwards} passes, so the "
                "text would not be steered as asked. This model cannot be steered here.",
                code="hook_count",
            )

    def _edit(self, _module: nn.Module, _inputs: Any, output: Any) -> Any:
        self.firings += 1
        x = output[0] if isinstance(output, (tuple, list)) else output
        edited = self._edited(x)
        if edited is x:
            return output
        if isinstance(output, (tuple, list)):
            return type(output)([edited, *output[1:]])
        return edited

    def _read_at(self, acting_T: torch.Tensor) -> torch.Tensor | None:
        """What the SAE reads at these tokens of the same pass; None if that is what is edited."""
        if self._read is None:
            return None
        seen, self._seen = self._seen, None
        if seen is None or seen.shape[:-1].numel() != acting_T.numel():
            raise StudioError(
                f"{self._read.path} was not read in the pass that is steered, so that the own "
                "activations of the features are unknown. This model cannot be steered here.",
                code="hook_count",
            )
        return seen.reshape(-1, seen.shape[-1])[acting_T]

    def _edited(self, x: torch.Tensor) -> torch.Tensor:
        """x [B, S, D] (or [B*S, D]) plus the delta on allowed tokens; x itself if none is."""
        allowed_BS = self._allowed_BS
        if allowed_BS is None or x.shape[:-1].numel() != allowed_BS.numel():
            raise StudioError(
                f"The steered layer gave {tuple(x.shape)} where tokens of shape "
                f"{None if allowed_BS is None else tuple(allowed_BS.shape)} were expected."
            )
        flat_TD = x.reshape(-1, x.shape[-1])
        norm_T = flat_TD.float().norm(dim=1)
        acting_T = allowed_BS.reshape(-1) & (norm_T <= self._norm_limit)
        self.acted_BS = torch.zeros_like(allowed_BS)
        self.ratio_BS = torch.zeros(allowed_BS.shape, device=x.device)
        if not self._steering.acts or not acting_T.any():
            return x
        delta_TD = torch.zeros_like(flat_TD, dtype=torch.float32)
        delta_TD[acting_T] = self._steering.delta(flat_TD[acting_T], self._read_at(acting_T))
        length_T = delta_TD.norm(dim=1)
        changed_T = length_T > 0
        self.acted_BS = changed_T.view_as(allowed_BS)
        self.ratio_BS = (length_T / norm_T.clamp_min(1e-30)).view_as(allowed_BS)
        edited_TD = torch.where(changed_T[:, None], flat_TD + delta_TD.to(x.dtype), flat_TD)
        return edited_TD.view_as(x)
