"""Adam whose moments take one byte per weight each, with one scale per row of a matrix.

A moment is kept as a fraction of its row's largest, on levels that are denser near 0: squares for
the mean, fourth powers for the mean square. Between two levels the choice is by a random number,
so that small changes are kept on average; a moment rounded to the nearest level would never move.
The random numbers follow from the step, so a resumed run takes the same ones on every device.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from mistudio.core.errors import Mismatch

_CHUNK = 1 << 18  # weights worked on at a time on a processor: they stay in its cache
_CHUNK_GPU = 1 << 24
_MEAN_LEVELS, _SQUARE_LEVELS = 127, 255
_KEYS = ("mean", "mean_scale", "square", "square_scale")


class EightBitAdam:
    """Adam or AdamW over named matrices [rows, columns]."""

    def __init__(
        self,
        parameters: Mapping[str, torch.Tensor],
        betas: tuple[float, float],
        eps: float,
        weight_decay: Mapping[str, float],
        *,
        decoupled: bool = False,
    ) -> None:
        """`weight_decay` by name; `decoupled` applies it to the weights, not to the gradient."""
        self._parameters = dict(parameters)
        self._betas, self._eps = betas, eps
        self._decay, self._decoupled = dict(weight_decay), decoupled
        self._count = 0
        self._moments = {name: _zeros(p) for name, p in self._parameters.items()}

    @torch.no_grad()
    def step(self, learning_rate: float, grad_scale: torch.Tensor) -> None:
        """Apply the parameters' finite `grad`, divided by `grad_scale`."""
        self._count += 1
        for number, (name, parameter) in enumerate(self._parameters.items()):
            if parameter.grad is None:
                continue
            dither_2D = self._dither(number, parameter)
            chunk = _CHUNK if parameter.device.type == "cpu" else _CHUNK_GPU
            size = max(1, chunk // parameter.shape[1])
            for start in range(0, parameter.shape[0], size):
                at = slice(start, start + size)
                own = {key: value[at] for key, value in self._moments[name].items()}
                grad_RD = parameter.grad[at] / grad_scale
                self._rows(parameter[at], grad_RD, own, dither_2D, learning_rate, self._decay[name])

    def _rows(
        self,
        weight_RD: torch.Tensor,
        grad_RD: torch.Tensor,
        own: Mapping[str, torch.Tensor],
        dither_2D: torch.Tensor,
        learning_rate: float,
        decay: float,
    ) -> None:
        """Update some rows and their moments in place."""
        if decay and self._decoupled:
            weight_RD.mul_(1 - learning_rate * decay)
        elif decay:
            grad_RD.add_(weight_RD, alpha=decay)
        beta1, beta2 = self._betas
        kept_RD = own["mean"].to(grad_RD.dtype)
        mean_RD = kept_RD.abs().mul_(kept_RD).mul_(own["mean_scale"] / _MEAN_LEVELS**2)
        mean_RD.lerp_(grad_RD, 1 - beta1)
        square_RD = (own["square"].to(grad_RD.dtype) / _SQUARE_LEVELS).square_().square_()
        square_RD.mul_(own["square_scale"]).mul_(beta2)
        square_RD.addcmul_(grad_RD, grad_RD, value=1 - beta2)
        correction1, correction2 = 1 - beta1**self._count, 1 - beta2**self._count
        below_RD = square_RD.sqrt().div_(correction2**0.5).add_(self._eps)
        weight_RD.addcdiv_(mean_RD, below_RD, value=-learning_rate / correction1)

        size_RD = mean_RD.abs()
        top_R1 = _top(size_RD, own["mean_scale"])
        level_RD = _levels(size_RD.div_(top_R1), _MEAN_LEVELS, 2, dither_2D[0])
        own["mean"].copy_(level_RD.mul_(mean_RD.sign()))
        top_R1 = _top(square_RD, own["square_scale"])
        positive_RD = square_RD > 0
        level_RD = _levels(square_RD.div_(top_R1), _SQUARE_LEVELS, 4, dither_2D[1])
        # a mean over a mean square of 0 would be a step without bound
        own["square"].copy_(torch.maximum(level_RD, positive_RD.to(level_RD.dtype)))

    def _dither(self, number: int, parameter: torch.Tensor) -> torch.Tensor:
        """Random numbers of [0, 1) for the columns of both moments, the same for every row."""
        generator = torch.Generator().manual_seed((self._count << 8) + number)
        made = torch.rand(2, parameter.shape[1], generator=generator, dtype=torch.float32)
        return made.to(parameter.device)

    def state(self) -> dict[str, torch.Tensor]:
        """Levels, scales and the step count, by parameter; nothing before the first step."""
        if not self._count:
            return {}
        tensors = {
            f"{name}.{key}_8bit": value
            for name, own in self._moments.items()
            for key, value in own.items()
        }
        return tensors | {"step_8bit": torch.tensor(self._count)}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take back what `state` gave; raises `Mismatch` if shapes differ."""
        self._count = int(tensors.get("step_8bit", torch.tensor(0)))
        for name, parameter in self._parameters.items():
            fresh = _zeros(parameter)
            for key in _KEYS if self._count else ():
                stored = tensors.get(f"{name}.{key}_8bit")
                if stored is None or stored.shape != fresh[key].shape:
                    raise Mismatch(f"The saved optimiser state of {name} has another shape.")
                fresh[key].copy_(stored)
            self._moments[name] = fresh


def _zeros(parameter: torch.Tensor) -> dict[str, torch.Tensor]:
    scale_R1 = torch.zeros(parameter.shape[0], 1, dtype=torch.float32, device=parameter.device)
    return {
        "mean": torch.zeros_like(parameter, dtype=torch.int8),
        "mean_scale": scale_R1,
        "square": torch.zeros_like(parameter, dtype=torch.uint8),
        "square_scale": scale_R1.clone(),
    }


def _top(size_RD: torch.Tensor, scale_R1: torch.Tensor) -> torch.Tensor:
    """The largest of each row, kept as its scale; 1 to divide by where a row is all 0."""
    top_R1 = size_RD.amax(1, keepdim=True)
    scale_R1.copy_(top_R1)
    return torch.where(top_R1 > 0, top_R1, torch.ones_like(top_R1))


def _levels(share_RD: torch.Tensor, count: int, power: int, dither_D: torch.Tensor) -> torch.Tensor:
    """Whole levels 0..count of shares of [0, 1], (level/count)^power being right on average."""
    root_RD = share_RD.sqrt() if power == 2 else share_RD.sqrt().sqrt_()
    low_RD = root_RD.mul_(count).floor_().clamp_max_(count - 1)
    under_RD = (low_RD / count).pow_(power)
    above_RD = ((low_RD + 1) / count).pow_(power)
    chance_RD = (share_RD - under_RD).div_(above_RD.sub_(under_RD))
    return low_RD.add_(chance_RD > dither_D)
