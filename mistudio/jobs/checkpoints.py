"""Checkpoints of a run: pin, delete, keep by rule, save now, write an SAE from one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mistudio.core.atomic import directory_bytes
from mistudio.core.config import validate
from mistudio.core.errors import InUse, InvalidInput, NotFound, StudioError
from mistudio.core.retention import DEFAULT_CAP, RetentionConfig
from mistudio.core.training_configs import WriteSaeConfig
from mistudio.jobs import sae_library
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.runner import Studio
from mistudio.ml.training import keeping
from mistudio.store import trainings
from mistudio.store.records import CheckpointRow, TrainingRow
from mistudio.store.tables import JOBS, MODELS, TRAININGS

UNFINISHED = ("queued", "initializing", "training", "stopping", "paused", "interrupted")


class Surplus(NamedTuple):
    """The checkpoints that the rule does not keep, oldest first, and the bytes they take."""

    rows: list[CheckpointRow]
    size_bytes: int


def mirror(studio: Studio, training_id: str) -> None:
    """Make the checkpoint rows of a run say what is on the disk; the lowest loss is the best."""
    folder, db = studio.paths.run(training_id), studio.db()
    known = {row.step: row for row in trainings.checkpoints(db, training_id)}
    found = {keeping.step_of(path): path for path in keeping.list_checkpoints(folder)}
    if known.keys() == found.keys():
        return
    losses = {step: row.loss for step, row in known.items() if step in found}
    new = {step: _values(found[step]) for step in found.keys() - known.keys()}
    losses |= {step: values.get("loss") for step, values in new.items()}
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
        )
    trainings.mark_checkpoints(db, training_id, _best(losses), pinned)


def _values(path: Path) -> dict[str, Any]:
    """What a checkpoint tells of itself; nothing if it is damaged or has just gone."""
    try:
        return keeping.read_values(path)
    except StudioError:
        return {}


def _best(losses: Mapping[int, float | None]) -> int | None:
    told = {step: loss for step, loss in losses.items() if loss is not None}
    return min(told, key=lambda step: told[step]) if told else None


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
    jobs = JOBS.select(studio.db(), "target_id = ? AND status = 'running'", [training_id], limit=1)
    if not jobs:
        name = TRAININGS.get(studio.db(), training_id).name
        raise InUse(f"The run {name!r} does not train now; its newest checkpoint is kept.")
    studio.request(jobs[0].id, "save")
    return jobs[0].id


def pin(studio: Studio, training_id: str, step: int, on: bool = True) -> None:
    """Keep a checkpoint whatever the rule says, or leave it to the rule again."""
    row = find(studio, training_id, step)
    folder = studio.paths.run(training_id)
    decided = keeping.read_keeping(folder)
    pinned = {*decided.pinned, row.step} if on else set(decided.pinned) - {row.step}
    keeping.write_keeping(folder, dataclasses.replace(decided, pinned=tuple(sorted(pinned))))
    trainings.pin_checkpoint(studio.db(), row.id, on)


def delete(studio: Studio, training_id: str, step: int) -> int:
    """Delete one checkpoint; returns the bytes that are free again.

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
