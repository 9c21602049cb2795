"""Measures co-activation and decoder neighbours on stores and decoders of any size.

Rows are plain: what was measured, its goal in milliseconds, the median and slowest of the rounds,
and the median of the processor's time. The first round of a feature reads it from disk or page
cache, whichever holds it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mistudio.ml.features.coactivation import coactivation, measures, strongest
from mistudio.ml.features.decoder_rows import GEOMETRY, neighbours, read_geometry
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
        seconds = [_timed(lambda index: _partners(store, index), index) for index in chosen]
        counts = count_F[chosen]
        share = float(counts.mean()) / store.kept_tokens
        found.append(_row(name, goal, seconds, features=store.n_features, density=share))
    return found


def bench_neighbours(
    folder: Path, *, features: int = 131_072, width: int = 2_304, rounds: int = ROUNDS
) -> list[dict[str, Any]]:
    """The top 10 by cosine to one decoder row: kept with the SAE, and found by reading all rows.

    The rows are float32 and memory-mapped, as in the library. Writes a random decoder into
    `folder` (4 bytes an entry) and removes it afterwards.
    """
    paths = folder / "bench-decoder.npy", folder / "bench-geometry.npy"
    chance = np.random.default_rng(0)
    try:
        rows_FO = np.lib.format.open_memmap(paths[0], "w+", np.float32, (features, width))
        lengths_F = np.empty(features, np.float32)
        for start in range(0, features, 4096):
            part = chance.standard_normal((min(4096, features - start), width), np.float32)
            rows_FO[start : start + len(part)] = part
            lengths_F[start : start + len(part)] = np.linalg.norm(part, axis=1)
        rows_FO.flush()
        np.save(paths[1], np.zeros(features, GEOMETRY))
        mapped = np.load(paths[0], mmap_mode="r").view(np.ndarray)
        chosen = chance.integers(0, features, rounds + 1).tolist()

        def read(index: int) -> None:
            neighbours(mapped, mapped[index], 10, leave_out=index, lengths_F=lengths_F)

        def look_up(index: int) -> None:
            kept = read_geometry(paths[1])
            assert kept is not None
            kept["nearest"][index].tolist()

        return [
            _row(name, NEIGHBOURS_GOAL_MS, [_timed(work, i) for i in chosen][1:], **facts)
            for name, work, facts in (
                ("top-10 neighbours, kept", look_up, {"features": features, "width": width}),
                ("top-10 neighbours, all rows", read, {"features": features, "width": width}),
            )
        ]
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


def bench_all_pairs(
    *, features: int = 32_768, width: int = 768, device: torch.device | str = "cpu"
) -> list[dict[str, Any]]:
    """The ten nearest of every row of a random decoder, once; a 32k one takes a minute on a CPU."""
    generator = torch.Generator().manual_seed(0)
    W_dec_FO = torch.randn(features, width, generator=generator)
    zeros = torch.zeros(features), torch.zeros(width)
    sae = SparseAutoencoder(W_dec_FO.T, zeros[0], W_dec_FO, zeros[1], "standard").to(device)
    seconds = [_timed(lambda _: measure_geometry(sae), 0)]
    name = f"all-pairs top-10, {torch.device(device).type}"
    return [_row(name, ALL_PAIRS_GOAL_MS, seconds, features=features, width=width)]


def _partners(store: FeatureStore, feature: int) -> None:
    found = coactivation(store, feature)
    values = measures(store, found)
    for name in ("pearson", "pmi"):
        strongest(found, values[name], 20)


class _Seconds(NamedTuple):
    """What passed, and what this process worked: the two differ on a machine with other work."""

    wall: float
    cpu: float


def _timed(work: Callable[[int], object], index: int) -> _Seconds:
    began = time.perf_counter(), time.process_time()
    work(index)
    return _Seconds(time.perf_counter() - began[0], time.process_time() - began[1])


def _row(name: str, goal_ms: float, seconds: list[_Seconds], **facts: Any) -> dict[str, Any]:
    return {
        "what": name,
        **facts,
        "goal_ms": goal_ms,
        "median_ms": 1e3 * statistics.median(s.wall for s in seconds),
        "slowest_ms": 1e3 * max(s.wall for s in seconds),
        "cpu_ms": 1e3 * statistics.median(s.cpu for s in seconds),
        "rounds": len(seconds),
    }
