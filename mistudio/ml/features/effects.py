"""What a change does to next-token predictions: per token, and as figures with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from mistudio.ml.evaluation.bootstrap import Definition, with_intervals

CHUNK_ENTRIES = 1 << 23  # logits held in float32 at a time (32 MB)


class Prediction(NamedTuple):
    """A distribution over the next token at T positions, told at the true next token.

    log of the summed exponentials, the true token's logit, and how many tokens have a higher one.
    """

    total_T: torch.Tensor
    logit_T: torch.Tensor
    rank_T: torch.Tensor

    @property
    def loss_T(self) -> torch.Tensor:
        """Cross-entropy in nats."""
        return self.total_T - self.logit_T


@torch.inference_mode()
def predict(logits_TV: torch.Tensor, target_T: torch.Tensor) -> Prediction:
    """Describe distributions at the tokens that truly follow; float32."""
    parts = []
    step = max(1, CHUNK_ENTRIES // logits_TV.shape[1])
    for start in range(0, max(len(target_T), 1), step):
        part_TV = logits_TV[start : start + step].float()
        logit_T = part_TV.gather(1, target_T[start : start + step, None])[:, 0]
        rank_T = (part_TV > logit_T[:, None]).sum(1)
        parts.append(Prediction(part_TV.logsumexp(1), logit_T, rank_T))
    return Prediction(*(torch.cat(column) for column in zip(*parts, strict=True)))


@torch.inference_mode()
def divergence(
    clean_TV: torch.Tensor,
    clean: Prediction,
    other_TV: torch.Tensor,
    other: Prediction,
    gained_V: torch.Tensor | None = None,
) -> torch.Tensor:
    """KL(clean‖other) per position in float32.

    To `gained_V` (float64), if given, the sum over positions of other minus clean probability is
    added.
    """
    parts = []
    step = max(1, CHUNK_ENTRIES // clean_TV.shape[1])
    for start in range(0, max(len(clean_TV), 1), step):
        part = slice(start, start + step)
        log_p_TV = clean_TV[part].float() - clean.total_T[part, None]
        log_q_TV = other_TV[part].float() - other.total_T[part, None]
        p_TV = log_p_TV.exp()
        if gained_V is not None:
            gained_V += (log_q_TV.exp() - p_TV).sum(0, dtype=torch.float64)
        parts.append(log_p_TV.sub_(log_q_TV).mul_(p_TV).sum(1))
    return torch.cat(parts)


SUMS = ("n", "ce", "ce_ablated", "kl", "logit", "rank")
"""Sums over scored tokens per window; logit and rank are changes of those of the true token."""

FIGURES: Mapping[str, Definition] = {
    "ce": lambda s: s["ce"] / s["n"],
    "ce_ablated": lambda s: s["ce_ablated"] / s["n"],
    "delta_ce": lambda s: (s["ce_ablated"] - s["ce"]) / s["n"],
    "kl": lambda s: s["kl"] / s["n"],
    "delta_logit": lambda s: s["logit"] / s["n"],
    "delta_rank": lambda s: s["rank"] / s["n"],
    "perplexity": lambda s: np.exp(s["ce"] / s["n"]),
    "perplexity_ablated": lambda s: np.exp(s["ce_ablated"] / s["n"]),
}


def figures(sums_W: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Every figure over the windows whose sums [W] are given, and 95 % intervals.

    The intervals draw windows again. `n` counts scored tokens, `windows` those that have any.
    """
    n = float(sums_W["n"].sum())
    counted = {"n": int(n), "windows": int((sums_W["n"] > 0).sum())}
    if not n:
        return {**counted, **dict.fromkeys(FIGURES), "intervals": dict.fromkeys(FIGURES)}
    values, intervals = with_intervals(FIGURES, sums_W)
    return {**counted, **values, "intervals": intervals}
