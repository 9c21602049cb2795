"""How two texts and two models' predictions differ.

KL in nats. p_s are the predictions of the steered model, p_b those of the unsteered one, on the
same tokens.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import torch

LOOP_TOKENS, LOOP_PERIOD = 32, 8


class Divergence(NamedTuple):
    """Per generated token: KL(p_s || p_b), KL(p_b || p_s), and -log p_b of the token itself."""

    kl: list[float]
    reverse: list[float]
    surprise: list[float]

    @property
    def perplexity(self) -> float | None:
        """exp of the mean surprise; None without tokens."""
        return math.exp(sum(self.surprise) / len(self.surprise)) if self.surprise else None


def divergence(
    base_TV: torch.Tensor, steered_TV: torch.Tensor, target_T: torch.Tensor
) -> Divergence:
    """Compare logits of both models for the same tokens; softmax in fp32, before temperature."""
    log_b_TV = base_TV.float().log_softmax(1)
    log_s_TV = steered_TV.float().log_softmax(1)
    gap_TV = log_s_TV - log_b_TV
    kl_T = (log_s_TV.exp() * gap_TV).sum(1).clamp_min(0)
    reverse_T = (log_b_TV.exp() * -gap_TV).sum(1).clamp_min(0)
    surprise_T = -log_b_TV.gather(1, target_T[:, None])[:, 0]
    return Divergence(kl_T.tolist(), reverse_T.tolist(), surprise_T.tolist())


def mean(values: Sequence[float]) -> float | None:
    """The mean, or None of nothing."""
    return sum(values) / len(values) if values else None


def word_overlap(first: str, second: str) -> float | None:
    """Shared words over all words of both texts (Jaccard), case ignored; None if there are none."""
    a, b = (set(re.findall(r"\w+", text.lower())) for text in (first, second))
    return len(a & b) / len(a | b) if a | b else None


def distinct(ids: Sequence[int], n: int) -> float | None:
    """Different n-grams over all n-grams; None if the text is shorter than n."""
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def loops(ids: Sequence[int]) -> bool:
    """Whether the last 32 tokens repeat with a period of at most 8."""
    tail = list(ids[-LOOP_TOKENS:])
    if len(tail) < LOOP_TOKENS:
        return False
    return any(tail[period:] == tail[:-period] for period in range(1, LOOP_PERIOD + 1))


def first_divergence(first: Sequence[int], second: Sequence[int]) -> int | None:
    """Index of the first token that differs; None if both are the same."""
    for index, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return index
    return None if len(first) == len(second) else min(len(first), len(second))
