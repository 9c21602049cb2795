"""Optimisers with a global gradient clip folded in; non-finite gradients change nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch

from mistudio.core.errors import Mismatch
from mistudio.core.training_configs import TrainConfig
from mistudio.ml.training.eight_bit import EightBitAdam

BETAS = (0.9, 0.999)
EPS = 6.25e-10  # that of openai/sparse_autoencoder
MOMENTUM = 0.9  # of SGD
_KEYS = ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")


class ClippedOptimizer:
    """A fused optimiser over named parameters. The clip costs no pass of its own over gradients."""

    def __init__(
        self,
        parameters: Mapping[str, torch.Tensor],
        clip_norm: float,
        *,
        kind: str = "adam",
        weight_decay: float = 0.0,
        decayed: Collection[str] = (),
        eight_bit: bool = False,
    ) -> None:
        """`clip_norm` is the largest global gradient norm that is used as it is.

        Only the parameters named in `decayed` feel the weight decay. `eight_bit` keeps the moments
        of matrices in 8 bits.
        """
        self._parameters = dict(parameters)
        self._clip_norm = clip_norm
        rows = {n: p for n, p in self._parameters.items() if eight_bit and p.ndim == 2}
        self._small: EightBitAdam | None = None
        if rows:
            decays = {name: weight_decay if name in decayed else 0.0 for name in rows}
            self._small = EightBitAdam(rows, BETAS, EPS, decays, decoupled=kind == "adamw")
        self._whole = {n: p for n, p in self._parameters.items() if n not in rows}
        self._torch = self._fused(kind, weight_decay, decayed) if self._whole else None

    def _fused(
        self, kind: str, weight_decay: float, decayed: Collection[str]
    ) -> torch.optim.Optimizer:
        plain = [p for name, p in self._whole.items() if not (weight_decay and name in decayed)]
        pulled = [p for name, p in self._whole.items() if weight_decay and name in decayed]
        groups = [
            {"params": group, "weight_decay": decay}
            for group, decay in ((plain, 0.0), (pulled, weight_decay))
            if group
        ]
        if kind == "sgd":
            made = torch.optim.SGD(groups, lr=1.0, momentum=MOMENTUM, fused=True)
            for parameter in self._whole.values():
                # the first step would take over memory as it is, were it one to be skipped
                made.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            return made
        cls = torch.optim.AdamW if kind == "adamw" else torch.optim.Adam
        return cls(groups, lr=1.0, betas=BETAS, eps=EPS, fused=True)

    @torch.no_grad()
    def step(self, learning_rate: float) -> torch.Tensor:
        """Apply the parameters' `grad`; returns the norm before clipping, a 0-dim tensor."""
        grads = [p.grad for p in self._parameters.values() if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in grads]))
        scale = (norm / self._clip_norm).clamp_min(1.0).float()
        if self._torch is not None:
            for group in self._torch.param_groups:
                group["lr"] = learning_rate
            # the fused kernel divides by grad_scale and does nothing where found_inf is set
            self._torch.grad_scale = scale  # type: ignore[attr-defined]
            self._torch.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
            self._torch.step()
        if self._small is not None and bool(torch.isfinite(norm)):
            self._small.step(learning_rate, scale)
        return norm

    def state(self) -> dict[str, torch.Tensor]:
        """Moments and step count of each parameter, by name."""
        tensors: dict[str, torch.Tensor] = {}
        for name, parameter in self._whole.items():
            assert self._torch is not None
            for key, value in self._torch.state.get(parameter, {}).items():
                tensors[f"{name}.{key}"] = value
        return tensors | (self._small.state() if self._small else {})

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take back what `state` gave; raises `Mismatch` if shapes differ."""
        state: dict[torch.Tensor, dict[str, torch.Tensor]] = {}
        for name, parameter in self._whole.items():
            own = {
                key: tensors[f"{name}.{key}"].to(parameter.device, copy=True)
                for key in _KEYS
                if f"{name}.{key}" in tensors
            }
            if any(value.ndim and value.shape != parameter.shape for value in own.values()):
                raise Mismatch(f"The saved optimiser state of {name} has another shape.")
            if own:
                state[parameter] = own
        if self._torch is not None:
            self._torch.state.clear()
            self._torch.state.update(state)
        if self._small is not None:
            self._small.restore(tensors)


class ClippedAdam(ClippedOptimizer):
    """The optimiser of a training whose settings are the usual ones."""

    def __init__(self, parameters: Mapping[str, torch.Tensor], clip_norm: float) -> None:
        super().__init__(parameters, clip_norm)


def optimizer_of(
    config: TrainConfig, parameters: Mapping[str, torch.Tensor], clip_norm: float
) -> ClippedOptimizer:
    """The optimiser that a run's settings ask for."""
    # the projection that keeps decoder rows at unit length would undo what a decay does to them
    held = {"W_dec_FO"} if config.holds_unit_decoder else set[str]()
    return ClippedOptimizer(
        parameters,
        clip_norm,
        kind=config.optimizer,
        weight_decay=config.weight_decay,
        decayed=[name for name, p in parameters.items() if p.ndim == 2 and name not in held],
        eight_bit=config.eight_bit_moments and config.optimizer != "sgd",
    )
