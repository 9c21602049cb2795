"""What a TrainConfig means in numbers: automatic values resolved, rate and k at each step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mistudio.core.config import validate
from mistudio.core.training_configs import TrainConfig
from mistudio.core.training_rules import default_aux_k

REFERENCE_RATE = 2e-4  # at 2^14 latents (Gao et al., arXiv 2406.04093)
REFERENCE_WIDTH = 2**14
HIGHEST_RATE = 1e-3  # of a long run
SHORT_RUN = 15_000  # steps below which the rate rises
HIGHEST_SHORT_RATE = 2e-3
WARMUP_STEPS = 1000
EXPONENTIAL_END = 1e-3  # of the peak rate
DEAD_WINDOW = 10_000_000
AVERAGE_START = 1000  # step from which the BatchTopK threshold is averaged


@dataclass(frozen=True)
class Schedule:
    """Every number of a run that is fixed before it starts. Steps count from 0."""

    steps: int
    batch: int
    learning_rate: float
    warmup_steps: int
    decay_steps: int
    k: int
    k_start: int
    anneal_steps: int
    aux_k: int
    aux_weight: float
    dead_window: int
    average_start: int
    shape: str = "linear"
    """of the fall: linear, cosine or exponential; constant has none"""

    def rate_at(self, step: int) -> float:
        """The optimiser's rate: a linear rise, constant, then a fall that ends with the run."""
        rise = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return self.learning_rate * min(rise, self._fall(step))

    def _fall(self, step: int) -> float:
        if not self.decay_steps or self.shape == "constant":
            return 1.0
        left = min(1.0, (self.steps - step) / self.decay_steps)
        if self.shape == "cosine":
            return (1 - math.cos(math.pi * left)) / 2
        return left if self.shape == "linear" else EXPONENTIAL_END ** (1 - left)

    def k_at(self, step: int) -> int:
        """Active latents: linear from `k_start` down to `k` over `anneal_steps`."""
        if step >= self.anneal_steps:
            return self.k
        left = 1 - step / self.anneal_steps
        return round(self.k + (self.k_start - self.k) * left)


def resolve(config: TrainConfig, d_out: int) -> Schedule:
    """The schedule of a config that learns activations of width `d_out`; raises `InvalidInput`."""
    validate(config)
    steps = max(1, math.ceil(config.tokens / config.batch))
    tenth = steps // 10
    return Schedule(
        steps=steps,
        batch=config.batch,
        learning_rate=config.learning_rate or default_rate(config.width, steps),
        warmup_steps=min(WARMUP_STEPS, tenth) if config.warmup_steps < 0 else config.warmup_steps,
        decay_steps=round(config.decay_share * steps),
        k=config.k,
        k_start=min(config.width, round(config.k * config.k_anneal)),
        anneal_steps=tenth if config.k_anneal > 1 else 0,
        aux_k=default_aux_k(d_out) if config.aux_k < 0 else config.aux_k,
        aux_weight=config.aux_weight,
        dead_window=config.dead_window or max(1, min(DEAD_WINDOW, steps * config.batch // 10)),
        average_start=min(AVERAGE_START, steps // 2),
        shape=config.schedule,
    )


def default_rate(width: int, steps: int) -> float:
    """2e-4 / sqrt(latents / 2^14), at most 1e-3; in a run of few steps sqrt(15,000 / steps) times
    that, at most 2e-3.

    The law in the width is for long runs. In a short one weights do not get anywhere at that rate:
    SmolLM2-135M, block 9, 4,608 latents, 529 steps: held-out explained variance 0.837 at its
    0.00038, 0.870 at 0.001, 0.882 at 0.002; at 0.004 0.885, but 5 % of the latents never fire.
    """
    rate = min(REFERENCE_RATE / math.sqrt(width / REFERENCE_WIDTH), HIGHEST_RATE)
    return min(rate * max(1.0, math.sqrt(SHORT_RUN / steps)), HIGHEST_SHORT_RATE)
