"""What a change does to next-token predictions: per token, and as figures with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from mistudio.ml.evaluation.bootstrap import Definition, with_intervals

CHUNK_ENTRIES = 1 << 23  # logits of one kind made at a time (32 MB)
_TILE_ROWS = 4  # compared at a time on a CPU: a tile stays in its cache


class Change(NamedTuple):
    """How the prediction changes at T positions, in float64: cross-entropy of the true next token
    before and after in nats, KL(clean‖other), and changes of the true token's logit and rank."""

    loss_T: torch.Tensor
    loss_other_T: torch.Tensor
    kl_T: torch.Tensor
    logit_T: torch.Tensor
    rank_T: torch.Tensor


@torch.inference_mode()
def compare(
    clean_TV: torch.Tensor,
    other_TV: torch.Tensor,
    target_T: torch.Tensor,
    gained_V: torch.Tensor | None = None,
) -> Change:
    """Compare two distributions at each position, told at the tokens that truly follow.

    To `gained_V` (float64), if given, the sum over positions of other minus clean probability is
    added.
    """
    step = _TILE_ROWS if clean_TV.device.type == "cpu" else max(1, len(target_T))
    shape = (min(step, len(target_T)), clean_TV.shape[1])
    scratch = [torch.empty(shape, device=clean_TV.device) for _ in range(2)]
    parts = []
    for start in range(0, max(len(target_T), 1), step):
        part = slice(start, start + step)
        rows = target_T[part, None]
        held = [buffer_TV[: len(rows)] for buffer_TV in scratch]
        parts.append(_compare(clean_TV[part].float(), other_TV[part].float(), rows, held, gained_V))
    return Change(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _compare(
    clean_TV: torch.Tensor,
    other_TV: torch.Tensor,
    target_T1: torch.Tensor,
    scratch: list[torch.Tensor],
    gained_V: torch.Tensor | None,
) -> Change:
    """KL from sums of exp(logit - largest), whose rounding is some 1e-7 nats however large logits
    are; logarithms of the sums in float64."""
    weight_TV, spare_TV = scratch
    logit_T1, logit_other_T1 = clean_TV.gather(1, target_T1), other_TV.gather(1, target_T1)
    higher_T = torch.gt(clean_TV, logit_T1, out=spare_TV).sum(1)
    higher_other_T = torch.gt(other_TV, logit_other_T1, out=spare_TV).sum(1)
    largest_T1, largest_other_T1 = clean_TV.amax(1, True), other_TV.amax(1, True)
    torch.sub(clean_TV, largest_T1, out=weight_TV).exp_()
    sum_T1 = weight_TV.sum(1, True)
    torch.sub(clean_TV, other_TV, out=spare_TV).mul_(weight_TV)
    gap_T = spare_TV.sum(1).double() / sum_T1[:, 0]
    torch.sub(other_TV, largest_other_T1, out=spare_TV).exp_()
    sum_other_T1 = spare_TV.sum(1, True)
    if gained_V is not None:
        spare_TV.div_(sum_other_T1).sub_(weight_TV.div_(sum_T1))
        gained_V += spare_TV.sum(0, dtype=torch.float64)
    total_T = largest_T1.double() + sum_T1.double().log()
    total_other_T = largest_other_T1.double() + sum_other_T1.double().log()
    total_T, total_other_T = total_T[:, 0], total_other_T[:, 0]
    logit_T, logit_other_T = logit_T1[:, 0].double(), logit_other_T1[:, 0].double()
    return Change(
        total_T - logit_T,
        total_other_T - logit_other_T,
        (gap_T + (total_other_T - total_T)).clamp_min(0),
        logit_other_T - logit_T,
        (higher_other_T - higher_T).double(),
    )


SUMS = ("n", "reached", "ce", "ce_ablated", "kl", "logit", "rank")
"""Sums over scored tokens per window. `reached` counts those from the first change on: before it
nothing can change, so `ce` and `ce_ablated` are over these only, and the others are 0 elsewhere.
logit and rank are changes of those of the true token."""

FIGURES: Mapping[str, Definition] = {
    "ce": lambda s: s["ce"] / s["reached"],
    "ce_ablated": lambda s: s["ce_ablated"] / s["reached"],
    "delta_ce": lambda s: (s["ce_ablated"] - s["ce"]) / s["n"],
    "kl": lambda s: s["kl"] / s["n"],
    "delta_logit": lambda s: s["logit"] / s["n"],
    "delta_rank": lambda s: s["rank"] / s["n"],
    "perplexity": lambda s: np.exp(s["ce"] / s["reached"]),
    "perplexity_ablated": lambda s: np.exp(s["ce_ablated"] / s["reached"]),
}


def figures(sums_W: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Every figure over the windows whose sums [W] are given, and 95 % intervals.

    The intervals draw windows again. `n` counts scored tokens, `reached` those from the first
    change on, `windows` those that have any scored. Where nothing is reached there is no `ce`.
    """
    n, reached = float(sums_W["n"].sum()), int(sums_W["reached"].sum())
    counted = {"n": int(n), "reached": reached, "windows": int((sums_W["n"] > 0).sum())}
    if not n:
        return {**counted, **dict.fromkeys(FIGURES), "intervals": dict.fromkeys(FIGURES)}
    values, intervals = with_intervals(FIGURES, sums_W)
    return {**counted, **values, "intervals": intervals}
