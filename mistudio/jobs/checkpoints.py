"""Checkpoints of a run: pin, delete, keep by rule, save now, write an SAE, go on from one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mistudio.core.atomic import directory_bytes
from mistudio.core.config import from_dict, settings_of, validate
from mistudio.core.errors import InUse, InvalidInput, Mismatch, NotFound
from mistudio.core.retention import DEFAULT_CAP, Kept, RetentionConfig, best_of
from mistudio.core.run_configs import WriteSaeConfig
from mistudio.core.training_configs import TrainConfig
from mistudio.core.training_rules import FIXED_IN_A_CONTINUATION
from mistudio.jobs import lookup, sae_library
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.runner import Studio
from mistudio.ml.training import keeping
from mistudio.store import trainings
from mistudio.store.records import CheckpointRow, JobRow, SaeRow, TrainingRow
from mistudio.store.tables import JOBS, MODELS, SAES, TRAININGS

if TYPE_CHECKING:
    import torch

    from mistudio.ml.training.loop import InputStatistics
    from mistudio.ml.training.run_state import TargetStatistics

STATISTICS = ("statistics.json", "statistics-out.json")  # of what is read, of a target
UNFINISHED = ("queued", "initializing", "training", "stopping", "paused", "interrupted")


class Surplus(NamedTuple):
    """The checkpoints that the rule does not keep, oldest first, and the bytes they take."""

    rows: list[CheckpointRow]
    size_bytes: int


class Start(NamedTuple):
    """Where a run begins that is no fresh one: a checkpoint of `parent`, or an SAE."""

    parent: TrainingRow | None = None
    checkpoint: Path | None = None
    sae: SaeRow | None = None


def mirror(studio: Studio, training_id: str) -> None:
    """Make the checkpoint rows of a run say what is on the disk and was measured on held-out text.

    `best_of` tells which is the best.
    """
    folder, db = studio.paths.run(training_id), studio.db()
    known = {row.step: row for row in trainings.checkpoints(db, training_id)}
    found = {keeping.step_of(path): path for path in keeping.list_checkpoints(folder)}
    figures = trainings.held_out(db, training_id)
    # one that was written before it was measured, as on a pause, is measured when its run goes on
    late = {s for s, row in known.items() if s in found and row.heldout_n is None and s in figures}
    if known.keys() == found.keys() and not late:
        return
    losses = {step: row.loss for step, row in known.items() if step in found}
    new = {step: keeping.known_values(found[step]) for step in found.keys() - known.keys()}
    losses |= {step: values.get("loss") for step, values in new.items()}
    for step in late:
        trainings.record_held_out(db, training_id, step, figures[step])
    if known.keys() - found.keys():
        trainings.forget_checkpoints(db, training_id, sorted(found))
    pinned = keeping.read_keeping(folder).pinned
    for step in sorted(new):
        trainings.record_checkpoint(
            db,
            training_id,
            step,
            studio.paths.relative(found[step]),
            size_bytes=directory_bytes(found[step]),
            loss=losses[step],
            l0=new[step].get("l0"),
            is_best=False,
            held_out=figures.get(step),
        )
    explained = {step: held["heldout_ev"] for step, held in figures.items()}
    best = best_of(Kept(step, loss, ev=explained.get(step)) for step, loss in losses.items())
    trainings.mark_checkpoints(db, training_id, best, pinned)


def find(studio: Studio, training_id: str, step: int = -1) -> CheckpointRow:
    """The checkpoint of a run after a step, -1: the newest; raises `NotFound`."""
    mirror(studio, training_id)
    rows = trainings.checkpoints(studio.db(), training_id)
    name = TRAININGS.get(studio.db(), training_id).name
    if not rows:
        raise NotFound(f"The run {name!r} has no checkpoint.")
    row = rows[0] if step < 0 else next((r for r in rows if r.step == step), None)
    if row is None:
        steps = ", ".join(f"{r.step:,}" for r in rows[:10])
        raise NotFound(f"The run {name!r} has no checkpoint of step {step:,}; it has {steps}.")
    return row


def save_now(studio: Studio, training_id: str) -> str:
    """Ask a run that trains for a checkpoint at its next step; returns the id of its job.

    Raises `InUse` if nothing trains it.
    """
    jobs = jobs_of(studio, training_id, "running")
    if not jobs:
        name = TRAININGS.get(studio.db(), training_id).name
        raise InUse(f"The run {name!r} does not train now; its newest checkpoint is kept.")
    studio.request(jobs[0].id, "save")
    return jobs[0].id


def jobs_of(studio: Studio, training_id: str, *states: str) -> list[JobRow]:
    """The jobs in these states that train a run: its own, or that of its sweep."""
    training = TRAININGS.get(studio.db(), training_id)
    marks = ", ".join("?" for _ in states)
    return JOBS.select(
        studio.db(),
        f"kind IN ('train', 'sweep') AND target_id IN (?, ?) AND status IN ({marks})",
        [training.id, training.group_id or training.id, *states],
    )


def pin(studio: Studio, training_id: str, step: int, on: bool = True) -> None:
    """Keep a checkpoint whatever the rule says, or leave it to the rule again."""
    row = find(studio, training_id, step)
    folder = studio.paths.run(training_id)
    decided = keeping.read_keeping(folder)
    pinned = {*decided.pinned, row.step} if on else set(decided.pinned) - {row.step}
    keeping.write_keeping(folder, dataclasses.replace(decided, pinned=tuple(sorted(pinned))))
    trainings.pin_checkpoint(studio.db(), row.id, on)


def deletable(studio: Studio, training_id: str, step: int) -> CheckpointRow:
    """The checkpoint after a step, if it can be deleted.

    Raises `InUse` for a pinned one, the newest of an unfinished run, and one that another run is
    yet to begin from.
    """
    row = find(studio, training_id, step)
    training = TRAININGS.get(studio.db(), training_id)
    if row.is_pinned:
        raise InUse(f"Step {row.step:,} is pinned. Unpin it first.")
    if training.status in UNFINISHED and row.step == find(studio, training_id).step:
        raise InUse(f"Step {row.step:,} is the newest of an unfinished run, which needs it.")
    for other in TRAININGS.select(
        studio.db(), "parent_id = ? AND status NOT IN ('completed', 'stopped')", [training_id]
    ):
        begun = keeping.list_checkpoints(studio.paths.run(other.id))
        if not begun and other.config.get("continue_from") == f"{training_id}@{row.step}":
            raise InUse(f"The run {other.name!r} is going to begin from step {row.step:,}.")
    return row


def delete(studio: Studio, training_id: str, step: int) -> int:
    """Delete one checkpoint; returns the bytes that are free again. Raises as `deletable`."""
    row = deletable(studio, training_id, step)
    keeping.remove_checkpoint(studio.paths.absolute(row.path))
    mirror(studio, training_id)
    _weigh(studio, training_id)
    return row.size_bytes or 0


def preview(studio: Studio, training_id: str, cap: int = DEFAULT_CAP) -> Surplus:
    """What the rule would delete of a run's checkpoints now, with `cap` as the most kept."""
    mirror(studio, training_id)
    going = keeping.surplus_checkpoints(studio.paths.run(training_id), cap)
    steps = {keeping.step_of(path) for path in going}
    rows = [r for r in trainings.checkpoints(studio.db(), training_id)[::-1] if r.step in steps]
    return Surplus(rows, sum(row.size_bytes or 0 for row in rows))


