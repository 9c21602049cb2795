"""What belongs to a training run: metric rows, checkpoints, the datasets it reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mistudio.core.ids import now
from mistudio.store.connection import Db
from mistudio.store.records import CheckpointRow, TrainingRow
from mistudio.store.tables import CHECKPOINTS, TRAININGS

# measured on held-out text: at checkpoints and every so many steps, else NULL
HELD_OUT_COLUMNS = (
    "heldout_ev",
    "heldout_l0",
    "heldout_dead",
    "heldout_n",
    "heldout_documents",
    "heldout_ev_low",
    "heldout_ev_high",
    "heldout_l0_low",
    "heldout_l0_high",
)
_LATENT_COLUMNS = (
    "heldout_dead_bound",
    "heldout_density_below_1e_6",
    "heldout_density_below_1e_5",
    "heldout_density_above_1e_2",
    "heldout_density_above_1e_1",
    "heldout_density_histogram",
)
METRIC_COLUMNS = (
    "tokens",
    "loss",
    "reconstruction",
    "sparsity",
    "auxiliary",
    "ghost",
    "l0",
    "dead",
    "explained_variance",
    "learning_rate",
    "grad_norm",
    "k",
    "threshold",
    "tokens_per_s",
    "train_seconds",
    "gpu_percent",
    "memory_bytes",
    *HELD_OUT_COLUMNS,
    *_LATENT_COLUMNS,
)


def add_metrics(
    db: Db, training: TrainingRow, rows: Sequence[Mapping[str, float | int | str | None]]
) -> None:
    """Append metric rows; what is there of a step already stays as it was first measured.

    Figures on held-out text come later than the others of their step, or alone.
    """
    stamp = now()
    columns = ("training_id", "step", "layer", "hook", *METRIC_COLUMNS, "created_at", "updated_at")
    marks = ", ".join("?" for _ in columns)
    values = [
        [
            training.id,
            row["step"],
            training.layer,
            training.hook,
            *(row.get(name) for name in METRIC_COLUMNS),
            stamp,
            stamp,
        ]
        for row in rows
    ]
    kept = ", ".join(f"{name} = coalesce({name}, excluded.{name})" for name in METRIC_COLUMNS)
    with db.atomic():
        db.conn.executemany(
            f"INSERT INTO training_metrics ({', '.join(columns)}) VALUES ({marks}) "
            f"ON CONFLICT (training_id, step, layer, hook) DO UPDATE SET {kept}",
            values,
        )


def metrics(db: Db, training_id: str, *, after_step: int = -1) -> list[dict[str, Any]]:
    """Metric rows of a run in step order, from behind `after_step` on."""
    columns = ", ".join(("step", "layer", "hook", *METRIC_COLUMNS))
    return list(
        db.query(
            f"SELECT {columns} FROM training_metrics WHERE training_id = ? AND step > ? "
            "ORDER BY step",
            [training_id, after_step],
        )
    )


def metric_chunks(
    db: Db, training_id: str, names: Sequence[str], after_step: int = -1, size: int = 1000
) -> Iterator[list[tuple[Any, ...]]]:
    """The named columns of a run's metric rows in step order, `size` rows at a time.

    `names` are columns of the table, among them step.
    """
    unknown = set(names) - {"step", "layer", "hook", *METRIC_COLUMNS}
    if unknown:
        raise ValueError(f"there is no metric column {', '.join(sorted(unknown))}")
    found = db.execute(
        f"SELECT {', '.join(names)} FROM training_metrics WHERE training_id = ? AND step > ? "
        "ORDER BY step",
        [training_id, after_step],
    )
    while rows := found.fetchmany(size):
        yield rows


def last_metric(db: Db, training_id: str) -> tuple[int, float]:
    """Step and training seconds of the newest metric row of a run; (-1, 0) without one."""
    found = list(
        db.query(
            "SELECT step, train_seconds FROM training_metrics WHERE training_id = ? "
            "ORDER BY step DESC LIMIT 1",
            [training_id],
        )
    )
    return (int(found[0]["step"]), float(found[0]["train_seconds"] or 0.0)) if found else (-1, 0.0)


def held_out(db: Db, training_id: str) -> dict[int, dict[str, Any]]:
    """Figures on held-out text by step, of the steps that were measured on it."""
    columns = ", ".join(HELD_OUT_COLUMNS)
    rows = db.query(
        f"SELECT step, {columns} FROM training_metrics "
        "WHERE training_id = ? AND heldout_n IS NOT NULL ORDER BY step",
        [training_id],
    )
    return {int(row.pop("step")): row for row in rows}


def newest_held_out(db: Db, training_id: str) -> dict[str, Any] | None:
    """The step and all that was last measured on held-out text, None if nothing ever was."""
    columns = ", ".join(("step", *HELD_OUT_COLUMNS, *_LATENT_COLUMNS))
    rows = db.query(
        f"SELECT {columns} FROM training_metrics "
        "WHERE training_id = ? AND heldout_n IS NOT NULL ORDER BY step DESC LIMIT 1",
        [training_id],
    )
    return next(iter(rows), None)


def record_checkpoint(
    db: Db,
    training_id: str,
    step: int,
    path: str,
    *,
    size_bytes: int,
    loss: float | None,
    l0: float | None,
    is_best: bool,
    held_out: Mapping[str, Any] | None = None,
) -> None:
    """Add or refresh the row of one checkpoint; at most one per run is the best."""
    with db.atomic():
        if is_best:
            db.execute("UPDATE checkpoints SET is_best = 0 WHERE training_id = ?", [training_id])
        db.execute(
            "DELETE FROM checkpoints WHERE training_id = ? AND step = ?", [training_id, step]
        )
        CHECKPOINTS.insert(
            db,
            training_id=training_id,
            step=step,
            path=path,
            size_bytes=size_bytes,
            loss=loss,
            l0=l0,
            is_best=is_best,
            verified=True,
            **(held_out or {}),
        )


def record_held_out(
    db: Db, training_id: str, step: int, figures: Mapping[str, float | int | None]
) -> None:
    """Give the row of a checkpoint what its step reached on held-out text."""
    settings = ", ".join(f"{name} = ?" for name in HELD_OUT_COLUMNS)
    with db.atomic():
        db.execute(
            f"UPDATE checkpoints SET {settings} WHERE training_id = ? AND step = ?",
            [*(figures[name] for name in HELD_OUT_COLUMNS), training_id, step],
        )


def mark_checkpoints(
    db: Db, training_id: str, best: int | None, pinned: Sequence[int] = ()
) -> None:
    """Say which step of a run is the best, and which are pinned."""
    marks = ", ".join("?" for _ in pinned)
    with db.atomic():
        db.execute(
            f"UPDATE checkpoints SET is_best = step IS ?, is_pinned = step IN ({marks}) "
            "WHERE training_id = ?",
            [best, *pinned, training_id],
        )


def pin_checkpoint(db: Db, checkpoint_id: str, on: bool) -> None:
    """Set or take away the pin of a checkpoint."""
    CHECKPOINTS.update(db, checkpoint_id, is_pinned=on)


def checkpoints(db: Db, training_id: str) -> list[CheckpointRow]:
    """Checkpoints of a run, newest step first."""
    return CHECKPOINTS.select(db, "training_id = ?", [training_id], order="step DESC")


def forget_checkpoints(db: Db, training_id: str, kept_steps: Sequence[int]) -> None:
    """Drop the rows of checkpoints whose files are gone."""
    marks = ", ".join("?" for _ in kept_steps)
    with db.atomic():
        db.execute(
            f"DELETE FROM checkpoints WHERE training_id = ? AND step NOT IN ({marks})",
            [training_id, *kept_steps],
        )


def use_dataset(db: Db, training_id: str, tokenization_id: str, weight: float = 1.0) -> None:
    """Record that a run reads a tokenisation."""
    stamp = now()
    with db.atomic():
        db.execute(
            "INSERT OR REPLACE INTO training_datasets VALUES (?, ?, ?, ?, ?)",
            [training_id, tokenization_id, weight, stamp, stamp],
        )


def tokenizations_of(db: Db, training_id: str) -> list[tuple[str, float]]:
    """The tokenisations a run reads, each with its weight, in the order they were named."""
    rows = db.query(
        "SELECT tokenization_id, weight FROM training_datasets WHERE training_id = ? "
        "AND tokenization_id IS NOT NULL ORDER BY rowid",
        [training_id],
    )
    return [(str(row["tokenization_id"]), float(row["weight"])) for row in rows]


def tokenization_of(db: Db, training_id: str) -> str | None:
    """The first tokenisation a run reads."""
    found = tokenizations_of(db, training_id)
    return found[0][0] if found else None


def of_job(db: Db, target_id: str) -> list[TrainingRow]:
    """The trainings that a job works on whose target is a training or a group of them."""
    return TRAININGS.select(db, "id = ? OR group_id = ?", [target_id, target_id], order="rowid")


def of_group(db: Db, group_id: str) -> list[TrainingRow]:
    """The trainings of a sweep, in the order they were made."""
    return TRAININGS.select(db, "group_id = ?", [group_id], order="rowid")


def unfinished(db: Db) -> list[TrainingRow]:
    """Runs that can be resumed."""
    return TRAININGS.select(db, "status IN ('paused', 'interrupted')")
