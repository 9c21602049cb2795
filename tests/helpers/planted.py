"""A dictionary that is known: activations made of sparse features, and how many an SAE found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from mistudio.core.control import JobControl
from mistudio.core.events import RecordingReporter
from mistudio.core.training_configs import TrainConfig
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.training.loop import train
from tests.helpers.activations import FakeStatistics


class Planted:
    """Unit directions that fire independently with positive sizes, plus an offset and some noise.

    Frequencies fall from twice to half the mean, so that on average `active` features fire.
    """

    def __init__(
        self, features: int, d: int, active: float, *, noise: float = 0.02, seed: int = 0
    ) -> None:
        # apart from a training's own seeds: an SAE must not start out as the answer
        generator = torch.Generator().manual_seed(7_000_003 + seed)
        self.directions_FD = functional.normalize(
            torch.randn(features, d, generator=generator), dim=1
        )
        falling_F = torch.logspace(0.3, -0.3, features)
        self.rate_F = falling_F * (active / falling_F.sum())
        self.offset_D = torch.randn(d, generator=generator) / d**0.5
        self._noise, self._seed = noise, seed

    def sample(self, position: int, tokens: int) -> torch.Tensor:
        """The tokens of one position of the stream, x [B, D]; negative ones are held out."""
        generator = torch.Generator().manual_seed(1_000_003 * (self._seed + 1) + position)
        rate_F = self.rate_F
        fires_BF = torch.rand(tokens, rate_F.numel(), generator=generator) < rate_F
        size_BF = 1 + torch.rand(tokens, rate_F.numel(), generator=generator)
        x_BD = (fires_BF * size_BF) @ self.directions_FD + 3 * self.offset_D
        return x_BD + self._noise * torch.randn(x_BD.shape, generator=generator)

    def statistics(self) -> FakeStatistics:
        """Scale, mean and variance, measured on held-out tokens."""
        x_BD = torch.cat([self.sample(-1 - i, 1024) for i in range(8)]).double()
        scale = float((x_BD.shape[1] / x_BD.square().sum(1).mean()).sqrt())
        return FakeStatistics(scale, x_BD.mean(0), float((scale * x_BD).var(0).sum()))

    def calibration(self) -> list[torch.Tensor]:
        """Held-out tokens for the final threshold."""
        return [self.sample(-100 - i, 1024) for i in range(8)]

    def recovered(self, sae: SparseAutoencoder, cosine: float = 0.9) -> float:
        """Share of the planted directions that some decoder row has this cosine with."""
        found_FM = self.directions_FD @ functional.normalize(sae.W_dec_FO, dim=1).T
        return float((found_FM.amax(1) >= cosine).float().mean())

    def l0(self, sae: SparseAutoencoder) -> float:
        """Mean active latents on held-out tokens."""
        x_BD = torch.cat([self.sample(-300 - i, 1024) for i in range(8)])
        return float(sae.encode_sparse(x_BD).l0.double().mean())

    def unused(self, sae: SparseAutoencoder) -> float:
        """Share of the latents that never fire on 32 thousand held-out tokens."""
        fired_F = torch.zeros(sae.n_latents, dtype=torch.bool)
        for i in range(32):
            fired_F[sae.encode_sparse(self.sample(-200 - i, 1024)).ids] = True
        return 1 - float(fired_F.float().mean())


class PlantedStream:
    """The stream's interface over a planted dictionary."""

    def __init__(self, planted: Planted, batch: int) -> None:
        self.position = 0
        self._planted, self._batch = planted, batch

    def __iter__(self) -> Iterator[torch.Tensor]:
        return self

    def __next__(self) -> torch.Tensor:
        x_BD = self._planted.sample(self.position, self._batch)
        self.position += 1
        return x_BD

    def state(self) -> dict[str, Any]:
        return {"position": self.position}

    def restore(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


def learn(
    planted: Planted, architecture: str, steps: int, folder: Path, *, batch: int, **settings: Any
) -> SparseAutoencoder:
    """Train as a job does, with as many latents as there are features and their L0 as the aim."""
    active = float(planted.rate_F.sum())
    values: dict[str, Any] = {
        "k": round(active), "target_l0": active, "width": planted.rate_F.numel(), **settings
    }  # fmt: skip
    config = TrainConfig(
        model="m",
        dataset="d",
        architecture=architecture,
        batch=batch,
        tokens=batch * steps,
        checkpoint_every=0,
        **values,
    )
    result = train(
        config,
        PlantedStream(planted, batch),
        planted.statistics(),
        folder,
        RecordingReporter(),
        JobControl(),
        calibration=planted.calibration,
    )
    assert result.sae is not None
    return result.sae
