"""Deletions that can be taken back: rows and files are put aside until the time to undo is over.

One folder below `deleted/` for each: `plan.json` says what and whose, `rows.db` holds the rows,
`files/` what was renamed out of its place. The order of the steps makes every moment safe:

1. the folder with its plan appears (by rename);
2. the rows are written to `rows.db`, then leave the database in one transaction;
3. the files are renamed into the folder.

Undo marks the folder `restore`, then writes the rows and renames the files back in one
transaction. Whatever a process leaves that ends in between is settled at the next start: an object
whose row is there gets its files back; one that was being restored is restored; any other was
deleted on purpose, and goes for good.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from mistudio.core.atomic import fsync_path, write_json
from mistudio.core.errors import InUse
from mistudio.core.ids import now
from mistudio.jobs import checkpoints, dependants, open_stores
from mistudio.jobs.activation_pages import partial_folder
from mistudio.jobs.dependants import Dependants
from mistudio.jobs.runner import Studio
from mistudio.store import aside
from mistudio.store.tables import (
    CHECKPOINTS,
    FEATURE_SETS,
    JOBS,
    MODELS,
    STEERING_VECTORS,
    TOKENIZATIONS,
)

RESTORE = "restore"  # a file of the folder: an undo has begun
_WAITING = "('queued', 'paused', 'interrupted')"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kind:
    """How one kind of object is put aside; `table` is also its name in the window."""

    table: str
    places: Callable[[Studio, str], Sequence[Path]]
    of: Callable[[Studio, str], Dependants] | None = None
    has_jobs: bool = False


def _sae_places(studio: Studio, sae_id: str) -> list[Path]:
    sets = FEATURE_SETS.select(studio.db(), "sae_id = ?", [sae_id])
    return [studio.paths.sae(sae_id), *(studio.paths.feature_set(found.id) for found in sets)]


def _tokens(studio: Studio, tokenization_id: str) -> list[Path]:
    row = TOKENIZATIONS.get(studio.db(), tokenization_id)
    return [studio.paths.tokens(row.dataset_id, row.id)]


def _own(studio: Studio, path: str) -> list[Path]:
    """A stored place, if it lies in the data folder."""
    found = studio.paths.absolute(path)
    return [found] if found.is_relative_to(studio.paths.home) else []


KINDS = {
    kind.table: kind
    for kind in (
        Kind("datasets", lambda studio, i: [studio.paths.dataset(i)], dependants.of_dataset),
        Kind("tokenizations", _tokens, dependants.of_tokenization),
        Kind("models", lambda studio, i: [studio.paths.model(i)], dependants.of_model),
        Kind(
            "activation_sets",
            lambda studio, i: [studio.paths.activations(i), partial_folder(studio, i)],
            dependants.of_activation_set,
            has_jobs=True,
        ),
        Kind(
            "trainings",
            lambda studio, i: [studio.paths.run(i)],
            dependants.of_training,
            has_jobs=True,
        ),
        Kind("saes", _sae_places, dependants.of_sae),
        Kind(
            "feature_sets",
            lambda studio, i: [studio.paths.feature_set(i)],
            dependants.of_feature_set,
        ),
        Kind("checkpoints", lambda s, i: _own(s, CHECKPOINTS.get(s.db(), i).path)),
        Kind("steering_vectors", lambda s, i: _own(s, STEERING_VECTORS.get(s.db(), i).path)),
        Kind("steering_runs", lambda _studio, _id: []),
        Kind("templates", lambda _studio, _id: []),
    )
}


def set_aside(studio: Studio, kind: str, object_id: str) -> Path:
    """Delete an object so that it can be taken back; returns the folder that holds it.

    Waiting jobs of it go too, and come back with it. Raises `InUse` with its users, `NotFound`.
    """
    known = KINDS[kind]
    if known.of is not None and (refusal := known.of(studio, object_id).refusal):
        raise InUse(refusal)
    if kind == "models":
        name = MODELS.get(studio.db(), object_id).name
        if studio.models.name == name and not studio.models.unload():
            raise InUse(f"The model {name!r} is being loaded; try again in a moment.")
    places = [place for place in known.places(studio, object_id) if place.exists()]
    parts = [(kind, object_id)]
    if known.has_jobs:
        waiting = JOBS.select(studio.db(), f"target_id = ? AND status IN {_WAITING}", [object_id])
        parts += [("jobs", job.id) for job in waiting]
    folder = _begin(studio, kind, object_id, places)
    aside.take_out(studio.db(), folder / "rows.db", parts)
    open_stores.let_go()
    for number, place in enumerate(places):
        _move(place, folder / "files" / str(number))
    return folder


def set_aside_checkpoint(studio: Studio, training_id: str, step: int) -> Path:
    """`set_aside` of a checkpoint; raises `InUse` as `checkpoints.delete`."""
    row = checkpoints.deletable(studio, training_id, step)
    folder = set_aside(studio, "checkpoints", row.id)
    checkpoints.settle(studio, training_id)
    return folder


def take_back(studio: Studio, folder: Path) -> None:
    """Undo: put rows and files back where they were.

    Raises `InUse` if that is no longer possible; what was put aside is then deleted for good.
    """
    if not folder.exists():
        raise InUse("It is deleted; this cannot be undone any more.")
    (folder / RESTORE).touch()
    fsync_path(folder)
    try:
        _restore(studio, folder)
    except InUse:
        (folder / RESTORE).unlink()
        finish(studio, folder)
        raise


def _restore(studio: Studio, folder: Path) -> None:
    plan, db = _plan(folder), studio.db()
    with db.atomic():
        if (folder / "rows.db").exists() and not _is_there(studio, plan):
            aside.put_back(db, folder / "rows.db")
        _files_back(studio, folder, plan)
    _drop(folder)
    if plan["kind"] == "checkpoints":
        for row in CHECKPOINTS.select(db, "id = ?", [plan["id"]]):
            checkpoints.settle(studio, row.training_id)


def finish(studio: Studio, folder: Path) -> None:
    """The time to undo is over: delete for good what was put aside."""
    if not folder.exists():
        return
    plan, db = _plan(folder), studio.db()
    rows = aside.rows_of(folder / "rows.db", "jobs") if (folder / "rows.db").exists() else []
    with db.atomic():
        for row in rows:
            ended = {**row, "status": "cancelled", "request": None, "finished_at": now()}
            names, marks = ", ".join(ended), ", ".join("?" for _ in ended)
            db.execute(
                f"INSERT OR IGNORE INTO jobs ({names}) VALUES ({marks})", list(ended.values())
            )
    for place in plan["places"]:
        _remove(studio.paths.absolute(place))
    _drop(folder)


def settle(studio: Studio) -> None:
    """At a start: finish or restore what processes that ended had put aside."""
    root = _root(studio)
    if not root.is_dir():
        return
    for folder in sorted(root.iterdir()):
        if folder.name.startswith("."):
            shutil.rmtree(folder, ignore_errors=True)
            continue
        plan = _plan(folder)
        if _lives(plan):
            continue
        try:
            if (folder / RESTORE).exists() or _is_there(studio, plan):
                _restore(studio, folder)
            else:
                finish(studio, folder)
        except InUse:
            (folder / RESTORE).unlink(missing_ok=True)
            finish(studio, folder)
    with contextlib.suppress(OSError):  # others are put aside too, or it is gone
        root.rmdir()


def finish_all(studio: Studio, folders: Iterable[Path]) -> None:
    """`finish` for several."""
    for folder in folders:
        finish(studio, folder)


def take_all_back(studio: Studio, folders: Iterable[Path]) -> None:
    """`take_back` for several; raises the first refusal after all were tried."""
    refused: InUse | None = None
    for folder in folders:
        try:
            take_back(studio, folder)
        except InUse as error:
            refused = refused or error
    if refused is not None:
        raise refused


def _root(studio: Studio) -> Path:
    return studio.paths.home / "deleted"


def _begin(studio: Studio, kind: str, object_id: str, places: Sequence[Path]) -> Path:
    name = f"{object_id}-{uuid.uuid4().hex[:8]}"
    new = _root(studio) / f".new-{name}"
    (new / "files").mkdir(parents=True)
    plan = {
        "kind": kind,
        "id": object_id,
        "places": [studio.paths.relative(place) for place in places],
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
    }
    write_json(new / "plan.json", plan)
    return new.rename(_root(studio) / name)


def _plan(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    return found


def _lives(plan: dict[str, Any]) -> bool:
    """Whether the process that put something aside still offers to undo it."""
    try:
        return abs(psutil.Process(plan["pid"]).create_time() - plan["started"]) < 1.0
    except psutil.Error:
        return False


def _is_there(studio: Studio, plan: dict[str, Any]) -> bool:
    sql = f"SELECT 1 FROM {plan['kind']} WHERE id = ?"
    return bool(list(studio.db().query(sql, [plan["id"]])))


def _files_back(studio: Studio, folder: Path, plan: dict[str, Any]) -> None:
    for number, stored in enumerate(plan["places"]):
        kept, place = folder / "files" / str(number), studio.paths.absolute(stored)
        if kept.exists() and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            kept.rename(place)


def _move(place: Path, kept: Path) -> None:
    """Rename; what cannot be (another disk) stays in place until the deletion is final."""
    try:
        place.rename(kept)
    except OSError:
        log.warning("%s stays in place until it is deleted", place, exc_info=True)


def _drop(folder: Path) -> None:
    """Remove the folder: first its name, so that no later start reads half of it."""
    gone = folder.rename(folder.with_name(f".gone-{folder.name}"))
    shutil.rmtree(gone, ignore_errors=True)
    with contextlib.suppress(OSError):  # others are put aside too
        folder.parent.rmdir()


def _remove(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)
    if place.exists():
        log.warning("files of a deleted object are left at %s", place)
