"""Lets unsteered and steered variants read the same text and compares their predictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from mistudio.core.control import JobControl, Request
from mistudio.core.errors import Cancelled
from mistudio.ml.steering import metrics
from mistudio.ml.steering.forward import FedRow, Stepper
from mistudio.ml.steering.generate import prompt_pass
from mistudio.ml.steering.operators import BASELINE
from mistudio.ml.steering.prompts import Prompt
from mistudio.ml.steering.steered_model import SteeredModel

FORCED = 64  # tokens of a row per pass when all logits are wanted
ENTRIES = 1 << 24  # logits held at a time


def predictions(
    model: SteeredModel,
    rows: Sequence[FedRow],
    texts: Sequence[Sequence[int]],
    control: JobControl,
    *,
    cached: bool = True,
) -> Iterator[tuple[int, torch.Tensor]]:
    """What each row's variant predicts for each token of its text, which follows its prompt.

    Yields (first, logits [B, S, V] in fp32): those at [b, s] predict texts[b][first + s]; behind
    the end of a text they mean nothing. Texts may be of unlike length, prompts too. The passes are
    sized so that the logits stay small and a cancel acts soon. Raises `Cancelled` on a stop
    or cancel, and what the `Stepper` raises.
    """
    stepper = Stepper(model, rows, cached=cached)
    longest = max((len(text) for text in texts), default=0)
    if not longest:
        return
    most = prompt_pass(model.loaded, len(rows))
    passes = stepper.prompt_chunks(most)
    last_BV = torch.zeros(0)
    while not stepper.has_read_prompt:
        control.check()
        last_BV = next(passes)
    fed_BT = torch.zeros(len(rows), longest - 1, dtype=torch.int64)
    real_BT = torch.zeros(len(rows), longest - 1, dtype=torch.bool)
    for row, text in enumerate(texts):
        known = text[:-1] if len(text) == longest else text
        fed_BT[row, : len(known)] = torch.tensor(list(known), dtype=torch.int64)
        real_BT[row, : len(known)] = True
    yield 0, last_BV[:, None]
    size = max(1, min(FORCED, most, ENTRIES // (len(rows) * last_BV.shape[1])))
    for first in range(0, longest - 1, size):
        control.check()
        part = slice(first, first + size)
        logits_BSV = stepper(fed_BT[:, part], all_logits=True, real_BS=real_BT[:, part])
        yield first + 1, logits_BSV


def divergences(
    model: SteeredModel,
    prompt: Prompt,
    variant: str,
    texts: Sequence[Sequence[int]],
    control: JobControl,
) -> list[metrics.Divergence] | None:
    """How the baseline and a variant differ on each of the texts; None if the user stops meanwhile.

    All is read in one batch: rows 2i and 2i + 1 are the baseline and the variant on text i.
    """
    total = [metrics.Divergence([], [], []) for _ in texts]
    rows = [FedRow(prompt, name) for _ in texts for name in (BASELINE, variant)]
    fed = [text for text in texts for _ in range(2)]
    try:
        for first, logits_BSV in predictions(model, rows, fed, control):
            _compare(total, texts, first, logits_BSV)
    except Cancelled:
        if control.requested() is Request.STOP:
            return None
        raise
    return total


def _compare(
    total: list[metrics.Divergence],
    texts: Sequence[Sequence[int]],
    first: int,
    logits_BSV: torch.Tensor,
) -> None:
    """Add what these predictions say of each text's tokens to its divergence."""
    for index, text in enumerate(texts):
        target_T = torch.tensor(list(text[first : first + logits_BSV.shape[1]]))
        count = len(target_T)
        if not count:
            continue
        part = metrics.divergence(
            logits_BSV[2 * index, :count],
            logits_BSV[2 * index + 1, :count],
            target_T.to(logits_BSV.device),
        )
        for kept, new in zip(total[index], part, strict=True):
            kept.extend(new)
