"""The command line's verbs for continued and stopped trainings and for checkpoints."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from mistudio.commands import finish_training, run_job
from mistudio.console import Console
from mistudio.core.config import from_arguments, given_in
from mistudio.core.errors import InUse, InvalidInput
from mistudio.core.retention import RetentionConfig
from mistudio.core.run_configs import WriteSaeConfig
from mistudio.core.training_configs import TrainConfig
from mistudio.core.units import format_bytes
from mistudio.jobs import checkpoints, metric_files, training_starts
from mistudio.jobs.runner import Studio
from mistudio.store import trainings
from mistudio.store.records import CheckpointRow, TrainingRow
from mistudio.store.tables import TRAININGS

Arguments = argparse.Namespace


def train_continue(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Go on from a checkpoint of a run as a new run; flags that are given replace its settings."""
    changes = given_in(TrainConfig, arguments)
    wanted, step = _at(arguments.training)
    config = training_starts.continued(studio, wanted, step, **changes)
    finish_training(console, run_job(studio, console, "train", config, hold=True))


def list_trainings(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Runs, newest first."""
    rows = [
        {
            "id": row.id,
            "name": row.name,
            "status": row.status,
            "step": row.current_step,
            "steps": row.total_steps,
            "loss": row.latest_loss,
            "l0": row.latest_l0,
        }
        for row in TRAININGS.select(studio.db())
    ]
    console.table("trainings", rows, ("id", "name", "status", "step", "steps", "loss", "l0"))


def show_training(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Everything known of one run, with its settings."""
    console.result(dataclasses.asdict(_training(studio, arguments)))


def remove_trainings(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Delete runs with their checkpoints and curves; without --yes, say what that means."""
    from mistudio.jobs.delete_runs import delete_runs, of_runs

    rows = [TRAININGS.only(studio.db(), wanted) for wanted in arguments.training]
    found = of_runs(studio, [row.id for row in rows])
    if found.busy:
        raise InUse(f"The run {found.busy[0]!r} is at work. Stop it first.")
    if not arguments.yes:
        raise InvalidInput(f"{found.title} {found.sentences} Say --yes to do it.")
    gone, refused = delete_runs(studio, found.ids)
    if refused:
        raise InUse(" ".join([*refused, f"{len(gone):,} of {len(found.ids):,} are deleted."]))
    told = {"ids": gone, "names": found.names, "bytes": found.size_bytes}
    console.result({"deleted": told, "saes_kept": len(found.saes)})


def train_stop(studio: Studio, console: Console, arguments: Arguments) -> None:
    """End a run, and the others of its sweep, after its step; the SAEs go to the library."""
    training = _training(studio, arguments)
    jobs = checkpoints.jobs_of(studio, training.id, "running", "paused", "interrupted")
    if not jobs:
        raise InUse(f"The run {training.name!r} does not train now.")
    studio.request(jobs[0].id, "stop")
    console.result({"training": training.id, "job": jobs[0].id, "request": "stop"})


def list_checkpoints(studio: Studio, console: Console, arguments: Arguments) -> None:
    """The checkpoints of a run, newest first."""
    training = _training(studio, arguments)
    checkpoints.mirror(studio, training.id)
    rows = [_told(row) for row in trainings.checkpoints(studio.db(), training.id)]
    columns = ("step", "loss", "l0", "heldout_ev", "bytes", "written", "best", "pinned")
    console.table("checkpoints", rows, columns)


def save_checkpoint(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Ask a run that trains for a checkpoint at its next step."""
    training = _training(studio, arguments)
    job = checkpoints.save_now(studio, training.id)
    console.result({"training": training.id, "job": job, "request": "save"})


def pin_checkpoint(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Keep a checkpoint whatever the rule says."""
    _pin(studio, console, arguments, True)


def unpin_checkpoint(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Leave a checkpoint to the rule again."""
    _pin(studio, console, arguments, False)


def _pin(studio: Studio, console: Console, arguments: Arguments, on: bool) -> None:
    training = _training(studio, arguments)
    checkpoints.pin(studio, training.id, arguments.step, on)
    console.result(_told(checkpoints.find(studio, training.id, arguments.step)))


def remove_checkpoint(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Delete one checkpoint."""
    if not arguments.yes:
        raise InvalidInput("Add --yes to delete it.", code="invalid_config")
    training = _training(studio, arguments)
    step = checkpoints.find(studio, training.id, arguments.step).step
    freed = checkpoints.delete(studio, training.id, step)
    console.result({"training": training.id, "step": step, "bytes": freed})


def keep_checkpoints(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Set how many checkpoints of a run are kept and delete the others."""
    config = from_arguments(RetentionConfig, arguments)
    training = TRAININGS.named(studio.db(), config.training)
    if arguments.every is not None:
        checkpoints.save_every(studio, training.id, arguments.every)
    if arguments.preview:
        found = checkpoints.preview(studio, training.id, config.cap)
    else:
        found = checkpoints.keep(studio, config)
    verb = "Would delete" if arguments.preview else "Deleted"
    steps = ", ".join(f"{row.step:,}" for row in found.rows) or "none"
    console.result(
        {
            "training": training.id,
            "steps": [row.step for row in found.rows],
            "bytes": found.size_bytes,
            "preview": bool(arguments.preview),
        },
        [f"{verb}: {steps} ({format_bytes(found.size_bytes)})."],
    )


def write_sae(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Put the SAE of a checkpoint into the library."""
    config = from_arguments(WriteSaeConfig, arguments)
    console.result(run_job(studio, console, "write_sae", config))


def export_metrics(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Write the metric rows of runs as one CSV file with the stored numbers."""
    runs = [TRAININGS.named(studio.db(), wanted) for wanted in arguments.training]
    out = Path(arguments.out or metric_files.file_name(runs[0].name, "metrics", "csv")).expanduser()
    rows = metric_files.write_csv(studio, [run.id for run in runs], out)
    console.result({"rows": rows, "path": str(out)})


def _training(studio: Studio, arguments: Arguments) -> TrainingRow:
    return TRAININGS.named(studio.db(), arguments.training)


def _at(wanted: str) -> tuple[str, int]:
    """A run and a step from RUN or RUN@STEP; -1: its newest checkpoint."""
    name, sign, step = wanted.rpartition("@")
    if sign and step.isdecimal():
        return name, int(step)
    return wanted, -1


def _told(row: CheckpointRow) -> dict[str, Any]:
    return {
        "step": row.step,
        "loss": row.loss,
        "l0": row.l0,
        **{name: getattr(row, name) for name in trainings.HELD_OUT_COLUMNS},
        "bytes": row.size_bytes,
        "written": row.created_at,
        "best": row.is_best,
        "pinned": row.is_pinned,
        "path": row.path,
    }
