"""How much of the possible rate a live training keeps.

The floor is a bare loop of truncated forward passes over the same rows, and the bare training
step on batches held in memory, both measured before and after the training itself.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import torch

from mistudio.core.control import JobControl
from mistudio.core.events import SilentReporter
from mistudio.core.training_configs import TrainConfig
from mistudio.jobs import lookup, tokenize
from mistudio.jobs.context import JobContext
from mistudio.jobs.runner import Studio
from mistudio.ml.activations.capture import Capture
from mistudio.ml.activations.masking import default_forward_batch
from mistudio.ml.activations.multi_capture import HookPoint
from mistudio.ml.activations.statistics import StatisticsSettings, reference_statistics
from mistudio.ml.activations.stream import open_stream
from mistudio.ml.data.token_store import TokenStore
from mistudio.ml.training.loop import train
from mistudio.store.tables import JOBS
from tests.helpers.studio import new_studio


def measure(
    home: Path,
    *,
    model: str,
    layer: int,
    width: int,
    tokens: int,
    dataset: str = "sample",
    batch: int = 2048,
    window: int = 131_072,
    studio: Studio | None = None,
) -> dict[str, Any]:
    """Rates in tokens/s: forward, step, live, floor, and ratio = live / floor."""
    studio = studio or new_studio(home)
    config = TrainConfig(
        model=model, dataset=dataset, layer=layer, width=width, k=32, tokens=tokens,
        batch=batch, window=window, checkpoint_every=0,
    )  # fmt: skip
    row = lookup.model(studio, model)
    job = JOBS.insert(studio.db(), kind="bench", lane="gpu", title="x", status="completed")
    ctx = JobContext(studio, job, SilentReporter(), JobControl())
    found = tokenize.for_training(ctx, dataset, row, 128)
    loaded = studio.models.get(row, studio.paths.absolute(row.path))
    capture = Capture(loaded, layer, "resid_post")
    store = TokenStore(studio.paths.absolute(found.path or ""))
    statistics = reference_statistics(capture, store, StatisticsSettings(min_tokens=20_000))
    forwards = [_forward_rate(capture, store)]
    point = HookPoint(layer, "resid_post")
    with open_stream(
        loaded, point, store, statistics, batch=batch, window=window, seed=0, folder=home
    ) as stream:
        held = list(itertools.islice(stream, 4))
        steps = [_step_rate(config, held, statistics, home / "step1")]
    with open_stream(
        loaded, point, store, statistics, batch=batch, window=window, seed=0, folder=home
    ) as stream:
        began = time.perf_counter()
        result = train(config, stream, statistics, home / "live", SilentReporter(), JobControl())
        live = result.tokens / (time.perf_counter() - began)
        forwarded = stream.counts
    forwards.append(_forward_rate(capture, store))
    steps.append(_step_rate(config, held, statistics, home / "step2"))
    forward, step = max(forwards), max(steps)
    floor = 1 / (1 / forward + 1 / step)
    return {
        "forward": forward,
        "step": step,
        "live": live,
        "floor": floor,
        "ratio": live / floor,
        "masked": forwarded,
        "threads": torch.get_num_threads(),
    }


def _forward_rate(capture: Capture, store: TokenStore) -> float:
    rows = default_forward_batch(store.context)
    ids = [
        torch.from_numpy(store.ids[i * rows : (i + 1) * rows].astype("int64")) for i in range(24)
    ]
    capture(ids[0])
    began = time.perf_counter()
    for ids_BS in ids:
        capture(ids_BS)
    return sum(i.numel() for i in ids) / (time.perf_counter() - began)


class _Held:
    """Batches from memory, again and again."""

    def __init__(self, batches: list[torch.Tensor]) -> None:
        self._cycle = itertools.cycle(batches)

    def __iter__(self) -> _Held:
        return self

    def __next__(self) -> torch.Tensor:
        return next(self._cycle)

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        return


def _step_rate(config: TrainConfig, held: list[torch.Tensor], statistics: Any, at: Path) -> float:
    import dataclasses

    short = dataclasses.replace(config, tokens=config.batch * 30)
    result = train(short, _Held(held), statistics, at, SilentReporter(), JobControl())
    return result.tokens / result.seconds
