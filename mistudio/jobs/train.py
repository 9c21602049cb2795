"""Train an SAE: tokens and model in, checkpoints and metrics on the way, a library entry out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistudio.core.atomic import directory_bytes, write_json
from mistudio.core.config import from_dict, to_dict
from mistudio.core.control import EndsTurn, HoldsInPlace, Request
from mistudio.core.errors import Cancelled, InvalidInput, StudioError
from mistudio.core.events import Reporter
from mistudio.core.ids import new_id, now
from mistudio.core.training_configs import TrainConfig
from mistudio.jobs import evaluate, lookup, sae_library
from mistudio.jobs.context import JobContext, Result, StageReporter
from mistudio.jobs.runner import Studio, as_studio_error
from mistudio.jobs.tokenize import for_training
from mistudio.jobs.training_reporter import TrainingReporter
from mistudio.store import trainings
from mistudio.store.records import ModelRow, SaeRow, TokenizationRow, TrainingRow
from mistudio.store.tables import TRAININGS

if TYPE_CHECKING:
    import torch

    from mistudio.ml.activations.capture import Capture
    from mistudio.ml.activations.statistics import StreamStatistics
    from mistudio.ml.data.token_store import TokenStore
    from mistudio.ml.training.loop import TrainResult


def prepare(studio: Studio, config: TrainConfig) -> str:
    """Check what the config names and add the run's row; returns the training's id."""
    model = lookup.model(studio, config.model)
    dataset = lookup.tokenization(studio, config.dataset) or lookup.dataset(studio, config.dataset)
    layers = model.num_layers or 0
    if config.layer >= layers:
        raise InvalidInput(
            f"Layer {config.layer} does not exist; {model.name!r} has {layers} blocks "
            f"(0 to {layers - 1}).",
            code="invalid_config",
        )
    name = config.name.strip() or (
        f"{model.name} L{config.layer} {config.hook} {config.architecture} {config.width:,}"
    )
    training_id = new_id("training")
    fixed = dataclasses.replace(config, model=model.id, dataset=dataset.id, name=name)
    TRAININGS.insert(
        studio.db(),
        id=training_id,
        name=name,
        model_id=model.id,
        model_format=model.format,
        encoder_type="sae",
        architecture=config.architecture,
        layer=config.layer,
        hook=config.hook,
        config=to_dict(fixed),
        total_steps=-(-config.tokens // config.batch),
        path=studio.paths.relative(studio.paths.run(training_id)),
        status="queued",
    )
    return training_id


def run(ctx: JobContext, config: TrainConfig) -> Result:
    """Run or go on with the training that this job was queued for."""
    assert ctx.job.target_id is not None
    return run_training(ctx, ctx.job.target_id)


def run_training(ctx: JobContext, training_id: str, *, ends_turn: bool = True) -> Result:
    """Take a training from where it stands to completed, stopped or paused.

    With `ends_turn` a pause ends the job's turn at a checkpoint; without, it waits in place. The
    row never stays in a working state: a failure leaves it failed, with its sentence.
    """
    training = TRAININGS.get(ctx.db, training_id)
    control = EndsTurn(ctx.control) if ends_turn else HoldsInPlace(ctx.control)
    turn = dataclasses.replace(ctx, control=control)
    try:
        result = _run(turn, training)
    except Cancelled:
        if ends_turn and ctx.control.requested() is Request.PAUSE:
            TRAININGS.update(ctx.db, training_id, status="paused", progress=None)
            ctx.held = True
            return {"training": training_id, "outcome": "paused"}
        TRAININGS.update(ctx.db, training_id, status="interrupted", progress=None)
        raise
    except Exception as error:
        failure: StudioError = as_studio_error(error)
        TRAININGS.update(
            ctx.db,
            training_id,
            status="failed",
            error_code=failure.code,
            error_message=failure.sentence,
            ended_at=now(),
        )
        raise
    ctx.held = turn.held
    return result


def _run(ctx: JobContext, training: TrainingRow) -> Result:
    config = from_dict(TrainConfig, training.config)
    TRAININGS.update(
        ctx.db,
        training.id,
        status="initializing",
        error_code=None,
        error_message=None,
        started_at=training.started_at or now(),
    )
    model = lookup.model(ctx.studio, config.model)
    tokens = _tokens(ctx, training, model, config)
    folder = ctx.paths.run(training.id)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", training.config)
    kept = TrainingReporter(StageReporter(ctx.report, 0.0, 0.93), ctx.studio, training)
    try:
        found = _learn(ctx, config, model, tokens, folder, kept)
    finally:
        kept.flush()
        kept.mirror_checkpoints()
    result = {"training": training.id, "outcome": found.outcome, "steps": found.step}
    if found.sae is None:
        share = 100.0 * found.step / found.steps
        TRAININGS.update(
            ctx.db, training.id, status="paused", current_step=found.step, progress=share
        )
        ctx.held = True
        return result
    TRAININGS.update(ctx.db, training.id, status="stopping")
    row = _add_to_library(ctx, training, model, tokens, config, found)
    if found.outcome == "completed":
        _evaluate(ctx.part(0.93, 1.0), row, model, tokens, config)
    TRAININGS.update(
        ctx.db,
        training.id,
        status="completed" if found.outcome == "completed" else "stopped",
        progress=None,
        sae_id=row.id,
        current_step=found.step,
        tokens_seen=found.tokens,
        size_bytes=directory_bytes(folder),
        ended_at=now(),
    )
    evaluation = lookup.sae(ctx.studio, row.id).evaluation or {}
    return {
        **result,
        "sae": row.id,
        "tokens": found.tokens,
        "weights_hash": row.weights_hash,
        "train_seconds": found.seconds,
        "tokens_per_s": found.tokens / found.seconds if found.seconds else None,
        "explained_variance": evaluation.get("ev"),
        "l0": evaluation.get("l0"),
        "dead_fraction": evaluation.get("dead"),
        "ce_loss_score": evaluation.get("ce_loss_score"),
    }


def _evaluate(
    ctx: JobContext,
    row: SaeRow,
    model: ModelRow,
    tokens: TokenizationRow,
    config: TrainConfig,
) -> None:
    """Measure the finished SAE; whoever ends the job now keeps the SAE without figures."""
    try:
        figures = evaluate.measure(ctx, row, model, tokens, config.eval_tokens)
    except Cancelled:
        ctx.report.note("The SAE is kept; its evaluation was left out.", level="warning")
        return
    except StudioError as error:
        ctx.report.note(f"The SAE is kept without figures: {error.sentence}", level="warning")
        return
    evaluate.keep(ctx.studio, row, figures)


def _learn(
    ctx: JobContext,
    config: TrainConfig,
    model: ModelRow,
    tokens: TokenizationRow,
    folder: Path,
    report: Reporter,
) -> TrainResult:
    """The tensor part: measure activations, stream them, train; goes on from a checkpoint."""
    from mistudio.ml.activations.capture import Capture
    from mistudio.ml.activations.statistics import StreamStatistics
    from mistudio.ml.activations.stream import ActivationStream
    from mistudio.ml.data.tokenize import TokenStore
    from mistudio.ml.training.checkpoint import newest_checkpoint
    from mistudio.ml.training.loop import train

    report.progress(0.0, "loading the model")
    loaded = ctx.studio.models.get(model, ctx.paths.absolute(model.path))
    capture = Capture(loaded, config.layer, config.hook)
    store = TokenStore(ctx.paths.absolute(tokens.path or ""))
    notes: list[str] = []
    checkpoint = newest_checkpoint(folder, notes)
    for note in notes:
        report.note(note, level="warning")
    if checkpoint is not None:
        report.note(f"Goes on from {checkpoint.name}.")
    measured = folder / "statistics.json"
    if measured.exists():
        statistics = StreamStatistics.from_dict(json.loads(measured.read_text(encoding="utf-8")))
    else:
        statistics = _measure(ctx, config, capture, store, StageReporter(report, 0.0, 0.04))
        write_json(measured, statistics.to_dict())

    def on_fill(done: int, rows: int) -> None:
        if ctx.control.requested() is not Request.NONE:
            raise Cancelled

    with ActivationStream(
        capture,
        store,
        batch=config.batch,
        window=config.window,
        seed=config.seed,
        statistics=statistics,
        mask_special=config.mask_special,
        norm_cut=config.norm_cut,
        folder=folder,
        on_fill=on_fill,
    ) as stream:
        return train(
            config,
            stream,
            statistics,
            folder,
            StageReporter(report, 0.04, 1.0),
            ctx.control,
            calibration=lambda: _calibration(capture, store, statistics, config),
            resume_from=checkpoint,
            origin={"model": model.id, "tokenization": tokens.id},
            metadata={"median_norm": statistics.median_norm, "norm_cut": config.norm_cut},
            device=loaded.device,
        )


def _measure(
    ctx: JobContext,
    config: TrainConfig,
    capture: Capture,
    store: TokenStore,
    report: Reporter,
) -> StreamStatistics:
    from mistudio.ml.activations.statistics import StatisticsSettings, reference_statistics

    settings = StatisticsSettings(norm_cut=config.norm_cut, mask_special=config.mask_special)
    return reference_statistics(capture, store, settings, report, ctx.control)


def _calibration(
    capture: Capture, store: TokenStore, statistics: StreamStatistics, config: TrainConfig
) -> Iterator[torch.Tensor]:
    """Kept activations x_BD of the calibration documents."""
    from mistudio.ml.activations.masking import default_forward_batch, iterate_rows

    for batch in iterate_rows(
        capture,
        store,
        store.rows("calibration"),
        default_forward_batch(store.context),
        norm_limit=statistics.norm_limit,
        mask_special=config.mask_special,
    ):
        yield batch.x_BSD[batch.keep_BS].float()


def _tokens(
    ctx: JobContext, training: TrainingRow, model: ModelRow, config: TrainConfig
) -> TokenizationRow:
    """The text of a run: the one it began with, else what its settings name."""
    begun = trainings.tokenization_of(ctx.db, training.id)
    tokens = for_training(ctx, begun or config.dataset, model, config.context)
    if begun is None:
        trainings.use_dataset(ctx.db, training.id, tokens.id)
    return tokens


def _add_to_library(
    ctx: JobContext,
    training: TrainingRow,
    model: ModelRow,
    tokens: TokenizationRow,
    config: TrainConfig,
    found: TrainResult,
) -> SaeRow:
    from mistudio.ml.hooks import hook_path, tl_name

    assert found.sae is not None
    loaded = ctx.studio.models.get(model, ctx.paths.absolute(model.path))
    module_path = hook_path(loaded, config.layer, config.hook)
    metadata: dict[str, Any] = {
        "model_name": model.name,
        "model_class_name": "AutoModelForCausalLM",
        "hook_name": module_path,
        "hf_hook_name": module_path,
        "tl_hook_name": tl_name(config.layer, config.hook),
        "layer": config.layer,
        "hook": config.hook,
        "hook_head_index": None,
        "context_size": tokens.context,
        "prepend_bos": (tokens.statistics or {}).get("row_start_id") is not None,
        "seqpos_slice": [None],
        "dataset_path": tokens.dataset_id,
        "exclude_special_tokens": config.mask_special,
        "model_from_pretrained_kwargs": {},
        "training_architecture": config.architecture,
        "norm_cut": config.norm_cut,
        "median_norm": found.sae.metadata["median_norm"],
        "trained_steps": found.step,
    }
    return sae_library.add_sae(
        ctx.studio,
        found.sae,
        metadata,
        name=training.name,
        origin="trained",
        model=model,
        layer=config.layer,
        hook=config.hook,
        training_id=training.id,
        step=found.step,
        config=training.config,
    )
