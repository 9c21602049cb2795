"""What a model would say after each layer, at each position of a prompt."""

from __future__ import annotations

import time
from typing import Any

from mistudio.core.errors import InvalidInput, Unsupported
from mistudio.core.model_configs import PromptLensConfig
from mistudio.jobs import lookup
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.runner import Studio

MOST_TOKENS = 256


def prepare(studio: Studio, config: PromptLensConfig) -> None:
    """Refuse a model without a logit lens before anything is queued."""
    row = lookup.model(studio, config.model)
    if not row.logit_lens_ready:
        why = str((row.layer_map or {}).get("lens_why", ""))
        raise Unsupported(f"{row.name!r} has no logit lens. {why}".rstrip(), code="no_lens")


def run(ctx: JobContext, config: PromptLensConfig) -> Result:
    """The grid: `cells[layer][position]` lists `[token, probability]`, the likeliest first.

    `tokens[position]` has the prompt's `text` and `id`; `layers` are "embedding" and the block
    numbers from 0. The last layer is the model's own prediction of the next token.
    """
    import torch

    from mistudio.ml.lens import prompt_lens

    row = lookup.model(ctx.studio, config.model)
    begun = time.monotonic()
    ctx.report.progress(0.0, "loading")
    loaded = ctx.studio.models.get(row, ctx.paths.absolute(row.path))
    ids = list(loaded.tokenizer(config.prompt, verbose=False)["input_ids"])
    most = min(MOST_TOKENS, row.max_positions or MOST_TOKENS)
    if len(ids) > most:
        raise InvalidInput(f"The prompt has {len(ids):,} tokens; at most {most} fit into the grid.")

    def step(done: float) -> None:
        ctx.control.check()
        ctx.report.progress(0.3 + 0.6 * done, "reading the layers")

    found = prompt_lens(loaded, torch.tensor(ids, dtype=torch.int64), config.top_k, step)
    names: dict[int, str] = {}

    def text(token: int) -> str:
        if token not in names:
            names[token] = str(loaded.tokenizer.decode([token]))
        return names[token]

    tensors: Any = found  # tolist is untyped
    ids_LSK: list[list[list[int]]] = tensors.top_ids_LSK.tolist()
    shares_LSK: list[list[list[float]]] = tensors.probabilities_LSK.tolist()
    cells = [
        [
            [[text(token), round(share, 6)] for token, share in zip(tokens, shares, strict=True)]
            for tokens, shares in zip(layer_ids, layer_shares, strict=True)
        ]
        for layer_ids, layer_shares in zip(ids_LSK, shares_LSK, strict=True)
    ]
    return {
        "model": row.id,
        "name": row.name,
        "format": loaded.format,
        "prompt": config.prompt,
        "tokens": [{"text": text(token), "id": token} for token in ids],
        "layers": ["embedding", *range(len(loaded.blocks))],
        "cells": cells,
        "seconds": round(time.monotonic() - begun, 3),
    }
