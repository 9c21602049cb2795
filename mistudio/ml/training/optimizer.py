"""Adam with a global gradient clip folded in; a step on non-finite gradients changes nothing."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from mistudio.core.errors import Mismatch

BETAS = (0.9, 0.999)
EPS = 6.25e-10  # that of openai/sparse_autoencoder


class ClippedAdam:
    """Fused Adam over named parameters. The clip costs no pass of its own over the gradients."""

    def __init__(self, parameters: Mapping[str, torch.Tensor], clip_norm: float) -> None:
        """`clip_norm` is the largest global gradient norm that is used as it is."""
        self._parameters = dict(parameters)
        self._clip_norm = clip_norm
        self._adam = torch.optim.Adam(
            list(self._parameters.values()), lr=1.0, betas=BETAS, eps=EPS, fused=True
        )

    @torch.no_grad()
    def step(self, learning_rate: float) -> torch.Tensor:
        """Apply the parameters' `grad`; returns the norm before clipping, a 0-dim tensor."""
        grads = [p.grad for p in self._parameters.values() if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in grads]))
        self._adam.param_groups[0]["lr"] = learning_rate
        # the fused kernel divides by grad_scale and does nothing where found_inf is set
        self._adam.grad_scale = (norm / self._clip_norm).clamp_min(1.0).float()  # type: ignore[attr-defined]
        self._adam.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
        self._adam.step()
        return norm

    def state(self) -> dict[str, torch.Tensor]:
        """Both moments and the step count of each parameter, by name."""
        tensors: dict[str, torch.Tensor] = {}
        for name, parameter in self._parameters.items():
            for key, value in self._adam.state.get(parameter, {}).items():
                tensors[f"{name}.{key}"] = value
        return tensors

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take back what `state` gave; raises `Mismatch` if shapes differ."""
        state: dict[torch.Tensor, dict[str, torch.Tensor]] = {}
        for name, parameter in self._parameters.items():
            own = {
                key: tensors[f"{name}.{key}"].to(parameter.device, copy=True)
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{name}.{key}" in tensors
            }
            if own and own["exp_avg"].shape != parameter.shape:
                raise Mismatch(f"The saved optimiser state of {name} has another shape.")
            if own:
                state[parameter] = own
        self._adam.state.clear()
        self._adam.state.update(state)
