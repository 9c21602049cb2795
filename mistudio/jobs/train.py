"""Train an SAE: tokens and model in, checkpoints and metrics on the way, a library entry out."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistudio.core.atomic import directory_bytes, write_json
from mistudio.core.config import from_dict, to_dict
from mistudio.core.configs import TrainConfig
from mistudio.core.errors import Cancelled, InvalidInput, StudioError
from mistudio.core.events import Reporter
from mistudio.core.ids import new_id, now
from mistudio.jobs import evaluate, lookup, sae_library
from mistudio.jobs.context import JobContext, Result, StageReporter
from mistudio.jobs.runner import Studio, as_studio_error
from mistudio.jobs.tokenize import for_training
from mistudio.store import trainings
from mistudio.store.connection import Db
from mistudio.store.records import ModelRow, SaeRow, TokenizationRow, TrainingRow
from mistudio.store.tables import TRAININGS

if TYPE_CHECKING:
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


def run_training(ctx: JobContext, training_id: str) -> Result:
    """Take a training from where it stands to completed, stopped or paused.

    The row never stays in a working state: a failure leaves it failed, with its sentence.
    """
    training = TRAININGS.get(ctx.db, training_id)
    try:
        return _run(ctx, training)
    except Cancelled:
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


def _run(ctx: JobContext, training: TrainingRow) -> Result:
    from mistudio.ml.activations.capture import Capture
    from mistudio.ml.data.tokenize import TokenStore
    from mistudio.ml.training.loop import train

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
    ctx.report.progress(0.0, "loading the model")
    loaded = ctx.studio.models.get(model, ctx.paths.absolute(model.path))
    kept = TrainingReporter(ctx.report, ctx.studio, training)
    part = dataclasses.replace(ctx, report=kept)
    try:
        found = train(
            config,
            Capture(loaded, config.layer, config.hook),
            TokenStore(ctx.paths.absolute(tokens.path or "")),
            folder,
            StageReporter(kept, 0.0, 0.93),
            ctx.control,
        )
    finally:
        kept.flush()
    if found.outcome == "paused":
        TRAININGS.update(ctx.db, training.id, status="paused")
        ctx.held = True
        return {"training": training.id, "step": found.step}
    TRAININGS.update(ctx.db, training.id, status="stopping")
    row = _add_to_library(ctx, training, model, tokens, config, found)
    stopped = found.outcome == "stopped"
    if not stopped:
        stage = dataclasses.replace(part, report=StageReporter(kept, 0.93, 1.0))
        figures = evaluate.measure(stage, row, model, tokens, config.eval_tokens)
        evaluate.keep(ctx.studio, row, figures)
    TRAININGS.update(
        ctx.db,
        training.id,
        status="stopped" if stopped else "completed",
        progress=None,
        sae_id=row.id,
        current_step=found.step,
        tokens_seen=found.tokens,
        size_bytes=directory_bytes(folder),
        ended_at=now(),
    )
    evaluation = lookup.sae(ctx.studio, row.id).evaluation or {}
    return {
        "training": training.id,
        "sae": row.id,
        "outcome": "stopped" if stopped else "completed",
        "steps": found.step,
        "tokens": found.tokens,
        "weights_hash": row.weights_hash,
        "tokens_per_s": found.tokens_per_s,
        "explained_variance": evaluation.get("ev"),
        "l0": evaluation.get("l0"),
        "dead_fraction": evaluation.get("dead_fraction"),
        "ce_loss_score": evaluation.get("ce_loss_score"),
    }


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
    from mistudio.ml.hooks import tl_name

    metadata = {
        "model_name": model.name,
        "model_class_name": "AutoModelForCausalLM",
        "hook_name": tl_name(config.layer, config.hook),
        "hf_hook_name": found.hook_path,
        "hook_head_index": None,
        "context_size": tokens.context,
        "prepend_bos": bool((tokens.statistics or {}).get("bos_id") is not None),
        "seqpos_slice": [None],
        "dataset_path": tokens.dataset_id,
        "exclude_special_tokens": config.mask_special,
        "model_from_pretrained_kwargs": {},
        "training_architecture": config.architecture,
        "mistudio": {
            "training": training.id,
            "step": found.step,
            "tokens": found.tokens,
            "norm_cut": config.norm_cut,
            "reference_norm": found.reference_norm,
        },
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


class TrainingReporter:
    """Keeps a run's metric rows, checkpoint rows and latest figures, written about once a second.

    Used from the job's thread only.
    """

    def __init__(self, inner: Reporter, studio: Studio, training: TrainingRow) -> None:
        self._inner = inner
        self._studio = studio
        self._training = training
        self._rows: list[Mapping[str, float | int | str | None]] = []
        self._written_at = time.monotonic()
        self._log = studio.paths.run(training.id) / "log.jsonl"

    @property
    def _db(self) -> Db:
        return self._studio.db()

    def progress(
        self, fraction: float, phase: str, *, rate: str = "", eta_s: float | None = None
    ) -> None:
        self._inner.progress(fraction, phase, rate=rate, eta_s=eta_s)
        if time.monotonic() - self._written_at >= 1.0:
            self.flush(progress=100.0 * fraction)

    def metric(self, name: str, values: Mapping[str, float | int | str | None]) -> None:
        self._inner.metric(name, {"training_id": self._training.id, **values})
        if name == "training":
            self._rows.append(values)
        elif name == "checkpoint":
            self._checkpoint(values)

    def note(self, sentence: str, *, level: str = "info") -> None:
        self._inner.note(sentence, level=level)
        line = {"time": now(), "level": level, "text": sentence}
        with self._log.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")

    def partial(self, name: str, value: object) -> None:
        self._inner.partial(name, value)

    def flush(self, **also: Any) -> None:
        """Write what has gathered."""
        self._written_at = time.monotonic()
        rows, self._rows = self._rows, []
        if rows:
            trainings.add_metrics(self._db, self._training, rows)
            last = rows[-1]
            also.update(
                status="training",
                current_step=last["step"],
                tokens_seen=last["tokens"],
                latest_loss=last["loss"],
                latest_l0=last["l0"],
                latest_dead=last["dead"],
                latest_ev=last["explained_variance"],
            )
        if also:
            TRAININGS.update(self._db, self._training.id, **also)

    def _checkpoint(self, values: Mapping[str, Any]) -> None:
        path = Path(str(values["path"]))
        trainings.record_checkpoint(
            self._db,
            self._training.id,
            int(values["step"]),
            self._studio.paths.relative(path),
            size_bytes=directory_bytes(path),
            loss=values.get("loss"),
            l0=values.get("l0"),
            is_best=bool(values.get("is_best")),
        )
        left = [int(p.name.removeprefix("step_")) for p in path.parent.glob("step_*")]
        trainings.forget_checkpoints(self._db, self._training.id, left)
