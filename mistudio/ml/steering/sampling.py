"""Choosing the next token; all rows see the same noise, so they part only where models differ."""

from __future__ import annotations

from dataclasses import dataclass

import torch

_STREAM = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class SamplingSettings:
    """How tokens are drawn; temperature 0 takes the likeliest."""

    temperature: float = 0.7
    top_p: float = 0.9
    top_k: int = 50  # 0: all
    repetition_penalty: float = 1.0
    seed: int = 0


def gumbel_noise(seed: int, step: int, vocabulary: int) -> torch.Tensor:
    """Gumbel noise [V] on the CPU, keyed by (seed, step, token id) and the same on every device."""
    generator = torch.Generator().manual_seed(((seed * _STREAM) ^ (step + 1)) & (2**63 - 1))
    uniform_V = torch.rand(vocabulary, generator=generator, dtype=torch.float64)
    return -torch.log(-torch.log(uniform_V.clamp(1e-300, 1 - 1e-16))).float()


def choose(
    logits_BV: torch.Tensor,
    seen: list[torch.Tensor],
    settings: SamplingSettings,
    greedy_B: torch.Tensor,
    noise_V: torch.Tensor | None,
) -> torch.Tensor:
    """Next token ids [B]; rows marked in `greedy_B` ignore temperature and noise.

    Order as in transformers: repetition penalty (over `seen`, the ids of each row so far),
    temperature, top-k, top-p. Then the largest logit plus noise, which draws from the softmax.
    """
    scores_BV = penalise(logits_BV.float(), seen, settings.repetition_penalty)
    best_B = scores_BV.argmax(1)
    if noise_V is None or settings.temperature == 0 or bool(greedy_B.all()):
        return best_B
    kept_BV = keep_likely(scores_BV / settings.temperature, settings.top_k, settings.top_p)
    return torch.where(greedy_B, best_B, (kept_BV + noise_V).argmax(1))


def penalise(logits_BV: torch.Tensor, seen: list[torch.Tensor], penalty: float) -> torch.Tensor:
    """Divide positive and multiply negative logits of tokens that occurred."""
    if penalty == 1.0:
        return logits_BV
    changed_BV = logits_BV.clone()
    for row, ids in zip(changed_BV, seen, strict=True):
        ids = ids.unique()
        row[ids] = torch.where(row[ids] > 0, row[ids] / penalty, row[ids] * penalty)
    return changed_BV


def keep_likely(scores_BV: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    """Minus infinity outside the `top_k` best and outside the smallest set of mass `top_p`."""
    vocabulary = scores_BV.shape[1]
    count = min(top_k or vocabulary, vocabulary)
    if count == vocabulary and top_p >= 1.0:
        return scores_BV
    best = torch.topk(scores_BV, count, dim=1)
    probability_BK = best.values.softmax(1)
    before_BK = probability_BK.cumsum(1) - probability_BK
    kept_BK = torch.where(before_BK < top_p, best.values, -torch.inf)
    return torch.full_like(scores_BV, -torch.inf).scatter(1, best.indices, kept_BK)
