"""Import a text file: documents into a memory-mapped file, counts into a row."""

from __future__ import annotations

import shutil
from pathlib import Path

from mistudio.core.atomic import directory_bytes
from mistudio.core.control import JobControl
from mistudio.core.dataset_configs import ImportDatasetConfig
from mistudio.core.events import Reporter
from mistudio.core.ids import new_id
from mistudio.core.local_path import local_path
from mistudio.jobs.context import JobContext, Result, StageReporter
from mistudio.jobs.dataset_names import free_name
from mistudio.jobs.index_dataset import index_after
from mistudio.jobs.runner import Studio
from mistudio.store.records import DatasetRow
from mistudio.store.tables import DATASETS, JOBS

_READING = 0.35  # of the time of an import; the rest goes into the word index


def prepare(studio: Studio, config: ImportDatasetConfig) -> None:
    """Refuse a file that is not there before anything is queued."""
    local_path(config.path)


def run(ctx: JobContext, config: ImportDatasetConfig) -> Result:
    """Import and index the file; a failure or a cancel of the import leaves neither row nor files.

    Once the dataset is ready it stays, whatever becomes of its index.
    """
    done = DATASETS.find(ctx.db, ctx.job.target_id) if ctx.job.target_id else None
    if done is None or done.status != "ready":
        row = import_rows(
            ctx.studio, config, ctx.report, ctx.control, source="local", job_id=ctx.job.id
        )
    else:  # interrupted while it was indexed
        index_after(ctx.studio, done, ctx.report, ctx.control)
        row = done
    return {"dataset": row.id, "name": row.name, "samples": row.num_samples}


def import_rows(
    studio: Studio,
    config: ImportDatasetConfig,
    report: Reporter,
    control: JobControl,
    *,
    source: str,
    licence: str | None = None,
    job_id: str = "",
) -> DatasetRow:
    """Import as a dataset of the given source ("local", "sample") and return its row.

    A job that is named finds the dataset again if it is interrupted.
    """
    from mistudio.ml.data.import_text import import_text

    prepare(studio, config)
    db = studio.db()
    dataset_id = new_id("dataset")
    folder = studio.paths.dataset(dataset_id)
    name = config.name.strip() or Path(config.path.strip()).stem
    if source != "sample":
        name = free_name(studio, name, report)
    DATASETS.insert(
        db,
        id=dataset_id,
        name=name,
        source=source,
        licence=licence,
        status="ingesting",
        path=studio.paths.relative(folder),
    )
    if job_id:
        JOBS.update(db, job_id, target_id=dataset_id)
    try:
        facts = import_text(config, folder, StageReporter(report, 0.0, _READING), control)
    except BaseException:
        # files first: on a full disk the row cannot change before there is room again
        shutil.rmtree(folder, ignore_errors=True)
        DATASETS.delete(db, dataset_id)
        raise
    DATASETS.update(
        db,
        dataset_id,
        status="ready",
        num_samples=facts.num_samples,
        text_column=facts.text_column,
        statistics=facts.to_dict(),
        size_bytes=directory_bytes(folder),
    )
    row = DATASETS.get(db, dataset_id)
    index_after(studio, row, StageReporter(report, _READING, 1.0), control)
    return DATASETS.get(db, dataset_id)
