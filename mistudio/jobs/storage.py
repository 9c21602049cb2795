"""What takes room on the disk: every kind of thing, every thing, and who uses it."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from mistudio.core.atomic import directory_bytes
from mistudio.core.disk_room import is_nearly_full
from mistudio.core.errors import InvalidInput, NotFound
from mistudio.jobs import deletion, dependants
from mistudio.jobs.dependants import Dependants
from mistudio.jobs.runner import Studio
from mistudio.store.tables import (
    ACTIVATION_SETS,
    DATASETS,
    FEATURE_SETS,
    MODELS,
    SAES,
    TOKENIZATIONS,
    TRAININGS,
)

log = logging.getLogger(__name__)

DAY_S = 86_400.0

KINDS = {
    "dataset": "Datasets",
    "tokenization": "Tokenisations",
    "model": "Models",
    "hub_model": "Hub cache: models",
    "hub_dataset": "Hub cache: datasets",
    "hub_unfinished": "Hub cache: unfinished downloads",
    "activation_set": "Activation sets",
    "training": "Training runs",
    "sae": "SAEs",
    "feature_set": "Feature sets",
    "exports": "Exports",
    "logs": "Logs and backups",
    "temporary": "Temporary files",
}


@dataclass(frozen=True)
class StoredItem:
    """One thing on the disk. `key` is unique: the kind and the object's id."""

    kind: str
    object_id: str
    name: str
    size_bytes: int
    used_by: str
    """ "2 trainings, 1 feature set", "" if nothing needs it"""
    created_at: str
    can_delete: bool = True

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.object_id}"

    @property
    def kind_name(self) -> str:
        return KINDS[self.kind]


@dataclass(frozen=True)
class Usage:
    """The disk of the data folder and what is on it that is ours, in bytes."""

    disk_total: int
    disk_free: int
    by_kind: dict[str, int]
    items: list[StoredItem]

    @property
    def ours(self) -> int:
        return sum(self.by_kind.values())

    @property
    def is_nearly_full(self) -> bool:
        return is_nearly_full(self.disk_free, self.disk_total)


def usage(studio: Studio) -> Usage:
    """Everything on the disk that is ours, largest first; called in the query thread."""
    disk = shutil.disk_usage(studio.paths.home)
    items = [item for read in _READERS for item in read(studio)]
    by_kind = dict.fromkeys(KINDS, 0)
    for item in items:
        by_kind[item.kind] += item.size_bytes
    items.sort(key=lambda item: -item.size_bytes)
    return Usage(disk.total, disk.free, by_kind, items)


def dependants_of(studio: Studio, key: str) -> Dependants:
    """What deleting the item with this key means; raises `NotFound`."""
    kind, _, object_id = key.partition(":")
    known = {
        "dataset": dependants.of_dataset,
        "tokenization": dependants.of_tokenization,
        "model": dependants.of_model,
        "activation_set": dependants.of_activation_set,
        "training": dependants.of_training,
        "sae": dependants.of_sae,
        "feature_set": dependants.of_feature_set,
    }
    if kind in known:
        return known[kind](studio, object_id)
    for item in usage(studio).items:
        if item.key == key:
            used = [item.used_by] if item.used_by else []
            return Dependants(item.kind_name.lower(), item.name, item.size_bytes, used, [], [])
    raise NotFound("This is already gone.")


def delete(studio: Studio, key: str) -> None:
    """Delete the item with this key; raises `InUse` with its users, or `NotFound`."""
    kind, _, object_id = key.partition(":")
    if kind in ("hub_model", "hub_dataset"):
        from mistudio.jobs import hub_pages

        repo, _, commit = object_id.rpartition("@")
        hub_pages.delete_cached(studio, kind.removeprefix("hub_"), repo, commit)
        return
    if kind == "hub_unfinished":
        from mistudio.jobs import hub_pages

        repo_kind, _, repo = object_id.partition(":")
        hub_pages.delete_unfinished(studio, repo_kind, repo)
        return
    known: dict[str, Callable[[Studio, str], None]] = {
        "dataset": deletion.delete_dataset,
        "tokenization": deletion.delete_tokenization,
        "model": deletion.delete_model,
        "activation_set": deletion.delete_activation_set,
        "training": deletion.delete_training,
        "sae": deletion.delete_sae,
        "feature_set": deletion.delete_feature_set,
        "logs": _delete_old_logs,
    }
    if kind not in known:
        raise InvalidInput("These files are not deleted from here; look into their folder.")
    known[kind](studio, object_id)