def keep(studio: Studio, config: RetentionConfig) -> Surplus:
    """Set how many checkpoints of a run are kept and apply it now; returns what is gone."""
    validate(config)
    training_id = TRAININGS.named(studio.db(), config.training).id
    going = preview(studio, training_id, config.cap)
    folder = studio.paths.run(training_id)
    decided = keeping.read_keeping(folder)
    keeping.write_keeping(folder, dataclasses.replace(decided, cap=config.cap))
    gone = {keeping.step_of(path) for path in keeping.prune(folder)}
    mirror(studio, training_id)
    _weigh(studio, training_id)
    rows = [row for row in going.rows if row.step in gone]
    return Surplus(rows, sum(row.size_bytes or 0 for row in rows))


def save_every(studio: Studio, training_id: str, every: int | None) -> None:
    """Set the steps between checkpoints of a run, also while it trains; 0: only the last one."""
    if every is not None and not 0 <= every <= 1_000_000:
        raise InvalidInput("Checkpoints are 1 to 1,000,000 steps apart, or 0 for only the last.")
    folder = studio.paths.run(training_id)
    decided = keeping.read_keeping(folder)
    keeping.write_keeping(folder, dataclasses.replace(decided, every=every))


def decisions(studio: Studio, training_id: str) -> keeping.Keeping:
    """What is decided about a run's checkpoints."""
    return keeping.read_keeping(studio.paths.run(training_id))


