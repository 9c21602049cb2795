"""The history of steering: found, starred, noted, deleted."""

from __future__ import annotations

from collections.abc import Sequence

from mistudio.store.connection import Db
from mistudio.store.records import SteeringRunRow
from mistudio.store.tables import STEERING_RUNS


def run_ids(db: Db, text: str = "", *, starred: bool = False, sae: str = "") -> list[str]:
    """Runs that hold every word of `text`, starred ones first, then the newest.

    A word is looked for in prompt, note, mode and texts; `#12` finds the runs that steer feature
    12.
    """
    conditions, values = ["1"], list[str]()
    for word in text.split():
        if word.startswith("#") and word[1:].isdigit():
            conditions.append("(config LIKE ? OR config LIKE ?)")
            values += [f'%"{word[1:]}=%', f"%{word}=%"]
            continue
        marks = "prompt", "note", "mode", "outputs"
        conditions.append("(" + " OR ".join(f"{mark} LIKE ? ESCAPE '\\'" for mark in marks) + ")")
        escaped = word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        values += [f"%{escaped}%"] * len(marks)
    if starred:
        conditions.append("is_favorite = 1")
    if sae:
        conditions.append("sae_id = ?")
        values.append(sae)
    sql = (
        f"SELECT id FROM steering_runs WHERE {' AND '.join(conditions)} "
        "ORDER BY is_favorite DESC, created_at DESC, rowid DESC"
    )
    return [str(found[0]) for found in db.execute(sql, values).fetchall()]


def runs(db: Db, ids: Sequence[str]) -> list[SteeringRunRow | None]:
    """One row per id, in that order; None for one that is gone."""
    if not len(ids):
        return []
    marks = ", ".join("?" for _ in ids)
    found = STEERING_RUNS.select(db, f"id IN ({marks})", [str(run) for run in ids])
    rows = {run.id: run for run in found}
    return [rows.get(str(run)) for run in ids]


def star(db: Db, run_id: str, on: bool) -> None:
    """Set or take away the star; raises `NotFound`."""
    STEERING_RUNS.get(db, run_id)
    STEERING_RUNS.update(db, run_id, is_favorite=on)


def note(db: Db, run_id: str, text: str) -> None:
    """Write a note beside a run, "" takes it away; raises `NotFound`."""
    STEERING_RUNS.get(db, run_id)
    STEERING_RUNS.update(db, run_id, note=text.strip() or None)


def delete(db: Db, ids: Sequence[str]) -> list[SteeringRunRow]:
    """Forget runs; returns them, so that `restore` can bring them back."""
    found = [run for run in runs(db, ids) if run is not None]
    for run in found:
        STEERING_RUNS.delete(db, run.id)
    return found


def restore(db: Db, found: Sequence[SteeringRunRow]) -> None:
    """Put deleted runs back as they were."""
    from dataclasses import asdict

    for run in found:
        STEERING_RUNS.insert(db, **asdict(run))
