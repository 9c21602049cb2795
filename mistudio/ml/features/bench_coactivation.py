"""Measures co-activation and decoder neighbours on stores and decoders of any size.

Rows are plain: what was measured, its goal in milliseconds, and the median and slowest of the
rounds. The first round of a feature reads it from disk or page cache, whichever holds it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mistudio.ml.features.coactivation import coactivation, measures, strongest
from mistudio.ml.features.decoder_rows import neighbours
from mistudio.ml.features.feature_store import FeatureStore
from mistudio.ml.features.geometry import measure_geometry
from mistudio.ml.sae.base import SparseAutoencoder

ROUNDS = 5
MEDIAN_GOAL_MS, DENSE_GOAL_MS = 100.0, 2_000.0
DENSE = 0.10
NEIGHBOURS_GOAL_MS, ALL_PAIRS_GOAL_MS = 60.0, 5_000.0


def bench_coactivation(
    store: FeatureStore, *, features: int = 20, rounds: int = ROUNDS
) -> list[dict[str, Any]]:
    """Exact top-20 partners by Pearson and PMI of features of median density, and of a dense one.

    The median is that of the live features; `features` neighbours of it in density are timed, each
    once, and the one nearest to 10 % of tokens `rounds` times.
    """
    count_F = store.statistics["count"]
    live = np.flatnonzero(count_F)
    order = live[np.argsort(count_F[live], kind="stable")]
    middle = max(0, order.size // 2 - features // 2)
    near = order[middle : middle + features].tolist()
    dense = int(live[np.abs(count_F[live] / store.kept_tokens - DENSE).argmin()])
    found = []
    for name, chosen, goal in (
        ("top-20 partners, median density", near, MEDIAN_GOAL_MS),
        ("top-20 partners, 10 % dense", [dense] * rounds, DENSE_GOAL_MS),
    ):
        seconds = [_timed(lambda i=index: _partners(store, i)) for index in chosen]
        counts = count_F[chosen]
        share = float(counts.mean()) / store.kept_tokens
        found.append(_row(name, goal, seconds, features=store.n_features, density=share))
    return found


def bench_neighbours(
    folder: Path, *, features: int = 131_072, width: int = 2_304, rounds: int = ROUNDS
) -> list[dict[str, Any]]:
    """The top 10 by cosine to one row of an fp16 decoder on disk, memory-mapped.

    Writes a random decoder into `folder` (2 bytes an entry) and removes it afterwards.
    """
    path = folder / "decoder.npy"
    chance = np.random.default_rng(0)
    rows_FO = np.lib.format.open_memmap(path, "w+", np.float16, (features, width))
    try:
        for start in range(0, features, 4096):
            size = min(4096, features - start)
            rows_FO[start : start + size] = chance.standard_normal((size, width), np.float32)
        rows_FO.flush()
        mapped = np.load(path, mmap_mode="r").view(np.ndarray)
        chosen = chance.integers(0, features, rounds + 1).tolist()
        seconds = [
            _timed(lambda i=index: neighbours(mapped, mapped[i], 10, leave_out=i))
            for index in chosen
        ]
        name = "top-10 neighbours, fp16 memory-mapped"
        return [_row(name, NEIGHBOURS_GOAL_MS, seconds[1:], features=features, width=width)]
    finally:
        del rows_FO
        path.unlink(missing_ok=True)


def bench_all_pairs(
    *, features: int = 32_768, width: int = 768, device: torch.device | str = "cpu"
) -> list[dict[str, Any]]:
    """The ten nearest of every row of a random decoder, once; a 32k one takes a minute on a CPU."""
    generator = torch.Generator().manual_seed(0)
    W_dec_FO = torch.randn(features, width, generator=generator)
    zeros = torch.zeros(features), torch.zeros(width)
    sae = SparseAutoencoder(W_dec_FO.T, zeros[0], W_dec_FO, zeros[1], "standard").to(device)
    seconds = [_timed(lambda: measure_geometry(sae))]
    name = f"all-pairs top-10, {torch.device(device).type}"
    return [_row(name, ALL_PAIRS_GOAL_MS, seconds, features=features, width=width)]


def _partners(store: FeatureStore, feature: int) -> None:
    found = coactivation(store, feature)
    values = measures(store, found)
    for name in ("pearson", "pmi"):
        strongest(found, values[name], 20)


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _row(name: str, goal_ms: float, seconds: list[float], **facts: Any) -> dict[str, Any]:
    return {
        "what": name,
        **facts,
        "goal_ms": goal_ms,
        "median_ms": 1e3 * statistics.median(seconds),
        "slowest_ms": 1e3 * max(seconds),
        "rounds": len(seconds),
    }
