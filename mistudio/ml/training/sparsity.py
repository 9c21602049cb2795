"""How strongly a dense architecture is pulled towards few active latents, step by step."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from mistudio.core.training_configs import TrainConfig

RAMP_SHARE = 0.05  # of the run, over which the weight rises from 0
ADJUST_EVERY = 10  # steps
ADJUST_POWER = 0.05
AVERAGE_DECAY = 0.9  # of the L0, per step
FREEZE_SHARE = 0.2  # of the run, at its end, in which the weight stays
RANGE = 1e3  # how far the weight may move from its start, either way
DEFAULT_WEIGHT = 1.0
TANH_WEIGHT = 5.0
GHOST_WEIGHT = 3e-6
RARE_BELOW = 1e-5  # firings per token
RARE_AFTER = 1_000_000  # tokens, or a dead window if that is less


def first_weight(config: TrainConfig) -> float:
    """The penalty's weight of a config, or the architecture's default where that is 0."""
    is_tanh = config.architecture == "jumprelu" and config.jumprelu_penalty == "tanh"
    return config.sparsity or (TANH_WEIGHT if is_tanh else DEFAULT_WEIGHT)


class SparsityControl:
    """λ of each step: a ramp and, with a target, a slow correction by the L0 that is seen.

    Every 10 steps after the ramp λ is multiplied by (average L0 / target)^0.05, up to the last
    fifth of the run. A tanh penalty without a target rises over the whole run.
    """

    def __init__(self, config: TrainConfig, steps: int) -> None:
        quadratic = config.jumprelu_penalty == "quadratic" and config.architecture == "jumprelu"
        whole = config.architecture == "jumprelu" and config.jumprelu_penalty == "tanh"
        self._target = 0.0 if quadratic else config.target_l0
        self._start = first_weight(config)
        self._weight = self._start
        self._average = -1.0
        share = 1.0 if whole and not self._target else RAMP_SHARE
        chosen = config.sparsity_warmup
        self._ramp = max(1, round(steps * share) if chosen < 0 else chosen)
        self._frozen_from = steps - round(FREEZE_SHARE * steps)

    def weight_at(self, step: int) -> float:
        """λ of a step, the first being 0."""
        return self._weight * min(1.0, (step + 1) / self._ramp)

    def update(self, l0: float, step: int) -> None:
        """Take in the mean L0 of a step's batch."""
        seen = l0 if self._average < 0 else self._average
        self._average = AVERAGE_DECAY * seen + (1 - AVERAGE_DECAY) * l0
        due = self._ramp <= step < self._frozen_from and (step + 1) % ADJUST_EVERY == 0
        if not self._target or not due:
            return
        # without any active latent the weight can only be too large
        ratio = max(self._average, 1e-3) / self._target
        moved = self._weight * ratio**ADJUST_POWER
        self._weight = min(max(moved, self._start / RANGE), self._start * RANGE)

    def state(self) -> dict[str, float]:
        """JSON values."""
        return {"weight": self._weight, "average": self._average}

    def restore(self, state: Mapping[str, float]) -> None:
        """Take back what `state` gave."""
        self._weight, self._average = float(state["weight"]), float(state["average"])


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
