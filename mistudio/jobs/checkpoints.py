"""Checkpoints of a run: pin, delete, keep by rule, save now, write an SAE."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from mistudio.core.atomic import directory_bytes
from mistudio.core.config import from_dict, validate
from mistudio.core.errors import InUse, InvalidInput, NotFound
from mistudio.core.retention import DEFAULT_CAP, Kept, RetentionConfig, best_of
from mistudio.core.run_configs import WriteSaeConfig
from mistudio.core.training_configs import TrainConfig
from mistudio.jobs import sae_library, sae_metadata
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.runner import Studio
from mistudio.ml.training import keeping
from mistudio.store import trainings
from mistudio.store.records import CheckpointRow, JobRow, ModelRow, TrainingRow
from mistudio.store.tables import JOBS, TRAININGS

UNFINISHED = ("queued", "initializing", "training", "stopping", "paused", "interrupted")


class Surplus(NamedTuple):
    """The checkpoints that the rule does not keep, oldest first, and the bytes they take."""

    rows: list[CheckpointRow]
    size_bytes: int


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
    pinned = keeping.read_keeping(folder).pinned
    # at once, so that whoever is killed meanwhile leaves no row that is not weighed for the best
    with db.atomic():
        for step in late:
            trainings.record_held_out(db, training_id, step, figures[step])
        if known.keys() - found.keys():
            trainings.forget_checkpoints(db, training_id, sorted(found))
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
    settings = from_dict(TrainConfig, training.config)
    model = sae_metadata.source_of(ctx.studio, training, settings).model
    told = sae_metadata.of_training(ctx.studio, training, settings, row.step)
    if "tl_hook_name" in told and "hf_hook_name" not in told:
        told = _with_paths(ctx, training, settings, row.step, model) or told
    made = sae_library.add_sae(
        ctx.studio,
        sae,
        told,
        name=config.name.strip() or f"{training.name} step {row.step:,}",
        origin="trained",
        model=model,
        layer=told.get("layer"),
        hook=told.get("hook"),
        hook_out=told.get("hook_out"),
        training_id=training.id,
        step=row.step,
        config=training.config,
    )
    if training.sae_id is None and training.status not in UNFINISHED:
        TRAININGS.update(ctx.db, training.id, sae_id=made.id)
    return {"sae": made.id, "name": made.name, "training": training.id, "step": row.step}


def _with_paths(
    ctx: JobContext, training: TrainingRow, settings: TrainConfig, step: int, model: ModelRow | None
) -> dict[str, Any] | None:
    """As `of_training`, with the modules' paths of a model whose row does not tell them.

    None where it cannot be loaded.
    """
    if model is None or model.status != "ready":
        ctx.report.note("The model is gone; the SAE keeps only TransformerLens's hook name.")
        return None
    ctx.report.progress(0.2, "loading the model")
    loaded = ctx.studio.models.get(model, ctx.paths.absolute(model.path))
    return sae_metadata.of_training(ctx.studio, training, settings, step, loaded)
