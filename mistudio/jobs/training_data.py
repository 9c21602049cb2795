"""What trainings read from their source: hooks, statistics, windows' feeds, calibration rows."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mistudio.core.control import JobControl, Request
from mistudio.core.errors import Cancelled, StudioError
from mistudio.core.events import Reporter
from mistudio.core.training_configs import TrainConfig
from mistudio.core.training_rules import is_whitened
from mistudio.jobs import checkpoints
from mistudio.jobs.checkpoints import STATISTICS
from mistudio.jobs.context import JobContext, StageReporter
from mistudio.jobs.training_source import TrainingSource

if TYPE_CHECKING:
    import torch

    from mistudio.ml.activations.multi_capture import HookPoint
    from mistudio.ml.activations.readers import RowReader
    from mistudio.ml.activations.statistics import StreamStatistics
    from mistudio.ml.activations.windows import Feed, Windows
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

    config = runs[0].config
    known: dict[HookPoint, StreamStatistics] = {}
    for run in runs:
        with contextlib.suppress(StudioError):  # a start that is gone is told when it is needed
            checkpoints.inherit_statistics(ctx.studio, run.config, run.folder)
        for point, file in zip(pair_of(run.config), STATISTICS, strict=True):
            if point is not None and (run.folder / file).exists():
                found = load_statistics(run.folder / file)
                if point not in known or found.whitening is not None:
                    known[point] = found
    whitened = {pair_of(run.config)[0] for run in runs if is_whitened(run.config)}
    missing = [
        point
        for point in reader.points
        if point not in known or (point in whitened and known[point].whitening is None)
    ]
    if missing:
        settings = StatisticsSettings(norm_cut=config.norm_cut, mask_special=config.mask_special)
        report = StageReporter(runs[0].report, 0.0, MEASURED)
        known |= measure_hooks(
            reader, source.table, missing, settings, report, ctx.control, whitened
        )
    pairs: dict[tuple[HookPoint, HookPoint | None], None] = {}
    for run in runs:
        pair = pair_of(run.config)
        for point, file in zip(pair, STATISTICS, strict=True):
            if point is not None:
                kept = known[point]
                if not is_whitened(run.config) or point != pair[0]:
                    kept = kept.with_whitening(None)
                save_statistics(run.folder / file, kept)
        pairs[pair] = None
    return [
        Feed(point, known[point], target, known[target] if target else None, config.norm_cut)
        for point, target in pairs
    ]


class CalibrationRows:
    """Kept activations of the calibration documents, read once for all SAEs when first needed."""

    def __init__(
        self,
        reader: RowReader,
        source: TrainingSource,
        feeds: Sequence[Feed],
        config: TrainConfig,
        folder: Path,
        control: JobControl,
    ) -> None:
        self._reader, self._source, self._feeds = reader, source, feeds
        self._config, self._folder = config, folder
        self._control = control
        self._windows: dict[int, Windows] = {}  # by their least tokens

    def of(self, feed: int) -> Callable[[], Iterator[torch.Tensor]]:
        """A function that yields unscaled x_BD of a feed."""

        def batches() -> Iterator[torch.Tensor]:
            held = self._open()
            if held is None:
                return
            import torch

            size = held.window(feed).size
            for low in range(0, size, 4096):
                chosen_B = torch.arange(low, min(size, low + 4096))
                yield held.take(feed, chosen_B)[0]

        return batches

    def _open(self) -> Windows | None:
        """The rows of the calibration part, fewer of them for a user who waits for the end.

        Raises `Cancelled` when something is asked of the job while all of them are read.
        """
        from mistudio.ml.training.learner import CALIBRATION_TOKENS, QUICK_CALIBRATION_TOKENS

        whole = self._windows.get(CALIBRATION_TOKENS)
        if whole is not None and whole.filled is not None:
            return whole
        if not len(self._source.table.rows("calibration")):
            return None
        waits = self._control.requested() is not Request.NONE
        tokens = QUICK_CALIBRATION_TOKENS if waits else CALIBRATION_TOKENS
        if tokens not in self._windows:
            self._windows[tokens] = self._made(tokens, None if waits else self._go_on)
        self._windows[tokens].bring(0, 0)
        return self._windows[tokens]

    def _go_on(self, done: int, rows: int) -> None:
        if self._control.requested() is not Request.NONE:
            raise Cancelled

    def _made(self, tokens: int, on_fill: Callable[[int, int], None] | None) -> Windows:
        import torch

        from mistudio.ml.activations.windows import Windows

        return Windows(
            self._reader,
            self._source.table,
            self._feeds,
            window=tokens,
            seed=0,  # rows from all over the part: texts are often sorted by kind
            part="calibration",
            mask_special=self._config.mask_special,
            dtype=torch.float32,
            folder=self._folder / str(tokens),
            on_fill=on_fill,
        )

    def close(self) -> None:
        """Remove the files."""
        for held in self._windows.values():
            held.close()
        shutil.rmtree(self._folder, ignore_errors=True)
