"""Lets the unsteered and the steered model read the same text and compares their predictions."""

from __future__ import annotations

import torch

from mistudio.core.control import JobControl, Request
from mistudio.ml.loading import LoadedModel
from mistudio.ml.steering import metrics
from mistudio.ml.steering.forward import FORCED, Stepper
from mistudio.ml.steering.generate import Continuation, Generated
from mistudio.ml.steering.hook import SteeringHook
from mistudio.ml.steering.positions import special_ids


def divergences(
    loaded: LoadedModel,
    request: Continuation,
    hook: SteeringHook,
    found: Generated,
    control: JobControl,
) -> tuple[metrics.Divergence, metrics.Divergence] | None:
    """Divergences on the baseline's and on the steered text; None if the user stops meanwhile."""
    parts = []
    for row in (0, 1):
        part = _read(loaded, request, hook, found.ids[row], control)
        if part is None:
            return None
        parts.append(part)
    return parts[0], parts[1]


def _read(
    loaded: LoadedModel,
    request: Continuation,
    hook: SteeringHook,
    ids: list[int],
    control: JobControl,
) -> metrics.Divergence | None:
    """Both models read the same text, row 0 unsteered and row 1 steered."""
    total = metrics.Divergence([], [], [])
    if not ids:
        return total
    prompt = len(request.prompt_ids)
    whole = torch.tensor([*request.prompt_ids, *ids], device=loaded.device)
    stepper = Stepper(
        loaded,
        hook,
        torch.tensor([False, True]),
        prompt,
        request.rule,
        special_ids(loaded.tokenizer),
    )
    for chunk_BS in stepper.chunks(whole[:-1].expand(2, -1), FORCED):
        if control.requested() is Request.STOP:
            return None
        control.check()
        first = stepper.consumed
        logits_BSV = stepper(chunk_BS, all_logits=True)
        skip = max(0, prompt - 1 - first)  # predictions within the prompt are not compared
        if skip >= chunk_BS.shape[1]:
            continue
        target_T = whole[first + skip + 1 : first + chunk_BS.shape[1] + 1]
        part = metrics.divergence(logits_BSV[0, skip:], logits_BSV[1, skip:], target_T)
        for kept, new in zip(total, part, strict=True):
            kept.extend(new)
    return total
