"""Activations of prompts at one hook: of the last token of each, or the mean over its tokens.

Special tokens never count, nor do attention sinks: tokens whose norm exceeds ten median norms of
all tokens read. Without that rule the first token of each prompt would outweigh all others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mistudio.core.errors import InvalidInput
from mistudio.ml.activations.capture import Capture, check_ids
from mistudio.ml.loading import LoadedModel
from mistudio.ml.steering.positions import special_ids

NORM_CUT = 10.0  # median norms
MOST_TOKENS = 512  # of one prompt
BATCH_TOKENS = 2048


class Read(NamedTuple):
    """One activation per prompt, float64 [N, D], and the median norm of all tokens that count."""

    x_ND: NDArray[np.float64]
    median_norm: float
    tokens: int


class _Prompt(NamedTuple):
    ids: list[int]
    content_S: torch.Tensor  # bool


def read_prompts(
    loaded: LoadedModel,
    layer: int,
    hook: str,
    prompts: Sequence[str],
    reading: str = "last",
    *,
    step: Callable[[float], None] = lambda _done: None,
) -> Read:
    """What the model holds at a hook after each prompt; `reading` is "last" or "mean".

    `step` gets the share done and may raise. Raises `InvalidInput` for a prompt that is too long
    or has no token that counts, and as `Capture` does for places that cannot be read.
    """
    capture = Capture(loaded, layer, hook)
    rows = [_tokens(loaded, prompt) for prompt in prompts]
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].ids))
    batches = _batches([len(rows[index].ids) for index in order])
    norms: list[torch.Tensor] = [torch.empty(0)] * len(rows)
    for done, (low, high) in enumerate(batches):
        step(0.5 * done / len(batches))
        for index, x_SD in _forward(capture, rows, order[low:high]):
            norms[index] = x_SD.norm(dim=1)
    every = torch.cat([norms[i][row.content_S] for i, row in enumerate(rows)])
    if not every.isfinite().all():
        raise InvalidInput(
            "Some activations are no finite numbers in the model's precision; load it as bf16 or "
            "fp32."
        )
    median = float(every.median())
    x_ND = np.empty((len(rows), capture.d))
    used = 0
    for done, (low, high) in enumerate(batches):
        step(0.5 + 0.5 * done / len(batches))
        for index, x_SD in _forward(capture, rows, order[low:high]):
            counts_S = rows[index].content_S & (norms[index] <= NORM_CUT * median)
            if not counts_S.any():
                raise InvalidInput(
                    f"The prompt {_short(prompts[index])} has no token that counts: all are "
                    "special or of extreme norm. Make it longer."
                )
            used += int(counts_S.sum())
            chosen_TD = x_SD[counts_S].double()
            x_ND[index] = (chosen_TD[-1] if reading == "last" else chosen_TD.mean(0)).numpy()
    return Read(x_ND, median, used)


def _tokens(loaded: LoadedModel, prompt: str) -> _Prompt:
    ids = [int(i) for i in loaded.tokenizer(prompt, verbose=False)["input_ids"]]
    most = min(MOST_TOKENS, loaded.facts.max_positions or MOST_TOKENS)
    if len(ids) > most:
        raise InvalidInput(
            f"The prompt {_short(prompt)} has {len(ids):,} tokens; at most {most:,} are read."
        )
    special = special_ids(loaded.tokenizer)
    content_S = torch.tensor([i not in special for i in ids], dtype=torch.bool)
    if not content_S.any():
        raise InvalidInput(f"The prompt {_short(prompt)} holds no text, only special tokens.")
    return _Prompt(ids, content_S)


def _short(prompt: str) -> str:
    words = " ".join(prompt.split())
    return f"“{words[:40]}…”" if len(words) > 40 else f"“{words}”"


def _batches(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Runs of rows (rising lengths) whose padded size stays within `BATCH_TOKENS`."""
    found, low = [], 0
    for high in range(1, len(lengths) + 1):
        full = high == len(lengths) or lengths[high] * (high + 1 - low) > BATCH_TOKENS
        if full:
            found.append((low, high))
            low = high
    return found


def _forward(
    capture: Capture, rows: Sequence[_Prompt], chosen: Sequence[int]
) -> list[tuple[int, torch.Tensor]]:
    """Activations x [S, D] of rows, fp32 on the CPU; padding stands behind, where it is not read"""
    width = max(len(rows[index].ids) for index in chosen)
    ids_BS = torch.tensor([rows[i].ids + [0] * (width - len(rows[i].ids)) for i in chosen])
    check_ids(ids_BS, capture.loaded.facts.vocab_size)
    x_BSD = capture(ids_BS).float().cpu()
    return [(i, x_BSD[place, : len(rows[i].ids)]) for place, i in enumerate(chosen)]