def put_aside(studio: Studio, key: str) -> Path | None:
    """Delete so that it can be undone, and return where it is kept; None where it cannot be.

    Raises as `delete`.
    """
    from mistudio.jobs.set_aside import KINDS as UNDOABLE
    from mistudio.jobs.set_aside import set_aside

    kind, _, object_id = key.partition(":")
    if f"{kind}s" in UNDOABLE:
        return set_aside(studio, f"{kind}s", object_id)
    delete(studio, key)
    return None


def clean_temporary(studio: Studio, older_than_s: float = DAY_S) -> int:
    """Remove temporary files that were not touched for a day; returns the bytes freed."""
    freed, limit = 0, time.time() - older_than_s
    for item in list(studio.paths.tmp.iterdir()):
        try:
            if item.stat().st_mtime > limit:
                continue
            size = directory_bytes(item)
            shutil.rmtree(item) if item.is_dir() else item.unlink()
            freed += size
        except OSError:
            log.warning("a temporary file is left at %s", item, exc_info=True)
    return freed


def _counts(studio: Studio, sql: str) -> dict[str, int]:
    return {row["owner"]: row["n"] for row in studio.db().query(sql) if row["owner"]}


def _used(*counted: tuple[int, str]) -> str:
    return ", ".join(f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s" for n, noun in counted if n)


def _datasets(studio: Studio) -> Iterable[StoredItem]:
    made = _counts(
        studio, "SELECT dataset_id AS owner, COUNT(*) AS n FROM tokenizations GROUP BY dataset_id"
    )
    for row in DATASETS.select(studio.db()):
        used = _used((made.get(row.id, 0), "tokenisation"))
        folder = studio.paths.dataset(row.id)
        size = directory_bytes(folder) - directory_bytes(folder / "tokens")
        yield StoredItem("dataset", row.id, row.name, size, used, row.created_at)


def _tokenizations(studio: Studio) -> Iterable[StoredItem]:
    db = studio.db()
    names = {row.id: row.name for row in DATASETS.select(db)}
    trained = _counts(
        studio,
        "SELECT tokenization_id AS owner, COUNT(*) AS n FROM training_datasets "
        "GROUP BY tokenization_id",
    )
    shown = _counts(
        studio,
        "SELECT tokenization_id AS owner, COUNT(*) AS n FROM feature_sets GROUP BY tokenization_id",
    )
    stored = _counts(
        studio,
        "SELECT tokenization_id AS owner, COUNT(*) AS n FROM activation_sets "
        "GROUP BY tokenization_id",
    )
    for row in TOKENIZATIONS.select(db):
        used = _used(
            (trained.get(row.id, 0), "training"),
            (shown.get(row.id, 0), "feature set"),
            (stored.get(row.id, 0), "activation set"),
        )
        name = f"{names.get(row.dataset_id, row.dataset_id)}, {row.context:,} tokens per row"
        yield StoredItem("tokenization", row.id, name, row.size_bytes or 0, used, row.created_at)


def _models(studio: Studio) -> Iterable[StoredItem]:
    read = _counts(studio, "SELECT model_id AS owner, COUNT(*) AS n FROM saes GROUP BY model_id")
    stored = _counts(
        studio, "SELECT model_id AS owner, COUNT(*) AS n FROM activation_sets GROUP BY model_id"
    )
    for row in MODELS.select(studio.db()):
        copied = studio.paths.model(row.id)
        if copied.exists():  # others lie in the Hub cache or in a folder of the user
            used = _used((read.get(row.id, 0), "SAE"), (stored.get(row.id, 0), "activation set"))
            size = directory_bytes(copied)
            yield StoredItem("model", row.id, row.name, size, used, row.created_at)


def _hub(studio: Studio) -> Iterable[StoredItem]:
    from mistudio.jobs import hub_pages

    models = {row.commit_sha: row.name for row in MODELS.select(studio.db()) if row.commit_sha}
    for kind, found in (
        ("model", hub_pages.cached_models(studio)),
        ("dataset", hub_pages.cached_datasets(studio)),
    ):
        for repo in found:
            user = models.get(repo.sha) if kind == "model" else None
            yield StoredItem(
                f"hub_{kind}",
                f"{repo.id}@{repo.sha}",
                f"{repo.id} ({repo.revision or repo.sha[:8]})",
                repo.freed_bytes,
                f"model {user!r}" if user else "",
                "",
            )
    under_way = hub_pages.repositories_under_way(studio)
    for rest in hub_pages.unfinished_downloads(studio):
        user = "a download" if (rest.kind, rest.id) in under_way else ""
        what = f"{rest.id} ({rest.kind})"
        yield StoredItem(
            "hub_unfinished", f"{rest.kind}:{rest.id}", what, rest.size_bytes, user, ""
        )


def _activation_sets(studio: Studio) -> Iterable[StoredItem]:
    used = _counts(
        studio,
        "SELECT activation_set_id AS owner, COUNT(*) AS n FROM trainings "
        "GROUP BY activation_set_id",
    )
    for row in ACTIVATION_SETS.select(studio.db()):
        size = row.size_bytes or directory_bytes(studio.paths.activations(row.id))
        users = _used((used.get(row.id, 0), "training"))
        yield StoredItem("activation_set", row.id, row.name, size, users, row.created_at)


def _trainings(studio: Studio) -> Iterable[StoredItem]:
    for row in TRAININGS.select(studio.db()):
        size = directory_bytes(studio.paths.run(row.id))
        yield StoredItem("training", row.id, row.name, size, "", row.created_at)


def _saes(studio: Studio) -> Iterable[StoredItem]:
    sets = _counts(
        studio, "SELECT sae_id AS owner, COUNT(*) AS n FROM feature_sets GROUP BY sae_id"
    )
    for row in SAES.select(studio.db()):
        size = directory_bytes(studio.paths.sae(row.id))
        used = _used((sets.get(row.id, 0), "feature set"))
        yield StoredItem("sae", row.id, row.name, size, used, row.created_at)


def _feature_sets(studio: Studio) -> Iterable[StoredItem]:
    names = {row.id: row.name for row in SAES.select(studio.db())}
    for row in FEATURE_SETS.select(studio.db()):
        size = row.size_bytes or directory_bytes(studio.paths.feature_set(row.id))
        name = f"Features of {names.get(row.sae_id, row.sae_id)}"
        yield StoredItem("feature_set", row.id, name, size, "", row.created_at)


def _folders(studio: Studio) -> Iterable[StoredItem]:
    paths = studio.paths
    logs = directory_bytes(paths.logs) + directory_bytes(paths.backups)
    for kind, name, size in (
        ("exports", "Files written by exports", directory_bytes(paths.exports)),
        ("logs", "Logs and database backups", logs),
        ("temporary", "Temporary files", directory_bytes(paths.tmp)),
    ):
        if size:
            yield StoredItem(kind, "all", name, size, "", "", can_delete=kind == "logs")


_READERS: tuple[Callable[[Studio], Iterable[StoredItem]], ...] = (
    _datasets,
    _tokenizations,
    _models,
    _hub,
    _activation_sets,
    _trainings,
    _saes,
    _feature_sets,
    _folders,
)


def _delete_old_logs(studio: Studio, _: str) -> None:
    """The logs of finished jobs, rolled-over logs and all database backups but the newest."""
    old: list[Path] = [
        *studio.paths.logs.glob("mistudio.jsonl.*"),
        *(studio.paths.logs / "jobs").glob("*.jsonl"),
        *sorted(studio.paths.backups.glob("*.db"))[:-1],
    ]
    for file in old:
        file.unlink(missing_ok=True)
