"""What trainings read from their source: hooks, statistics, windows' feeds."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mistudio.core.errors import StudioError
from mistudio.core.events import Reporter
from mistudio.core.training_configs import TrainConfig
from mistudio.core.training_rules import begins_in_subspace, is_whitened
from mistudio.jobs import training_starts
from mistudio.jobs.context import JobContext, StageReporter
from mistudio.jobs.training_source import TrainingSource
from mistudio.jobs.training_starts import STATISTICS

if TYPE_CHECKING:
    from mistudio.ml.activations.multi_capture import HookPoint
    from mistudio.ml.activations.readers import RowReader
    from mistudio.ml.activations.statistics import StreamStatistics
    from mistudio.ml.activations.windows import Feed
    from mistudio.ml.training.run_state import TargetStatistics

MEASURED = 0.04  # of a training's progress goes to measuring the activations


class Reads(Protocol):
    """A training, as far as what it reads is concerned."""

    @property
    def config(self) -> TrainConfig: ...

    @property
    def folder(self) -> Path: ...

    @property
    def report(self) -> Reporter: ...


def target_of(statistics: StreamStatistics) -> TargetStatistics:
    """What a transcoder is told of its target."""
    import torch

    from mistudio.ml.training.run_state import TargetStatistics

    mean_O = torch.as_tensor(statistics.mean_D)
    return TargetStatistics(mean_O, statistics.scale, statistics.variance)


def pair_of(config: TrainConfig) -> tuple[HookPoint, HookPoint | None]:
    """What a training reads and, a transcoder, what it is to give."""
    from mistudio.ml.activations.multi_capture import HookPoint

    point = HookPoint(config.layer, config.hook_read)
    return point, None if config.encoder == "sae" else HookPoint(config.layer, config.hook_written)


def points_of(runs: Sequence[Reads]) -> list[HookPoint]:
    """Every hook point that is read, each once, layer by layer."""
    return sorted({point for run in runs for point in pair_of(run.config) if point is not None})


def measured_feeds(
    ctx: JobContext, source: TrainingSource, reader: RowReader, runs: Sequence[Reads]
) -> list[Feed]:
    """What is read, with its statistics: those of an earlier turn, else measured now."""
    from mistudio.ml.activations.statistics import (
        StatisticsSettings,
        measure_hooks,
    )
    from mistudio.ml.activations.statistics_file import load_statistics, save_statistics
    from mistudio.ml.activations.windows import Feed
    from mistudio.ml.training import keeping

    config = runs[0].config
    known: dict[HookPoint, StreamStatistics] = {}
    for run in runs:
        with contextlib.suppress(StudioError):  # a start that is gone is told when it is needed
            training_starts.inherit_statistics(ctx.studio, run.config, run.folder)
        for point, file in zip(pair_of(run.config), STATISTICS, strict=True):
            if point is not None and (run.folder / file).exists():
                found = load_statistics(run.folder / file)
                if point not in known or found.whitening is not None:
                    known[point] = found
    whitened = {pair_of(run.config)[0] for run in runs if is_whitened(run.config)}
    # what has begun needs no first directions, and is to find its statistics as they were
    directed = {
        pair_of(run.config)[0]
        for run in runs
        if begins_in_subspace(run.config) and not keeping.list_checkpoints(run.folder)
    }
    missing = [
        point
        for point in reader.points
        if point not in known or (point in whitened | directed and known[point].whitening is None)
    ]
    if missing:
        settings = StatisticsSettings(norm_cut=config.norm_cut, mask_special=config.mask_special)
        report = StageReporter(runs[0].report, 0.0, MEASURED)
        known |= measure_hooks(
            reader, source.table, missing, settings, report, ctx.control, whitened, directed
        )
    pairs: dict[tuple[HookPoint, HookPoint | None], None] = {}
    for run in runs:
        pair = pair_of(run.config)
        for point, file in zip(pair, STATISTICS, strict=True):
            if point is not None:
                kept = known[point]
                needed = is_whitened(run.config) or begins_in_subspace(run.config)
                if not needed or point != pair[0]:
                    kept = kept.with_whitening(None)
                save_statistics(run.folder / file, kept)
        pairs[pair] = None
    return [
        Feed(point, known[point], target, known[target] if target else None, config.norm_cut)
        for point, target in pairs
    ]
