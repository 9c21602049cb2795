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
from mistudio.ml.training.learner_terms import Batch
from mistudio.ml.training.loop import TrainResult, train
from mistudio.ml.training.run_state import TargetStatistics
from tests.helpers.activations import FakeStatistics


class Planted:
    """Unit directions that fire independently with positive sizes, plus an offset and some noise.

    Frequencies fall from twice to half the mean, so that on average `active` features fire. Beside
    them `tail` rarer ones fire at `tail_rate` each: something to learn for latents that are left.
    """

    def __init__(
        self,
        features: int,
        d: int,
        active: float,
        *,
        tail: int = 0,
        tail_rate: float = 0.0,
        noise: float = 0.02,
        seed: int = 0,
    ) -> None:
        # apart from a training's own seeds: an SAE must not start out as the answer
        generator = torch.Generator().manual_seed(7_000_003 + seed)
        self.features = features
        self.directions_FD = functional.normalize(
            torch.randn(features + tail, d, generator=generator), dim=1
        )
        falling_F = torch.logspace(0.3, -0.3, features)
        often_F = falling_F * (active / falling_F.sum())
        self.rate_F = torch.cat([often_F, torch.full((tail,), tail_rate)])
        self.offset_D = torch.randn(d, generator=generator) / d**0.5
        self._noise, self._seed = noise, seed

    @property
    def active(self) -> float:
        """Features that fire in a token, on average."""
        return float(self.rate_F.sum())

    def sample(self, position: int, tokens: int) -> torch.Tensor:
        """The tokens of one position of the stream, x [B, D]; negative ones are held out."""
        return self._sample(position, tokens)[0]

    def batch(self, position: int, tokens: int) -> Batch:
        """What training takes of one position."""
        return self.sample(position, tokens)

    def _sample(self, position: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """x [B, D], and how large each feature is in each token [B, F]."""
        generator = torch.Generator().manual_seed(1_000_003 * (self._seed + 1) + position)
        rate_F = self.rate_F
        fires_BF = torch.rand(tokens, rate_F.numel(), generator=generator) < rate_F
        size_BF = fires_BF * (1 + torch.rand(tokens, rate_F.numel(), generator=generator))
        x_BD = size_BF @ self.directions_FD + 3 * self.offset_D
        x_BD += self._noise * torch.randn(x_BD.shape, generator=generator)
        return x_BD, size_BF

    def statistics(self) -> FakeStatistics:
        """Scale, mean and variance, measured on held-out tokens."""
        return _statistics(torch.cat([self.sample(-1 - i, 1024) for i in range(8)]))

    def target(self) -> TargetStatistics | None:
        """Those of what a transcoder is to give; an SAE gives x."""
        return None

    def calibration(self) -> list[torch.Tensor]:
        """Held-out tokens for the final threshold."""
        return [self.sample(-100 - i, 1024) for i in range(8)]

    def wanted(self, sae: SparseAutoencoder) -> torch.Tensor:
        """What decoder rows should be, up to length, one row for each feature that needs a latent;
        of the tail nothing is asked."""
        return self.directions_FD[: self.features]

    def recovered(self, sae: SparseAutoencoder, cosine: float = 0.9) -> float:
        """Share of the planted directions that some decoder row has this cosine with."""
        wanted_FO = functional.normalize(self.wanted(sae), dim=1)
        found_FM = wanted_FO @ functional.normalize(sae.W_dec_FO, dim=1).T
        return float((found_FM.amax(1) >= cosine).float().mean())

    def l0(self, sae: SparseAutoencoder) -> float:
        """Mean active latents on held-out tokens."""
        x_BD = torch.cat([self.sample(-300 - i, 1024) for i in range(8)])
        return float(sae.encode_sparse(x_BD).l0.double().mean())

    def dead(self, result: TrainResult) -> float:
        """Share of the latents that training ends with as dead, beyond those for which there are
        no features: an exact dictionary has no use for them."""
        assert result.sae is not None
        width, tail = result.sae.n_latents, self.rate_F.numel() - self.features
        surplus = width - (self.wanted(result.sae).shape[0] + tail)
        return max(0, result.dead - max(0, surplus)) / width


class PlantedMap(Planted):
    """Features that are read in one place and written in another: y = Σ size · direction there,
    plus a linear map of x if `linear`."""

    def __init__(self, features: int, d: int, d_out: int, active: float, **options: Any) -> None:
        self._linear = options.pop("linear", False)
        super().__init__(features, d, active, **options)
        generator = torch.Generator().manual_seed(8_000_003 + self._seed)
        self.written_FO = functional.normalize(
            torch.randn(features, d_out, generator=generator), dim=1
        )
        self.map_OD = self._linear * torch.randn(d_out, d, generator=generator) / d**0.5

    def batch(self, position: int, tokens: int) -> Batch:
        """x and y of one position."""
        x_BD, size_BF = self._sample(position, tokens)
        return x_BD, size_BF @ self.written_FO + x_BD @ self.map_OD.T

    def target(self) -> TargetStatistics | None:
        """Mean, scale and variance of y, measured on held-out tokens."""
        found = _statistics(torch.cat([self.batch(-1 - i, 1024)[1] for i in range(8)]))
        return TargetStatistics(found.mean_D, found.scale, found.variance)

    def wanted(self, sae: SparseAutoencoder) -> torch.Tensor:
        """What the skip connection leaves of each feature that it leaves at least half of.

        x itself is a sum of features, so that a skip of W + Δ and rows v - Δu give the same y for
        any Δ: with a skip the v alone are not determined by the activations. Δ can give the whole
        of as many features as x has dimensions, and training makes use of that.
        """
        if sae.W_skip_OD is None:
            return self.written_FO
        left_FO = self.written_FO - self.directions_FD @ (sae.W_skip_OD - self.map_OD).T
        return left_FO[left_FO.norm(dim=1) >= 0.5]


def _statistics(x_BD: torch.Tensor) -> FakeStatistics:
    x_BD = x_BD.double()
    scale = float((x_BD.shape[1] / x_BD.square().sum(1).mean()).sqrt())
    return FakeStatistics(scale, x_BD.mean(0), float((scale * x_BD).var(0).sum()))


class PlantedStream:
    """The stream's interface over a planted dictionary."""

    def __init__(self, planted: Planted, batch: int) -> None:
        self.position = 0
        self._planted, self._batch = planted, batch

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batch = self._planted.batch(self.position, self._batch)
        self.position += 1
        return batch

    def state(self) -> dict[str, Any]:
        return {"position": self.position}

    def restore(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


def learn(
    planted: Planted, architecture: str, steps: int, folder: Path, *, batch: int, **settings: Any
) -> TrainResult:
    """Train as a job does, with half as many latents again as there are frequent features (with no
    more, two that share a feature leave another without one) and the features' L0 as the aim."""
    values: dict[str, Any] = {
        "k": round(planted.active),
        "target_l0": planted.active,
        "width": 3 * planted.features // 2,
        **settings,
    }
    config = TrainConfig(
        model="m",
        dataset="d",
        architecture=architecture,
        batch=batch,
        tokens=batch * steps,
        checkpoint_every=0,
        **values,
    )
    return train(
        config,
        PlantedStream(planted, batch),
        planted.statistics(),
        folder,
        RecordingReporter(),
        JobControl(),
        calibration=planted.calibration,
        target=planted.target(),
    )
