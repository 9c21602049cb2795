"""The time of one feature's own ablation in a live session, beside what its arithmetic takes."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

from mistudio.core.analysis_configs import AblateConfig
from mistudio.core.errors import NotFound
from mistudio.jobs import ablation_bench, feature_pages, lookup
from mistudio.jobs.ablate import TOLD_FIRST
from mistudio.jobs.bench_features import World

if TYPE_CHECKING:
    import torch

    from mistudio.ml.features.ablation import Effect
    from mistudio.ml.features.rerun import Rerun

_GEMMS = 5


def measure(world: World) -> list[dict[str, Any]]:
    """One row over `rounds` live features of the newest SAE, chosen from a fixed seed.

    The model is loaded; the first call, which also reads the random windows, is told by itself.
    `floor_ms` is the work of the matrix products that cannot be left out over the best rate of a
    block's largest one, measured between the features with the same threads; medians.
    """
    import numpy as np
    import torch

    from mistudio.ml.features.ablation import AblationSettings, Ablator

    studio, config = world.studio, AblateConfig()
    try:
        row = lookup.sae(studio, "last")
        found = feature_pages.feature_set(studio, row)
    except NotFound:
        if world.arguments.only:
            raise
        return []  # all measurements were asked for, and there is nothing to ablate
    model = lookup.model_of(studio, row)
    studio.models.get(model, studio.paths.absolute(model.path))
    began = time.monotonic()
    loaded, rerun, sae, kept = ablation_bench.bench(studio, row, found, config.window_tokens)
    store = feature_pages.open_store(studio, found)
    settings = AblationSettings(windows=config.windows, tokens=config.window_tokens)
    ablator = Ablator(rerun, sae, store, settings, kept=kept)
    live = np.flatnonzero(np.asarray(store.statistics["count"]) > 0)
    chosen = np.random.default_rng(0).permutation(live)[: world.arguments.rounds + 1].tolist()
    ablator.effect(chosen[0], detail=True)
    first_call_s = time.monotonic() - began
    told: list[float] = []
    lines: list[dict[str, float]] = []
    rate = 0.0
    for feature in chosen[1:]:
        rate = max(rate, _gemm_rate(rerun, config.windows * ablator.window_tokens))
        began, cpu = time.monotonic(), time.process_time()
        effect = ablator.effect(
            feature,
            detail=True,
            first=TOLD_FIRST,
            tell=lambda _effect: told.append(time.monotonic()),
        )
        lines.append(
            {
                "own": time.monotonic() - began,
                "cpu": time.process_time() - cpu,
                "first": (told[-1] if told else time.monotonic()) - began,
                "work": _work(rerun, effect, config.windows * ablator.window_tokens, row.layer),
            }
        )
        told.clear()
    middle = {name: statistics.median(line[name] for line in lines) for name in lines[0]}
    floor_s = middle["work"] / rate
    return [
        {
            "measurement": "ablate one feature, its own effect",
            "model": model.name,
            "sae": row.name,
            "windows": f"{config.windows} top + {config.windows} random",
            "window_tokens": ablator.window_tokens,
            "features": len(lines),
            "threads": torch.get_num_threads(),
            "first_call_ms": round(1000 * first_call_s),
            f"strongest_{TOLD_FIRST}_windows_ms": round(1000 * middle["first"]),
            "own_ms": round(1000 * middle["own"]),
            "own_cpu_ms": round(1000 * middle["cpu"]),
            "gflop": float(f"{middle['work'] / 1e9:.4g}"),
            "gemm_gflop_per_s": round(rate / 1e9, 1),
            "floor_ms": round(1000 * floor_s),
            "own_over_floor": round(middle["own"] / floor_s, 2),
            "device": str(loaded.device),
        }
    ]


def _work(rerun: Rerun, effect: Effect, tokens: int, layer: int | None) -> float:
    """FLOP that no exact way leaves out: a clean pass over the top windows, the blocks behind the
    hook where a change reaches, and the output matrix there, of random windows only changed."""
    blocks = [2.0 * sum(map(_entries, block.parameters())) for block in rerun.loaded.blocks.modules]
    matrix = rerun.loaded.blocks.unembedding
    head = 0.0 if matrix is None else 2.0 * sum(map(_entries, matrix.parameters()))
    behind = sum(blocks[(layer or 0) + 1 :])
    top, anywhere = effect.top["reached"], (effect.random or {}).get("reached", 0)
    return tokens * sum(blocks) + (top + anywhere) * behind + (2 * top + anywhere) * head


def _entries(weight: torch.Tensor) -> int:
    return weight.numel() if weight.ndim == 2 else 0


def _gemm_rate(rerun: Rerun, rows: int) -> float:
    """FLOP per second of the largest matrix of a block on that many rows, at its best."""
    import torch

    weights = [w for w in rerun.loaded.blocks.modules[0].parameters() if w.ndim == 2]
    weight = max(weights, key=_entries).detach()
    x = torch.randn(rows, weight.shape[1], dtype=weight.dtype, device=weight.device)
    best = float("inf")
    with torch.inference_mode():
        for _ in range(_GEMMS):
            _settle(weight.device)
            began = time.perf_counter()
            torch.nn.functional.linear(x, weight)
            _settle(weight.device)
            best = min(best, time.perf_counter() - began)
    return 2.0 * rows * weight.numel() / best


def _settle(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
