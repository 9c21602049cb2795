"""What hangs on a stored object: who needs it, what goes with it, what stays without it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mistudio.core.atomic import directory_bytes
from mistudio.store.connection import Db
from mistudio.store.records import JobRow, TrainingRow
from mistudio.store.tables import (
    ACTIVATION_SETS,
    DATASETS,
    FEATURE_SETS,
    JOBS,
    MODELS,
    SAES,
    TOKENIZATIONS,
    TRAININGS,
)

if TYPE_CHECKING:
    from mistudio.jobs.runner import Studio

_UNFINISHED_JOBS = "status IN ('queued', 'running', 'paused', 'interrupted')"
_UNFINISHED_TRAININGS = (
    "status IN ('queued', 'initializing', 'training', 'paused', 'stopping', 'interrupted')"
)


@dataclass(frozen=True)
class Dependants:
    """What deleting one object means; the lists hold phrases such as "SAE 'first try'"."""

    noun: str
    name: str
    size_bytes: int
    """freed on disk, with everything that goes with it"""
    needed_by: list[str]
    """while there are any, the object is not deleted"""
    removed: list[str]
    """deleted with it"""
    kept: list[str]
    """stays, but loses it"""

    @property
    def refusal(self) -> str:
        """The sentence that says why it is not deleted, "" if it can be."""
        if not self.needed_by:
            return ""
        return (
            f"The {self.noun} {self.name!r} is used by {_listed(self.needed_by)}. "
            "Finish, cancel or delete these first."
        )


def of_dataset(studio: Studio, dataset_id: str) -> Dependants:
    """What deleting a dataset means; raises `NotFound`."""
    db = studio.db()
    row = DATASETS.get(db, dataset_id)
    tokenizations = TOKENIZATIONS.select(db, "dataset_id = ?", [dataset_id])
    ids = [t.id for t in tokenizations]
    jobs = _jobs_naming(db, ("dataset",), [row.id, row.name, *ids])
    jobs += JOBS.select(db, f"target_id = ? AND {_UNFINISHED_JOBS}", [row.id])
    if row.status != "ready":
        jobs += _unfinished_of_kind(db, ("import_dataset", "add_sample", "demo"))
    if row.source == "sample":
        jobs += _unfinished_of_kind(db, ("add_sample", "demo"))
    return Dependants(
        "dataset",
        row.name,
        directory_bytes(studio.paths.dataset(dataset_id)),
        _jobs_and_trainings(jobs, _reading(db, ids, _UNFINISHED_TRAININGS))
        + _feature_sets_of(db, ids),
        [f"a tokenisation of {t.context:,} tokens per row" for t in tokenizations],
        _trainings(_reading(db, ids, f"NOT ({_UNFINISHED_TRAININGS})"))
        + _sets_of(db, "tokenization_id", ids),
    )


def of_tokenization(studio: Studio, tokenization_id: str) -> Dependants:
    """What deleting a tokenisation means; raises `NotFound`."""
    db = studio.db()
    row = TOKENIZATIONS.get(db, tokenization_id)
    dataset = DATASETS.get(db, row.dataset_id)
    jobs = _jobs_naming(db, ("dataset",), [row.id])
    if row.status != "ready":
        jobs += _jobs_naming(db, ("dataset",), [dataset.id, dataset.name])
    ids = [row.id]
    return Dependants(
        "tokenisation",
        f"{dataset.name}, {row.context:,} tokens per row",
        directory_bytes(studio.paths.tokens(row.dataset_id, row.id)),
        _jobs_and_trainings(jobs, _reading(db, ids, _UNFINISHED_TRAININGS))
        + _feature_sets_of(db, ids),
        [],
        _trainings(_reading(db, ids, f"NOT ({_UNFINISHED_TRAININGS})"))
        + _sets_of(db, "tokenization_id", ids),
    )


def of_model(studio: Studio, model_id: str) -> Dependants:
    """What deleting a model means; its files count only if they were copied here.

    Raises `NotFound`.
    """
    db = studio.db()
    row = MODELS.get(db, model_id)
    jobs = _jobs_naming(db, ("model",), [row.id, row.name])
    if row.origin == "sample":
        jobs += _unfinished_of_kind(db, ("add_sample", "demo"))
    trainings = TRAININGS.select(db, "model_id = ?", [model_id])
    unfinished = TRAININGS.select(db, f"model_id = ? AND {_UNFINISHED_TRAININGS}", [model_id])
    saes = SAES.select(db, "model_id = ?", [model_id])
    for sae in saes:
        jobs += _jobs_naming(db, ("sae",), [sae.id, sae.name])
    tokenizations = TOKENIZATIONS.select(db, "model_id = ?", [model_id])
    return Dependants(
        "model",
        row.name,
        directory_bytes(studio.paths.model(model_id)),
        _jobs_and_trainings(jobs, unfinished) + [f"SAE {sae.name!r}" for sae in saes],
        [],
        _trainings(t for t in trainings if t not in unfinished)
        + [f"a tokenisation of {t.context:,} tokens per row" for t in tokenizations]
        + _sets_of(db, "model_id", [model_id]),
    )


def of_activation_set(studio: Studio, set_id: str) -> Dependants:
    """What deleting an activation set means; raises `NotFound`."""
    from mistudio.jobs.activation_pages import partial_folder

    db = studio.db()
    row = ACTIVATION_SETS.get(db, set_id)
    names = [row.id, row.name]
    newest = ACTIVATION_SETS.select(db, "status = 'completed'", limit=1)  # what jobs call "last"
    if newest and newest[0].id == set_id:
        names.append("last")
    working = JOBS.select(db, "target_id = ? AND status IN ('running', 'paused')", [set_id])
    jobs = working + [
        job for job in _jobs_naming(db, ("activations",), names) if job.target_id != set_id
    ]
    reading = TRAININGS.select(db, "activation_set_id = ?", [set_id])
    unfinished = TRAININGS.select(
        db, f"activation_set_id = ? AND {_UNFINISHED_TRAININGS}", [set_id]
    )
    return Dependants(
        "activation set",
        row.name,
        directory_bytes(studio.paths.activations(set_id))
        + directory_bytes(partial_folder(studio, set_id)),
        _jobs_and_trainings(jobs, unfinished),
        [],
        _trainings(t for t in reading if t not in unfinished),
    )


def _sets_of(db: Db, column: str, ids: Sequence[str]) -> list[str]:
    """Activation sets made with a model or from tokenisations: they stay without it."""
    marks = ", ".join("?" for _ in ids)
    rows = ACTIVATION_SETS.select(db, f"{column} IN ({marks})", list(ids))
    return [f"activation set {row.name!r}" for row in rows]


def of_training(studio: Studio, training_id: str) -> Dependants:
    """What deleting a training means; only a running job forbids it. Raises `NotFound`."""
    db = studio.db()
    row = TRAININGS.get(db, training_id)
    whose = "target_id IN (?, ?) AND status = 'running'"
    running = JOBS.select(db, whose, [training_id, row.group_id])
    return Dependants(
        "training",
        row.name,
        directory_bytes(studio.paths.run(training_id)),
        [_job(job) for job in running],
        ["its checkpoints and curves"],
        [f"SAE {sae.name!r}" for sae in SAES.select(db, "training_id = ?", [training_id])],
    )


def of_sae(studio: Studio, sae_id: str) -> Dependants:
    """What deleting an SAE means: its feature sets and labels go with it. Raises `NotFound`."""
    db = studio.db()
    row = SAES.get(db, sae_id)
    names = [row.id, row.name]
    newest = SAES.select(db, "status != 'error'", limit=1)  # what jobs call "last"
    if newest and newest[0].id == sae_id:
        names.append("last")
    sets = FEATURE_SETS.select(db, "sae_id = ?", [sae_id])
    runs = list(db.query("SELECT COUNT(*) AS n FROM steering_runs WHERE sae_id = ?", [sae_id]))
    labels = list(
        db.query(
            "SELECT COUNT(*) AS n FROM features WHERE sae_id = ? AND label IS NOT NULL", [sae_id]
        )
    )
    removed = [f"a feature set over {s.n_tokens or 0:,} tokens" for s in sets]
    if labels[0]["n"]:
        removed.append(_counted(labels[0]["n"], "label"))
    return Dependants(
        "SAE",
        row.name,
        directory_bytes(studio.paths.sae(sae_id))
        + sum(directory_bytes(studio.paths.feature_set(s.id)) for s in sets),
        [_job(job) for job in _jobs_naming(db, ("sae",), names)],
        removed,
        [_counted(runs[0]["n"], "steering run")] if runs[0]["n"] else [],
    )


def of_feature_set(studio: Studio, feature_set_id: str) -> Dependants:
    """What deleting a feature set means; its labels belong to the SAE. Raises `NotFound`."""
    db = studio.db()
    row = FEATURE_SETS.get(db, feature_set_id)
    sae = SAES.get(db, row.sae_id)
    jobs = [
        job
        for job in _unfinished_of_kind(db, ("harvest",))
        if row.status != "ready" and job.config.get("sae") in (sae.id, sae.name, "last")
    ]
    return Dependants(
        "feature set",
        f"Features of {sae.name}",
        directory_bytes(studio.paths.feature_set(feature_set_id)),
        [_job(job) for job in jobs],
        [],
        [],
    )


def _jobs_naming(db: Db, settings: Sequence[str], names: Sequence[str]) -> list[JobRow]:
    """Unfinished jobs whose named settings hold one of `names`, or that fill one of them."""
    return [
        job
        for job in JOBS.select(db, _UNFINISHED_JOBS)
        if job.target_id in names or any(job.config.get(s) in names for s in settings)
    ]


def _unfinished_of_kind(db: Db, kinds: Sequence[str]) -> list[JobRow]:
    marks = ", ".join("?" for _ in kinds)
    return JOBS.select(db, f"{_UNFINISHED_JOBS} AND kind IN ({marks})", list(kinds))


def _reading(db: Db, tokenization_ids: Sequence[str], where: str) -> list[TrainingRow]:
    """Trainings that read one of these tokenisations."""
    marks = ", ".join("?" for _ in tokenization_ids)
    return TRAININGS.select(
        db,
        "id IN (SELECT training_id FROM training_datasets "
        f"WHERE tokenization_id IN ({marks})) AND {where}",
        list(tokenization_ids),
    )


def _feature_sets_of(db: Db, tokenization_ids: Sequence[str]) -> list[str]:
    """Feature sets whose examples are shown from this text."""
    marks = ", ".join("?" for _ in tokenization_ids)
    rows = FEATURE_SETS.select(db, f"tokenization_id IN ({marks})", list(tokenization_ids))
    return [f"the features of SAE {SAES.get(db, row.sae_id).name!r}" for row in rows]


def _jobs_and_trainings(jobs: Sequence[JobRow], trainings: Iterable[TrainingRow]) -> list[str]:
    """Each unfinished piece of work once: a training is left out where its job is named."""
    distinct = {job.id: job for job in jobs}
    targets = {job.target_id for job in distinct.values()}
    return [_job(job) for job in distinct.values()] + _trainings(
        t for t in trainings if t.id not in targets
    )


def _job(job: JobRow) -> str:
    return f"the {job.status} job {job.title!r}"


def _trainings(rows: Iterable[TrainingRow]) -> list[str]:
    return [f"training {row.name!r}" for row in rows]


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _listed(phrases: Sequence[str]) -> str:
    """ "a, b and c"; beyond five the rest is counted."""
    shown = list(phrases[:5])
    if len(phrases) > 5:
        shown.append(f"{len(phrases) - 5:,} more")
    if len(shown) == 1:
        return shown[0]
    return f"{', '.join(shown[:-1])} and {shown[-1]}"
