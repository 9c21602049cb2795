"""Choosing the next token; all rows see the same noise, so they part only where models differ."""

from __future__ import annotations

from dataclasses import dataclass

import torch

_STREAM = 0x9E3779B97F4A7C15
_SAMPLES = 0x85EBCA6B


@dataclass(frozen=True)
class SamplingSettings:
    """How tokens are drawn; temperature 0 takes the likeliest.

    The repetition penalty looks at prompt and new tokens, the presence and the frequency penalty
    at new ones alone: taken off once for a token that occurred, and once for each time it did.
    """

    temperature: float = 0.7
    top_p: float = 0.9
    top_k: int = 50  # 0: all
    repetition_penalty: float = 1.0
    seed: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0


def gumbel_noise(seed: int, step: int, vocabulary: int, sample: int = 0) -> torch.Tensor:
    """Gumbel noise [V] on the CPU, keyed by (seed, sample, step, token id), on every device alike.

    Rows of one sample share it, whatever their variant or prompt.
    """
    # the CPU's generator takes the low 32 bits of a seed only
    key = (seed * _STREAM) ^ (step + 1) ^ (sample * _SAMPLES)
    generator = torch.Generator().manual_seed(key & (2**63 - 1))
    uniform_V = torch.rand(vocabulary, generator=generator, dtype=torch.float64)
    return -torch.log(-torch.log(uniform_V.clamp(1e-300, 1 - 1e-16))).float()


def choose(
    logits_BV: torch.Tensor,
    seen: list[torch.Tensor],
    settings: SamplingSettings,
    greedy_B: torch.Tensor,
    noise_V: torch.Tensor | None,
    new: list[torch.Tensor] | None = None,
) -> torch.Tensor:
    """Next token ids [B]; rows marked in `greedy_B` ignore temperature and noise.

    Order as in transformers: repetition penalty (over `seen`, the ids of each row so far), then
    presence and frequency penalty (over `new`, those generated), temperature, top-k, top-p. Then
    the largest logit plus noise ([V], or [B, V] of rows that are other samples), which draws from
    the softmax.
    """
    scores_BV = penalise(logits_BV.float(), seen, settings.repetition_penalty)
    presence, frequency = settings.presence_penalty, settings.frequency_penalty
    scores_BV = penalise_counts(scores_BV, new or [], presence, frequency)
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


def penalise_counts(
    logits_BV: torch.Tensor, new: list[torch.Tensor], presence: float, frequency: float
) -> torch.Tensor:
    """Take `presence` off tokens that were generated, and `frequency` for each time."""
    if presence == 0.0 and frequency == 0.0:
        return logits_BV
    changed_BV = logits_BV.clone()
    for row, ids in zip(changed_BV, new, strict=True):
        found, times = ids.unique(return_counts=True)
        row[found] -= presence + frequency * times
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
