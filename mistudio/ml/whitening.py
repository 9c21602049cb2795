"""Whitening: coordinates in which activations vary alike in every direction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch

EPS = 1e-3  # of the mean variance, added to that of each direction


class Coordinates(NamedTuple):
    """Other coordinates z [C] of x [D]: z = (x - origin) into, x = z back + origin; all float64."""

    origin_D: torch.Tensor
    into_DC: torch.Tensor
    back_CD: torch.Tensor

    @property
    def inverse(self) -> Coordinates:
        """The way from z to x."""
        return Coordinates(-(self.origin_D @ self.into_DC), self.back_CD, self.into_DC)


@dataclass(frozen=True)
class Whitening:
    """z = (x - μ) M by principal components: M = U / sqrt(v + ε), with U the directions and v the
    variances of x, ε = `EPS` times the mean of v.

    Along a direction of variance v, z varies by v / (v + ε): by 1, but for those that hardly vary
    in x, whose noise is not blown up. ε follows the size of x, so that z does not depend on its
    unit. The tensors are float64 and on the CPU: `mean_D`, `basis_DC` the directions as columns,
    `variance_C` in the same order.
    """

    mean_D: torch.Tensor
    basis_DC: torch.Tensor
    variance_C: torch.Tensor

    @classmethod
    def of(cls, mean_D: torch.Tensor, covariance_DD: torch.Tensor) -> Whitening:
        """From the mean and the covariance of tokens, in float64."""
        variance_C, basis_DC = torch.linalg.eigh(covariance_DD.double())
        return cls(mean_D.double(), basis_DC.contiguous(), variance_C.clamp_min(0.0))

    @classmethod
    def none(cls, d: int) -> Whitening:
        """That of activations which are white already, for trying what a step costs."""
        eye_DD = torch.eye(d, dtype=torch.float64)
        return cls(torch.zeros(d, dtype=torch.float64), eye_DD, torch.ones_like(eye_DD[0]))

    @property
    def d(self) -> int:
        """Width of the activations."""
        return self.variance_C.numel()

    @property
    def total_variance(self) -> float:
        """V: the variance of z, summed over its coordinates."""
        return float((self.variance_C / (self.variance_C + self._epsilon)).sum())

    @property
    def coordinates(self) -> Coordinates:
        """The change of coordinates; its origin is μ in float32, which training subtracts."""
        std_C = (self.variance_C + self._epsilon).sqrt()
        origin_D = self.mean_D.float().double()
        return Coordinates(origin_D, self.basis_DC / std_C, self.basis_DC.T * std_C[:, None])

    def subspace(self, share: float) -> torch.Tensor:
        """Orthonormal columns [D, R], float64: the fewest principal directions of x that together
        hold this share of its variance."""
        return self.basis_DC[:, self._leading(share)]

    def whitened_subspace(self, share: float) -> torch.Tensor:
        """The same subspace in coordinates z [C, R]."""
        return torch.eye(self.d, dtype=torch.float64)[:, self._leading(share)]

    def _leading(self, share: float) -> torch.Tensor:
        order_C = self.variance_C.argsort(descending=True)
        held_C = self.variance_C[order_C].cumsum(0) / self.variance_C.sum()
        return order_C[: int((held_C < share).sum()) + 1]

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a file is to hold; `from_tensors` is the inverse, to the bit."""
        return {"mean": self.mean_D, "basis": self.basis_DC, "variance": self.variance_C}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> Whitening:
        return cls(tensors["mean"], tensors["basis"], tensors["variance"])

    @property
    def _epsilon(self) -> float:
        return EPS * float(self.variance_C.mean())


class Whitener:
    """Whitens batches on a device, in float32."""

    def __init__(self, whitening: Whitening, device: torch.device) -> None:
        change = whitening.coordinates
        self._origin_D = change.origin_D.float().to(device)
        self._into_DC = change.into_DC.float().to(device)

    def __call__(self, x_BD: torch.Tensor) -> torch.Tensor:
        """z [B, C] of x [B, D]."""
        return (x_BD - self._origin_D) @ self._into_DC
