"""How strongly a dense architecture is pulled towards few active latents, step by step."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from mistudio.core.training_configs import TrainConfig

RAMP_SHARE = 0.05  # of the run, over which the weight rises from 0
FREEZE_SHARE = 0.2  # of the run, at its end, in which the weight stays
QUICK, SLOW = 0.9, 0.98  # decay of the two averages of L0, per step
LEAD = 2.0  # how often the trend between them is added: about 80 steps ahead
POWER = 0.015
LARGEST_MOVE = 1.02  # of the weight in one step, as a factor
UNHURRIED = 1500  # steps; a shorter run moves faster,
MOST_PACE = 3.0  # up to this much
BRAKE = 2.0
RANGE = 1e3  # how far the weight may move from its start, either way
LEAST_L0 = 1e-3
DEFAULT_WEIGHT = 1.0
TANH_WEIGHT = 5.0
STEERED_SHARE = 0.1  # of these, where a steered run starts: from too many active latents
GHOST_WEIGHT = 3e-6
RARE_BELOW = 1e-5  # firings per token
RARE_AFTER = 1_000_000  # tokens, or a dead window if that is less


def first_weight(config: TrainConfig) -> float:
    """The penalty's weight of a config, or the architecture's default where that is 0."""
    is_jumprelu = config.architecture == "jumprelu"
    default = TANH_WEIGHT if is_jumprelu and config.jumprelu_penalty == "tanh" else DEFAULT_WEIGHT
    return config.sparsity or default * (STEERED_SHARE if target_of(config) else 1.0)


def target_of(config: TrainConfig) -> float:
    """The L0 that the weight is steered to, 0 for none: a quadratic penalty has its own."""
    quadratic = config.jumprelu_penalty == "quadratic" and config.architecture == "jumprelu"
    return 0.0 if quadratic else config.target_l0


class SparsityControl:
    """λ of each step: a ramp and, with a target, a correction by the L0 that is to be expected.

    λ = ramp · weight · brake. What is expected is the average L0 led ahead by its trend, the
    ratio of a quick and a slow average. The weight moves every step by (expected / target)^0.015,
    at most by 2 %, in a run of less than 1500 steps by up to three times that; upwards only once
    the ramp is over. The brake acts at once: below the target λ is lowered by
    (expected / target)²; otherwise latents that are far too sparse die before the weight has come
    down. In the last fifth of the run λ stays. A tanh penalty without a target rises over the
    whole run.
    """

    def __init__(self, config: TrainConfig, steps: int) -> None:
        whole = config.architecture == "jumprelu" and config.jumprelu_penalty == "tanh"
        self._target = target_of(config)
        self._start = first_weight(config)
        self._weight = self._start
        self._quick = self._slow = -1.0
        share = 1.0 if whole and not self._target else RAMP_SHARE
        chosen = config.sparsity_warmup
        self._ramp = max(1, round(steps * share) if chosen < 0 else chosen)
        self._pace = min(max(1.0, UNHURRIED / steps), MOST_PACE)
        self._frozen_from = steps - round(FREEZE_SHARE * steps)

    def weight_at(self, step: int) -> float:
        """λ of a step, the first being 0."""
        return self._weight * min(1.0, (step + 1) / self._ramp) * self._brake()

    def update(self, l0: float, step: int) -> None:
        """Take in the mean L0 of a step's batch."""
        if step >= self._frozen_from or not self._target:
            return
        l0 = max(l0, LEAST_L0)
        first = self._quick < 0
        self._quick = l0 if first else QUICK * self._quick + (1 - QUICK) * l0
        self._slow = l0 if first else SLOW * self._slow + (1 - SLOW) * l0
        ratio = self._expected() / self._target
        if step < self._ramp and ratio > 1:
            return
        factor = min(max(ratio**POWER, 1 / LARGEST_MOVE), LARGEST_MOVE)
        moved = self._weight * factor**self._pace
        self._weight = min(max(moved, self._start / RANGE), self._start * RANGE)

    def _expected(self) -> float:
        """L0 some steps ahead, if its trend goes on."""
        return max(self._quick * (self._quick / self._slow) ** LEAD, LEAST_L0)

    def _brake(self) -> float:
        if not self._target or self._quick < 0:
            return 1.0
        return min(1.0, self._expected() / self._target) ** BRAKE

    def state(self) -> dict[str, float]:
        """JSON values."""
        return {"weight": self._weight, "average": self._quick, "slow": self._slow}

    def restore(self, state: Mapping[str, float]) -> None:
        """Take back what `state` gave."""
        self._weight, self._quick = float(state["weight"]), float(state["average"])
        self._slow = float(state.get("slow", self._quick))  # not kept by earlier versions


class FiringRates:
    """How often each latent fired lately, in whole numbers, over half to one window of tokens."""

    def __init__(self, n_latents: int, window: int, device: torch.device) -> None:
        self._half = max(1, window // 2)
        self._after = min(RARE_AFTER, window)
        self._seen = 0
        self._now_F = torch.zeros(n_latents, dtype=torch.int64, device=device)
        self._before_F = torch.zeros_like(self._now_F)
        self._tokens = torch.zeros(2, dtype=torch.int64)  # of now and before

    def update(self, counts_F: torch.Tensor, tokens: int) -> None:
        """Take in a batch."""
        self._now_F += counts_F
        self._tokens[0] += tokens
        self._seen += tokens
        if int(self._tokens[0]) >= self._half:
            self._before_F, self._now_F = self._now_F, torch.zeros_like(self._now_F)
            self._tokens = torch.tensor([0, int(self._tokens[0])])

    def rare(self) -> torch.Tensor | None:
        """r [F] = clamp(1 - rate / 1e-5, 0, 1), fp32; None before enough tokens were seen, or if
        no latent is rare."""
        if self._seen < self._after:
            return None
        rate_F = (self._now_F + self._before_F).double() / max(1, int(self._tokens.sum()))
        rare_F = (1 - rate_F / RARE_BELOW).clamp(0, 1).float()
        return rare_F if bool(rare_F.any()) else None

    def state(self) -> dict[str, torch.Tensor]:
        """The counters, by name."""
        return {
            "rate_now": self._now_F,
            "rate_before": self._before_F,
            "rate_tokens": torch.tensor([*self._tokens.tolist(), self._seen]),
        }

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take back what `state` gave."""
        device = self._now_F.device
        self._now_F = tensors["rate_now"].to(device, copy=True)
        self._before_F = tensors["rate_before"].to(device, copy=True)
        now, before, self._seen = tensors["rate_tokens"].tolist()
        self._tokens = torch.tensor([now, before])