def settle(studio: Studio, training_id: str) -> None:
    """After a checkpoint went or came back: which is the best now, and the run's size."""
    mirror(studio, training_id)
    rows = trainings.checkpoints(studio.db(), training_id)
    best = best_of(Kept(row.step, row.loss, ev=row.heldout_ev) for row in rows)
    pinned = keeping.read_keeping(studio.paths.run(training_id)).pinned
    trainings.mark_checkpoints(studio.db(), training_id, best, pinned)
    _weigh(studio, training_id)


def _weigh(studio: Studio, training_id: str) -> None:
    size = directory_bytes(studio.paths.run(training_id))
    TRAININGS.update(studio.db(), training_id, size_bytes=size)


def prepare_write_sae(studio: Studio, config: WriteSaeConfig) -> None:
    """Refuse a run or a checkpoint that is not there."""
    find(studio, TRAININGS.named(studio.db(), config.training).id, config.step)


def run_write_sae(ctx: JobContext, config: WriteSaeConfig) -> Result:
    """Put the SAE of a checkpoint into the library."""
    from mistudio.ml.training.loop import sae_from_checkpoint

    training = TRAININGS.named(ctx.db, config.training)
    row = find(ctx.studio, training.id, config.step)
    sae = sae_from_checkpoint(ctx.paths.absolute(row.path))
    ctx.control.check()
    model_id = training.model_id or str(training.config.get("model") or "")
    model = MODELS.find(ctx.db, model_id)
    made = sae_library.add_sae(
        ctx.studio,
        sae,
        _hook_names(ctx, training, model_id),
        name=config.name.strip() or f"{training.name} step {row.step:,}",
        origin="trained",
        model=model,
        layer=training.layer,
        hook=training.hook,
        training_id=training.id,
        step=row.step,
        config=training.config,
    )
    if training.sae_id is None and training.status not in UNFINISHED:
        TRAININGS.update(ctx.db, training.id, sae_id=made.id)
    return {"sae": made.id, "name": made.name, "training": training.id, "step": row.step}


def _hook_names(ctx: JobContext, training: TrainingRow, model_id: str) -> dict[str, Any]:
    """What other programs look for; the module's path only while its model can be loaded."""
    from mistudio.ml.hooks import hook_path, tl_name

    names: dict[str, Any] = {
        "layer": training.layer,
        "hook": training.hook,
        "tl_hook_name": tl_name(training.layer, training.hook),
        "training_architecture": training.architecture,
        "exclude_special_tokens": training.config.get("mask_special", True),
        "norm_cut": training.config.get("norm_cut"),
    }
    model = MODELS.find(ctx.db, model_id)
    if model is None or model.status != "ready":
        ctx.report.note("The model is gone; the SAE keeps only TransformerLens's hook name.")
        return {**names, "hook_name": names["tl_hook_name"]}
    ctx.report.progress(0.2, "loading the model")
    loaded = ctx.studio.models.get(model, ctx.paths.absolute(model.path))
    path = hook_path(loaded, training.layer, training.hook)
    return {**names, "model_name": model.name, "hook_name": path, "hf_hook_name": path}


def continued(studio: Studio, wanted: str, step: int = -1, **changes: Any) -> TrainConfig:
    """The settings of a run that goes on from a checkpoint of another; `changes` replace its own.

    Raises `NotFound`, or `Mismatch` for a setting that both must share.
    """
    training = TRAININGS.named(studio.db(), wanted)
    row = find(studio, training.id, step)
    own: dict[str, Any] = {"name": "", "init_from": "", "context": 0}
    text = trainings.tokenization_of(studio.db(), training.id)
    if text and not training.config.get("more_datasets"):
        own["dataset"] = text  # the very rows, also if the dataset was tokenised again since
    config = from_dict(TrainConfig, {**training.config, **own, **changes})
    config = dataclasses.replace(config, continue_from=f"{training.id}@{row.step}")
    starting_point(studio, config)
    return config


def proposed(studio: Studio, training_id: str, step: int = -1) -> TrainConfig:
    """Settings to continue a run with: its own length if that is not reached, else twice it."""
    training = TRAININGS.get(studio.db(), training_id)
    row = find(studio, training_id, step)
    stored = from_dict(TrainConfig, training.config)
    done = row.step * stored.batch
    tokens = stored.tokens if done < stored.tokens else 2 * stored.tokens
    return continued(studio, training_id, row.step, tokens=tokens)


