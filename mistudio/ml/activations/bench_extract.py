"""Measures an extraction against the forward passes that it cannot do without, in turn."""

from __future__ import annotations

import shutil
import statistics
import time
from pathlib import Path

import torch

from mistudio.core.control import JobControl
from mistudio.core.events import SilentReporter
from mistudio.ml.activations.batch import Batch
from mistudio.ml.activations.capture import Capture
from mistudio.ml.activations.extract import ExtractSettings, calm_batch, extract
from mistudio.ml.data.token_store import TokenStore
from mistudio.ml.device import synchronize
from mistudio.ml.loading import LoadedModel


def bench_extract(
    loaded: LoadedModel, tokens: TokenStore, settings: ExtractSettings, scratch: Path, rounds: int
) -> dict[str, float]:
    """Median over `rounds` of the time of bare truncated passes ÷ the time of the extraction.

    Both read the same batches of the same rows. The bare passes end after the last layer's block
    and drop what they compute; the extraction is the job's, with statistics and files (in
    `scratch`, removed again). Rates in tokens per second.
    """
    bare, own, count = [], [], 0
    for number in range(rounds + 1):
        bare_s, count = _bare(loaded, tokens, settings)
        folder = scratch / f"bench-{number}"
        began = time.perf_counter()
        try:
            extract(loaded, tokens, settings, folder, SilentReporter(), JobControl())
            synchronize(loaded.device)
            own_s = time.perf_counter() - began
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if number:  # the first round warms both up
            bare.append(bare_s)
            own.append(own_s)
    return {
        "tokens": count,
        "layers": len(settings.layers),
        "hooks": len(settings.hooks),
        "rounds": rounds,
        "bare_tokens_per_s": count / statistics.median(bare),
        "tokens_per_s": count / statistics.median(own),
        "ratio": statistics.median(b / o for b, o in zip(bare, own, strict=True)),
    }


def _bare(loaded: LoadedModel, tokens: TokenStore, settings: ExtractSettings) -> tuple[float, int]:
    """Seconds of the forward passes alone, and how many tokens they read."""
    capture = Capture(loaded, max(settings.layers), "resid_post")
    rows = min(settings.rows or len(tokens), len(tokens))
    size = calm_batch(loaded, tokens.context, settings.batch)
    count = 0
    began = time.perf_counter()
    with torch.inference_mode():
        for low in range(0, rows, size):
            batch = Batch(tokens, low, min(rows, low + size), None)
            capture(batch.ids_BS)
            count += len(batch)
    synchronize(loaded.device)
    return time.perf_counter() - began, count
