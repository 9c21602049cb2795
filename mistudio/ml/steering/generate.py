"""Generates several rows from one prompt in one batch: unsteered, steered, sampled, greedy."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from mistudio.core.control import JobControl, Request
from mistudio.ml.loading import LoadedModel
from mistudio.ml.steering.forward import PREFILL, Stepper
from mistudio.ml.steering.hook import SteeringHook
from mistudio.ml.steering.positions import special_ids
from mistudio.ml.steering.sampling import SamplingSettings, choose, gumbel_noise

END, LENGTH, TIME, STOPPED = "end", "length", "time", "stopped"


class Row(NamedTuple):
    """One text of a batch."""

    steered: bool
    greedy: bool


@dataclass
class Generated:
    """What came out; lists have one entry per row.

    `reasons`: "end" (the model ended the text), "length", "time", "stopped" (by the user).
    `acted`, `positions`: tokens changed and tokens read in the first steered row;
    `ratios`: |delta| / |x| of the changed ones.
    """

    ids: list[list[int]]
    reasons: list[str]
    acted: int = 0
    positions: int = 0
    ratios: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Continuation:
    """A prompt and how it is continued."""

    prompt_ids: tuple[int, ...]
    rows: tuple[Row, ...]
    max_tokens: int
    sampling: SamplingSettings
    rule: str = "all"  # positions that are steered
    time_limit: float = float("inf")  # seconds


def end_ids(loaded: LoadedModel) -> frozenset[int]:
    """Ids that end a text: those of the tokenizer and of the model's generation settings."""
    named = getattr(getattr(loaded.model, "generation_config", None), "eos_token_id", None)
    listed = named if isinstance(named, (list, tuple)) else [named]
    return frozenset(int(i) for i in (*listed, loaded.tokenizer.eos_token_id) if i is not None)


def generate(
    loaded: LoadedModel,
    request: Continuation,
    hook: SteeringHook | None,
    control: JobControl,
    *,
    on_token: Callable[[int, int], None] = lambda _row, _token: None,
    on_logits: Callable[[torch.Tensor], None] = lambda _logits: None,
) -> Generated:
    """Continue the prompt in every row until all have ended.

    The hook must be entered already; it edits the rows marked steered. `on_token` hears of each
    new token (row, id), `on_logits` of each step's logits [B, V] before any sampling rule. A stop
    by the user or the time limit keeps what there is; a cancel raises `Cancelled`.
    """
    rows = request.rows
    count = len(rows)
    device = loaded.device
    greedy_B = torch.tensor([row.greedy for row in rows], device=device)
    steered_B = torch.tensor([row.steered for row in rows], device=device)
    first_steered = next((i for i, row in enumerate(rows) if row.steered), None)
    special, ends = special_ids(loaded.tokenizer), end_ids(loaded)
    stepper = Stepper(loaded, hook, steered_B, len(request.prompt_ids), request.rule, special)
    found = Generated([[] for _ in rows], [""] * count)
    began = time.monotonic()
    prompt_BS = torch.tensor([request.prompt_ids] * count, device=device)
    seen = [torch.tensor(request.prompt_ids, device=device) for _ in rows]
    logits_BV = torch.empty(0)
    for chunk_BS in stepper.chunks(prompt_BS, PREFILL):
        if (reason := _interrupted(control, began, request.time_limit)) is not None:
            found.reasons = [reason] * count
            return found
        logits_BV = stepper(chunk_BS)
        _account(found, hook, first_steered, chunk_BS.shape[1])
    for step in range(request.max_tokens):
        if (reason := _interrupted(control, began, request.time_limit)) is not None:
            found.reasons = [old or reason for old in found.reasons]
            break
        on_logits(logits_BV)
        noise_V = None
        if request.sampling.temperature > 0 and not bool(greedy_B.all()):
            noise_V = gumbel_noise(request.sampling.seed, step, logits_BV.shape[1]).to(device)
        next_B = choose(logits_BV, seen, request.sampling, greedy_B, noise_V)
        for row, token in enumerate(next_B.tolist()):
            if found.reasons[row]:
                continue
            if token in ends:
                found.reasons[row] = END
                stepper.steered_B[row] = False
                continue
            found.ids[row].append(token)
            on_token(row, token)
        seen = [torch.cat([ids, token[None]]) for ids, token in zip(seen, next_B, strict=True)]
        if all(found.reasons) or step + 1 == request.max_tokens:
            break
        logits_BV = stepper(next_B[:, None])
        if first_steered is not None and not found.reasons[first_steered]:
            _account(found, hook, first_steered, 1)
    found.reasons = [reason or LENGTH for reason in found.reasons]
    return found


def _interrupted(control: JobControl, began: float, limit: float) -> str | None:
    """Why generation must end now; waits while paused, raises `Cancelled`."""
    if control.requested() is Request.STOP:
        return STOPPED
    control.check()
    return TIME if time.monotonic() - began > limit else None


def _account(found: Generated, hook: SteeringHook | None, row: int | None, tokens: int) -> None:
    if row is None or hook is None or hook.acted_BS is None or hook.ratio_BS is None:
        return
    acted_S = hook.acted_BS[row]
    found.acted += int(acted_S.sum())
    found.positions += tokens
    found.ratios += hook.ratio_BS[row][acted_S].tolist()


def sampled_and_greedy(temperature: float) -> tuple[Row, ...]:
    """Baseline and steered, and their greedy twins unless sampling is off anyway."""
    pair: Sequence[Row] = (Row(False, temperature == 0), Row(True, temperature == 0))
    twins = () if temperature == 0 else (Row(False, True), Row(True, True))
    return (*pair, *twins)
