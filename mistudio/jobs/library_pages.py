"""What the lists of datasets and models show; short reads, callable in the query thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mistudio.jobs import dependants
from mistudio.jobs.dependants import Dependants
from mistudio.jobs.runner import Studio
from mistudio.store.records import DatasetRow, JobRow, ModelRow, TokenizationRow
from mistudio.store.tables import DATASETS, JOBS, MODELS, TOKENIZATIONS

_ACTIVE_FIRST = "status = 'ready', created_at DESC"


@dataclass(frozen=True)
class ListedDataset:
    """A dataset and its tokenisations, newest first, with the names of their models by id."""

    row: DatasetRow
    tokenizations: list[TokenizationRow]
    model_names: dict[str, str]
    used_by: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """who needs or read it, by id of the dataset or tokenisation; only known of a single dataset"""

    @property
    def size_bytes(self) -> int | None:
        """On disk, tokenisations included; None while the text is not there."""
        if self.row.size_bytes is None:
            return None
        return self.row.size_bytes + sum(t.size_bytes or 0 for t in self.tokenizations)


@dataclass(frozen=True)
class DatasetList:
    """Every dataset, unfinished ones first, then newest; and the jobs that will add some."""

    datasets: list[ListedDataset]
    jobs: list[JobRow]


@dataclass(frozen=True)
class ModelList:
    """Every model, newest first; the jobs that will add some; the name of the loaded one."""

    models: list[ModelRow]
    jobs: list[JobRow]
    loaded: str


def datasets(studio: Studio) -> DatasetList:
    """The dataset list as it is now."""
    db = studio.db()
    by_dataset: dict[str, list[TokenizationRow]] = {}
    for tokenization in TOKENIZATIONS.select(db):
        by_dataset.setdefault(tokenization.dataset_id, []).append(tokenization)
    rows, names = DATASETS.select(db, order=_ACTIVE_FIRST), _model_names(studio)
    return DatasetList(
        [ListedDataset(row, by_dataset.get(row.id, []), names) for row in rows],
        _jobs(studio, ("import_dataset", "download_dataset", "add_sample", "demo")),
    )


def dataset(studio: Studio, dataset_id: str) -> ListedDataset | None:
    """One dataset, None if it is gone."""
    row = DATASETS.find(studio.db(), dataset_id)
    if row is None:
        return None
    tokenizations = TOKENIZATIONS.select(studio.db(), "dataset_id = ?", [dataset_id])
    users = {t.id: _users(dependants.of_tokenization(studio, t.id)) for t in tokenizations}
    users[row.id] = _users(dependants.of_dataset(studio, row.id))
    return ListedDataset(row, tokenizations, _model_names(studio), users)


def _users(found: Dependants) -> list[str]:
    return [*found.needed_by, *found.kept]


def tokenize_jobs(studio: Studio, row: DatasetRow) -> list[JobRow]:
    """Waiting and running tokenisations of a dataset."""
    return [
        job
        for job in _jobs(studio, ("tokenize",))
        if job.config.get("dataset") in (row.id, row.name)
    ]


def models(studio: Studio) -> ModelList:
    """The model list as it is now."""
    return ModelList(
        MODELS.select(studio.db(), order=_ACTIVE_FIRST),
        _jobs(studio, ("import_model", "download_model", "check_model", "add_sample", "demo")),
        studio.models.name,
    )


def ready_models(studio: Studio) -> list[ModelRow]:
    """Models that can be worked with, newest first."""
    return MODELS.select(studio.db(), "status = 'ready'")


def job(studio: Studio, job_id: str) -> JobRow | None:
    """One job, None if it is gone."""
    return JOBS.find(studio.db(), job_id)


def hide_job(studio: Studio, job_id: str) -> None:
    """Take a finished job off the lists; its row stays."""
    JOBS.update(studio.db(), job_id, hidden=1)


def _model_names(studio: Studio) -> dict[str, str]:
    return {model.id: model.name for model in MODELS.select(studio.db())}


def _jobs(studio: Studio, kinds: Sequence[str]) -> list[JobRow]:
    """Unfinished jobs, and downloads that ended early and were neither hidden nor tried again."""
    marks = ", ".join("?" for _ in kinds)
    return JOBS.select(
        studio.db(),
        f"kind IN ({marks}) AND (status IN ('queued', 'running', 'paused', 'interrupted') OR ("
        "status IN ('failed', 'cancelled') AND hidden = 0 AND kind LIKE 'download_%' "
        "AND NOT EXISTS (SELECT 1 FROM jobs AS later WHERE later.kind = jobs.kind "
        "AND later.config = jobs.config AND later.created_at > jobs.created_at)))",
        list(kinds),
    )
