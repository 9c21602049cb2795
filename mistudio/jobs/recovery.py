"""After an unexpected end: no row stays in a working state without a job that works on it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from mistudio.store import jobs
from mistudio.store.connection import Db
from mistudio.store.records import JobRow
from mistudio.store.tables import DATASETS, JOBS, TOKENIZATIONS, TRAININGS

if TYPE_CHECKING:
    from mistudio.jobs.runner import Studio


def recover(studio: Studio) -> list[JobRow]:
    """Make jobs and trainings of ended processes interrupted, and drop what they left half made.

    A half-made feature set stays: its harvest goes on from its last checkpoint.
    """
    db = studio.db()
    from mistudio.jobs import storage  # it needs the studio, which needs this module

    storage.clean_temporary(studio)
    lost = jobs.recover(db)
    for training in TRAININGS.select(
        db, "status IN ('queued', 'initializing', 'training', 'stopping')"
    ):
        if not _active(db, "(target_id = ? OR kind = 'demo')", training.id):
            TRAININGS.update(db, training.id, status="interrupted")
    if not _active(db, "kind IN ('import_dataset', 'add_sample', 'demo')"):
        for dataset in DATASETS.select(db, "status = 'ingesting' AND source <> 'sample'"):
            DATASETS.delete(db, dataset.id)
            shutil.rmtree(studio.paths.dataset(dataset.id), ignore_errors=True)
    if not _active(db, "kind IN ('tokenize', 'train', 'evaluate', 'harvest', 'demo')"):
        for tokens in TOKENIZATIONS.select(db, "status = 'tokenizing'"):
            TOKENIZATIONS.delete(db, tokens.id)
            folder = studio.paths.tokens(tokens.dataset_id, tokens.id)
            shutil.rmtree(folder, ignore_errors=True)
            for leftover in folder.parent.glob(f".{tokens.id}.*"):
                shutil.rmtree(leftover, ignore_errors=True)
    return lost


def _active(db: Db, where: str, *values: str) -> bool:
    return bool(
        JOBS.select(db, f"status IN ('queued', 'running', 'paused') AND {where}", values, limit=1)
    )
