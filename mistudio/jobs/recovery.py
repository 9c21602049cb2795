"""After an unexpected end: no row stays in a working state without a job that works on it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from mistudio.store import jobs
from mistudio.store.connection import Db
from mistudio.store.records import JobRow
from mistudio.store.tables import ACTIVATION_SETS, DATASETS, JOBS, MODELS, TOKENIZATIONS, TRAININGS

if TYPE_CHECKING:
    from mistudio.jobs.runner import Studio

_TOKENISING = (
    "'tokenize', 'train', 'sweep', 'evaluate', 'compare_saes', 'harvest', 'demo', "
    "'extract_activations', 'probe_extraction', 'survival'"
)
_INDEXING = "'index_dataset', 'import_dataset', 'download_dataset', 'add_sample', 'demo'"


def recover(studio: Studio) -> list[JobRow]:
    """Make jobs and trainings of ended processes interrupted, and drop what they left half made.

    Half-made feature and activation sets stay: their jobs go on from what is whole.
    """
    db = studio.db()
    from mistudio.jobs import storage  # it needs the studio, which needs this module
    from mistudio.jobs.index_dataset import INDEX

    storage.clean_temporary(studio)
    lost = jobs.recover(db)
    for training in TRAININGS.select(
        db, "status IN ('queued', 'initializing', 'training', 'stopping')"
    ):
        whose = "(target_id IN (?, ?) OR kind = 'demo')"
        if not _active(db, whose, training.id, training.group_id or ""):
            TRAININGS.update(db, training.id, status="interrupted")
    for found in ACTIVATION_SETS.select(db, "status IN ('queued', 'initializing', 'extracting')"):
        if not _active(db, "target_id = ?", found.id):
            ACTIVATION_SETS.update(db, found.id, status="interrupted", progress=None)
    if not _active(db, "kind IN ('import_dataset', 'download_dataset', 'add_sample', 'demo')"):
        unfinished = "status IN ('downloading', 'ingesting') AND source <> 'sample'"
        for dataset in DATASETS.select(db, unfinished):
            DATASETS.delete(db, dataset.id)
            shutil.rmtree(studio.paths.dataset(dataset.id), ignore_errors=True)
    if not _active(db, f"kind IN ({_INDEXING})"):
        for leftover in (studio.paths.home / "datasets").glob(f"*/.{INDEX}.*"):
            leftover.unlink(missing_ok=True)
    if not _active(db, "kind = 'download_model'"):
        for model in MODELS.select(db, "status = 'downloading'"):
            MODELS.delete(db, model.id)  # what has arrived is in the cache; Resume goes on with it
    for model in MODELS.select(db, "status = 'checking'"):
        if not _active(db, "target_id = ?", model.id):
            MODELS.update(db, model.id, status="cancelled")
    if not _active(db, f"kind IN ({_TOKENISING})"):
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
