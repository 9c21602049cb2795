"""The bundled sample: a small language model of ours and the text it was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from mistudio.core.config import Config
from mistudio.core.control import JobControl
from mistudio.core.dataset_configs import ImportDatasetConfig
from mistudio.core.errors import NotFound
from mistudio.core.events import SilentReporter
from mistudio.core.model_configs import ImportModelConfig
from mistudio.core.paths import resources
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.runner import Studio
from mistudio.store.records import DatasetRow, ModelRow
from mistudio.store.tables import DATASETS, MODELS

NAME = "sample"
LICENCE = "Public domain"


def ensure(studio: Studio) -> None:
    """Make a data folder know the sample's model and dataset."""
    ensure_model(studio)
    ensure_dataset(studio)


def known(studio: Studio) -> bool:
    """Whether both parts of the sample are in the library."""
    db = studio.db()
    return bool(
        DATASETS.select(db, "name = ? AND source = 'sample'", [NAME], limit=1)
        and MODELS.select(db, "name = ? AND origin = 'sample'", [NAME], limit=1)
    )


def ensure_dataset(studio: Studio) -> DatasetRow:
    """The sample's dataset, imported from the resources if it is not there yet."""
    found = DATASETS.select(studio.db(), "name = ? AND source = 'sample'", [NAME], limit=1)
    if found and (found[0].status == "ready" or found[0].updated_at > _minutes_ago(2)):
        return found[0]
    for row in found:  # a process that ended left it half imported
        DATASETS.delete(studio.db(), row.id)
    from mistudio.jobs.import_dataset import import_rows

    folder = resources() / "sample" / "text"
    files = sorted(p for p in folder.glob("corpus.*") if p.suffix in (".jsonl", ".txt"))
    if not files:
        raise NotFound(f"The sample text is missing from {folder}. Install miStudio again.")
    config = ImportDatasetConfig(path=str(files[0]), name=NAME)
    return import_rows(
        studio, config, SilentReporter(), JobControl(), source="sample", licence=LICENCE
    )


def _minutes_ago(minutes: int) -> str:
    return (datetime.now(timezone.utc) - timedelta(minutes=minutes)).isoformat()


def ensure_model(studio: Studio) -> ModelRow:
    """The sample's model, registered in place if it is not there yet."""
    found = MODELS.select(studio.db(), "name = ? AND origin = 'sample'", [NAME], limit=1)
    if found:
        return found[0]
    from mistudio.jobs.import_model import register

    folder = resources() / "sample" / "model"
    config = ImportModelConfig(path=str(folder), name=NAME)
    return register(studio, config, SilentReporter(), JobControl(), origin="sample")


@dataclass(frozen=True)
class AddSampleConfig(Config):
    """Add the bundled sample; there is nothing to choose."""


def run(ctx: JobContext, config: AddSampleConfig) -> Result:
    """Register the sample's model and import its text."""
    ctx.report.progress(0.1, "adding the sample model")
    model = ensure_model(ctx.studio)
    ctx.report.progress(0.6, "importing the sample text")
    dataset = ensure_dataset(ctx.studio)
    return {"model": model.id, "dataset": dataset.id}
