"""Made-up activations: sparse sums of fixed directions, as a stream that can be resumed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from mistudio.ml.whitening import Whitening


@dataclass(frozen=True)
class FakeStatistics:
    """Scale, mean and variance as calibration would give them."""

    scale: float
    mean_D: torch.Tensor
    variance: float
    whitening: Whitening | None = None


def batch_at(
    position: int, *, batch: int, d: int, features: int = 64, active: int = 4, size: float = 5.0
) -> torch.Tensor:
    """Batch `position`: `active` of `features` directions per token, an offset, some noise."""
    directions_FD = functional.normalize(
        torch.randn(features, d, generator=torch.Generator().manual_seed(99)), dim=1
    )
    generator = torch.Generator().manual_seed(1000 + position)
    ids_BK = torch.randint(0, features, (batch, active), generator=generator)
    values_BK = 1 + torch.rand(batch, active, generator=generator)
    x_BD = functional.embedding_bag(ids_BK, directions_FD, mode="sum", per_sample_weights=values_BK)
    noise_BD = 0.02 * torch.randn(batch, d, generator=generator)
    return size * (x_BD + noise_BD + 0.5)


def statistics_of(d: int, **options: Any) -> FakeStatistics:
    """Statistics measured on batches that training does not see."""
    x_BD = torch.cat([batch_at(-1 - i, batch=512, d=d, **options) for i in range(8)]).double()
    scale = float((d / x_BD.square().sum(1).mean()).sqrt())
    mean_D, spread_DD = x_BD.mean(0), torch.cov(x_BD.T, correction=0)
    whitening = Whitening.of(mean_D, spread_DD)
    return FakeStatistics(scale, mean_D, float((scale * x_BD).var(0).sum()), whitening)


class FakeStream:
    """The stream's interface over `batch_at`; batches listed in `spoilt` come multiplied."""

    def __init__(self, batch: int, d: int, spoilt: dict[int, float] | None = None) -> None:
        self.position = 0
        self._batch, self._d, self._spoilt = batch, d, spoilt or {}

    def __iter__(self) -> Iterator[torch.Tensor]:
        return self

    def __next__(self) -> torch.Tensor:
        x_BD = batch_at(self.position, batch=self._batch, d=self._d)
        if self.position in self._spoilt:
            x_BD = x_BD * self._spoilt[self.position]
        self.position += 1
        return x_BD

    def state(self) -> dict[str, Any]:
        return {"position": self.position}

    def restore(self, state: dict[str, Any]) -> None:
        self.position = state["position"]
