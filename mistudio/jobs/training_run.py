"""Runs one training, or several over one pass: statistics, windows, learners, library entries."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from mistudio.core.atomic import write_json
from mistudio.core.config import to_dict
from mistudio.core.control import EndsTurn, HoldsInPlace, Request
from mistudio.core.errors import Cancelled, InvalidInput, StudioError
from mistudio.core.training_plan import Plan
from mistudio.jobs import training_starts
from mistudio.jobs.context import JobContext, Result, StageReporter
from mistudio.jobs.crew import Share, ends_all
from mistudio.jobs.held_rows import CalibrationRows, EvaluationRows
from mistudio.jobs.runner import as_studio_error
from mistudio.jobs.same_model import check_loaded
from mistudio.jobs.shared_progress import SharedProgress
from mistudio.jobs.thermal_guard import ThermalGuard, limit_of
from mistudio.jobs.training_data import (
    MEASURED,
    measured_feeds,
    pair_of,
    points_of,
    target_of,
)
from mistudio.jobs.training_outcome import keep, settle, tell_left_out, told
from mistudio.jobs.training_plan import check_training
from mistudio.jobs.training_source import (
    TrainingSource,
    calibration_reader,
    open_source,
    training_reader,
)
from mistudio.jobs.training_turn import Run, begin, checkpoint_of, fail
from mistudio.ml.training import keeping
from mistudio.store.records import TrainingRow
from mistudio.store.tables import TRAININGS

if TYPE_CHECKING:
    import torch

    from mistudio.ml.activations.stream import ActivationStream
    from mistudio.ml.activations.windows import Feed
    from mistudio.ml.evaluation.held_out import HeldRows
    from mistudio.ml.training.learner import Learner
    from mistudio.ml.training.learner_terms import LearnerOptions
    from mistudio.ml.training.loop import TrainResult

log = logging.getLogger(__name__)


def run_trainings(
    ctx: JobContext, rows: Sequence[TrainingRow], *, ends_turn: bool = True
) -> list[Result]:
    """Take trainings from where they stand to completed, stopped or paused.

    All read the same rows of the same text. With `ends_turn` a pause ends the job's turn at a
    checkpoint; without, it waits in place, and a program that closes leaves paused runs and raises
    `Left`. No row stays in a working state: a failure leaves it
    failed, with its sentence. One that fails does not end the others; raises what it failed of if
    there is no other.
    """
    guard = ThermalGuard(ctx.control, ctx.report, limit_of(ctx.paths))
    control = EndsTurn(guard) if ends_turn else HoldsInPlace(guard)
    turn = dataclasses.replace(ctx, control=control)
    together = SharedProgress(turn.report, len(rows))
    runs = [begin(turn, row, together.member(i)) for i, row in enumerate(rows)]
    try:
        results = _run(turn, runs)
    except Cancelled:
        paused = ends_turn and ctx.control.requested() is Request.PAUSE
        for run in runs:
            if not run.ended:
                status = "paused" if paused else "interrupted"
                TRAININGS.update(ctx.db, run.row.id, status=status, progress=None)
        if paused:
            ctx.held = True
            return [{"training": run.row.id, "outcome": "paused"} for run in runs]
        raise
    except Exception as error:
        for run in runs:
            if not run.ended:
                fail(turn, run, as_studio_error(error))
        raise
    if turn.held and not ends_turn:
        ctx.control.check()
    ctx.held = turn.held
    return results


def _run(ctx: JobContext, runs: list[Run]) -> list[Result]:
    first = runs[0]
    if not first.config.model:
        ctx.studio.models.unload()  # the plan counts on its room, and bare vectors need no model
    found = check_training(ctx.studio, [run.config for run in runs])
    source = open_source(ctx, first.row, first.config, stays=not found.alternates)
    check_loaded(ctx.studio, source, runs)
    for run in runs:
        if source.texts and run is not first:
            _share_texts(ctx, run, source)
        _settle_length(ctx, run, source)
        if found.pieces:
            _settle_pieces(ctx, run, found)
        write_json(run.folder / "config.json", to_dict(run.config))
    _tell_doubts(ctx, runs)
    if found.alternates:
        ctx.report.note(found.alternating)
    try:
        failures = _learn(ctx, source, runs, found.pieces)
    finally:
        for run in runs:
            run.report.flush()
            run.report.mirror_checkpoints()
    for run in runs:
        if not run.ended:
            settle(ctx, source, run)
    if failures and len(runs) == len(failures):
        raise failures[0]
    return [told(ctx, run) for run in runs if run.result is not None]


def _tell_doubts(ctx: JobContext, runs: list[Run]) -> None:
    """Note once what is probably not meant; a run that goes on has been told."""
    told: dict[str, None] = {}
    for run in runs:
        for sentence in run.config.warnings() if run.row.started_at is None else ():
            run.report.keep(sentence, level="warning")
            told[sentence] = None
    for sentence in told:
        ctx.report.note(sentence, level="warning")


def _share_texts(ctx: JobContext, run: Run, source: TrainingSource) -> None:
    from mistudio.store import trainings

    if not trainings.tokenizations_of(ctx.db, run.row.id):
        for text, weight in source.texts:
            trainings.use_dataset(ctx.db, run.row.id, text.id, weight)


def _settle_length(ctx: JobContext, run: Run, source: TrainingSource) -> None:
    """A length of 0 is one pass over what there is to train on."""
    if run.config.tokens:
        return
    from mistudio.ml.data.row_table import usable_tokens

    batch = run.config.batch
    usable = usable_tokens(source.table, "train", run.config.mask_special)
    run.config = dataclasses.replace(run.config, tokens=max(1, usable // batch) * batch)
    steps = run.config.tokens // batch
    TRAININGS.update(ctx.db, run.row.id, config=to_dict(run.config), total_steps=steps)


def _settle_pieces(ctx: JobContext, run: Run, found: Plan) -> None:
    """Batches that do not fit as a whole are worked on in pieces.

    A run that has not begun takes their size into its settings, so that it stays the same however
    much memory is free when it goes on; one that has begun keeps what it has.
    """
    config = run.config
    if found.pieces >= min(config.batch, config.micro_batch or config.batch):
        return
    run.report.note(found.in_pieces)
    if not keeping.list_checkpoints(run.folder):
        run.config = dataclasses.replace(config, micro_batch=found.pieces)
        TRAININGS.update(ctx.db, run.row.id, config=to_dict(run.config))


def _learn(
    ctx: JobContext, source: TrainingSource, runs: list[Run], pieces: int
) -> list[StudioError]:
    """The tensor part: measure activations, fill windows, train; goes on from checkpoints.

    `pieces` is how many tokens of a batch fit into memory at a time now, 0: all.
    """
    from mistudio.ml.activations.stream import ActivationStream
    from mistudio.ml.activations.windows import Windows
    from mistudio.ml.collective import SINGLE
    from mistudio.ml.training.loop import train_together

    config = runs[0].config
    points = points_of(runs)
    reader = calibration_reader(source, points, ctx)
    feeds = measured_feeds(ctx, source, reader, runs)
    numbers = {(feed.point, feed.target): number for number, feed in enumerate(feeds)}
    failures: list[StudioError] = []
    learners: dict[int, Learner] = {}
    streams: dict[int, ActivationStream] = {}
    crew = ctx.studio.crew
    if crew is not None and any(run.config.micro_batch for run in runs):
        raise InvalidInput("Several processes take their shares of a batch whole: no micro-batch.")
    control = ctx.control if crew is None else crew.control(ctx.control)
    collective = SINGLE if crew is None else crew.collective

    def tell(what: str) -> None:
        if learners:
            first = next(iter(learners.values()))
            first.report.progress(first.run.step / first.run.schedule.steps, what)

    def on_fill(done: int, rows: int) -> None:
        tell(f"Reading activations: {done:,} of {rows:,} rows")
        if control.requested() is not Request.NONE:
            raise Cancelled

    def on_note(sentence: str) -> None:
        runs[0].report.note(sentence, level="warning")

    def on_done(number: int, result: TrainResult) -> None:
        keep(ctx, source, runs[number], result)

    def on_failed(number: int, error: StudioError) -> None:
        if len(runs) == 1 or (crew is not None and ends_all(error)):
            raise error
        runs[number].report.note(error.sentence, level="error")
        fail(ctx, runs[number], error)
        failures.append(error)

    windows = Windows(
        training_reader(source, points, ctx, reader),
        source.table,
        feeds,
        window=config.window,
        seed=config.order_seed,
        mask_special=config.mask_special,
        shuffle=config.shuffle,
        folder=runs[0].folder,
        on_fill=on_fill,
        on_note=on_note,
        collective=collective,
    )
    kept = runs[0].folder
    calibration = CalibrationRows(
        reader, source, feeds, config, kept / "calibration", ctx.control, tell
    )
    # of several processes the others wait meanwhile, and only a step later hear of a request
    heeded = ctx.control if crew is None else None
    evaluation = EvaluationRows(reader, source, feeds, config, kept / "evaluation", heeded, tell)
    shares: list[Share] = []
    try:
        for number, run in enumerate(runs):
            feed = numbers[pair_of(run.config)]
            stream = ActivationStream(windows, feed, batch=run.config.batch)
            try:
                options = _options(
                    ctx, source, run, stream, feeds[feed], calibration.of(feed), evaluation.of(feed)
                )
                learners[number] = _learner(ctx, source, run, stream, feeds[feed], options)
                streams[number] = stream
                learners[number].run.micro.limit(pieces)
            except StudioError as error:
                on_failed(number, error)
            else:
                begun, metadata = options.resume_from, dict(options.metadata)
                shares.append(Share(run.config, run.folder, feed, begun, metadata))
        order = list(learners)
        if crew is not None and shares:
            folders = {numbers[pair_of(run.config)]: run.folder for run in runs}
            of_feeds = [(feed, folders[i]) for i, feed in enumerate(feeds)]
            crew.order(ctx, source, of_feeds, shares)
        train_together(
            list(learners.values()),
            control,
            lambda i, result: on_done(order[i], result),
            lambda i, error: on_failed(order[i], error),
        )
        for number in learners:
            tell_left_out(runs[number], streams[number])
    finally:
        calibration.close()
        evaluation.close()
        windows.close()
    return failures


def _options(
    ctx: JobContext,
    source: TrainingSource,
    run: Run,
    stream: ActivationStream,
    feed: Feed,
    calibration: Callable[[], Iterator[torch.Tensor]],
    held_out: HeldRows,
) -> LearnerOptions:
    """What a run is given, and where it stands: at its newest checkpoint, where it is to begin, or
    afresh."""
    from mistudio.ml.collective import SINGLE
    from mistudio.ml.training.learner_terms import LearnerOptions

    statistics, given = feed.statistics, feed.target_statistics
    metadata = {"median_norm": statistics.median_norm, "norm_cut": run.config.norm_cut}
    if given is not None:
        metadata["median_norm_out"] = given.median_norm
    target = None if given is None else target_of(given)
    begun = checkpoint_of(run) or training_starts.write_start(
        ctx.studio,
        run.config,
        run.folder,
        statistics,
        data=stream.state(),
        origin=source.origin,
        metadata=metadata,
        device=source.device,
        target=target,
    )
    crew = ctx.studio.crew
    return LearnerOptions(
        calibration=calibration,
        held_out=held_out,
        resume_from=begun,
        before_save=run.report.write_durably,  # whoever goes on from a checkpoint lacks no row
        origin=source.origin,
        target=target,
        metadata=metadata,
        collective=SINGLE if crew is None else crew.collective,
    )


def _learner(
    ctx: JobContext,
    source: TrainingSource,
    run: Run,
    stream: ActivationStream,
    feed: Feed,
    options: LearnerOptions,
) -> Learner:
    from mistudio.ml.training.learner import Learner

    return Learner(
        run.config,
        stream,
        feed.statistics,
        run.folder,
        StageReporter(run.report, MEASURED, 1.0),
        ctx.control,
        source.device,
        options,
    )