def named_start(studio: Studio, config: TrainConfig) -> TrainConfig:
    """The config with ids for what it begins at; raises as `starting_point`."""
    start = starting_point(studio, config)
    if start is None:
        return config
    if start.parent is not None and start.checkpoint is not None:
        step = keeping.step_of(start.checkpoint)
        return dataclasses.replace(config, continue_from=f"{start.parent.id}@{step}")
    assert start.sae is not None
    return dataclasses.replace(config, init_from=start.sae.id)


def starting_point(studio: Studio, config: TrainConfig) -> Start | None:
    """Where a run begins; None: afresh.

    Raises `NotFound` if that is gone, `Mismatch` or `InvalidInput` if `config` does not go with it.
    """
    if config.continue_from:
        return _continued_start(studio, config)
    if config.init_from:
        row = lookup.sae(studio, config.init_from)
        if row.n_latents != config.width:
            raise Mismatch(
                f"The SAE {row.name!r} has {row.n_latents:,} latents; set Latents to it."
            )
        if row.encoder_type != config.encoder:
            raise Mismatch(
                f"{row.name!r} is of type {row.encoder_type}, what is to be trained of type "
                f"{config.encoder}."
            )
        model = MODELS.find(studio.db(), config.model)
        if model is not None and model.hidden_dim not in (None, row.d_in):
            raise Mismatch(
                f"This SAE expects width {row.d_in:,}, the model has {model.hidden_dim:,}."
            )
        return Start(sae=row)
    return None


def _continued_start(studio: Studio, config: TrainConfig) -> Start:
    wanted, _, step = config.continue_from.partition("@")
    if step and not step.isdecimal():
        raise InvalidInput("Continue from is the id of a run, or ID@STEP.", code="invalid_config")
    parent = TRAININGS.named(studio.db(), wanted)
    row = find(studio, parent.id, int(step) if step else -1)
    stored = from_dict(TrainConfig, parent.config)
    own = {
        "model": MODELS.named(studio.db(), config.model).id if config.model else "",
    }
    for name in FIXED_IN_A_CONTINUATION:
        if own.get(name, getattr(config, name)) != getattr(stored, name):
            label = next(s.option.label for s in settings_of(TrainConfig) if s.name == name)
            raise Mismatch(
                f"{label} cannot change in a continued run; {parent.name!r} has "
                f"{getattr(stored, name)}."
            )
    if row.step * config.batch >= config.tokens:
        raise InvalidInput(
            f"Step {row.step:,} has seen {row.step * config.batch:,} tokens already; the length "
            "must be more.",
            code="invalid_config",
        )
    return Start(parent=parent, checkpoint=studio.paths.absolute(row.path))


def inherit_statistics(studio: Studio, config: TrainConfig, folder: Path) -> None:
    """Let a continued run measure norms by its parent's values, as its weights do."""
    start = starting_point(studio, config) if config.continue_from else None
    if start is None or start.parent is None:
        return
    from mistudio.ml.activations.statistics_file import load_statistics, save_statistics

    for file in STATISTICS:
        measured = studio.paths.run(start.parent.id) / file
        if measured.exists() and not (folder / file).exists():
            save_statistics(folder / file, load_statistics(measured))


def write_start(
    studio: Studio,
    config: TrainConfig,
    folder: Path,
    statistics: InputStatistics,
    *,
    data: Mapping[str, Any],
    origin: Mapping[str, Any],
    metadata: Mapping[str, Any],
    device: torch.device,
    target: TargetStatistics | None = None,
) -> Path | None:
    """Write the first checkpoint of a run that begins elsewhere; None if it begins afresh.

    From then on the run needs neither its parent nor the SAE. `data` is the position of its stream
    before the first batch, used where it starts from an SAE; `target` what a transcoder is to give.
    Raises as `starting_point`.
    """
    start = starting_point(studio, config)
    if start is None:
        return None
    from mistudio.ml.training.checkpoint import load_checkpoint, save_checkpoint
    from mistudio.ml.training.continue_run import extend_run, run_from_sae
    from mistudio.ml.training.run_state import seed_random_states

    if start.checkpoint is not None:
        saved = load_checkpoint(start.checkpoint)
        run = extend_run(saved, config, device, origin)
        data = saved.values["data"]
    else:
        assert start.sae is not None
        seed_random_states(config.seed)
        sae = sae_library.read_sae(studio, SAES.get(studio.db(), start.sae.id))
        run = run_from_sae(sae, config, statistics, device, target)
    return save_checkpoint(folder, run.checkpoint(data, origin, metadata))
