"""After an unexpected end: no row stays in a working state without a job that works on it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from mistudio.store import jobs, trainings
from mistudio.store.connection import Db
from mistudio.store.records import JobRow
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
    _clear_away(studio)
    lost = _settle_ended(db, jobs.recover(db))
    for training in TRAININGS.select(
        db, "status IN ('queued', 'initializing', 'training', 'stopping')"
    ):
        whose = "(target_id IN (?, ?) OR kind = 'demo')"
        if not _active(db, whose, training.id, training.group_id or ""):
            _tidy_run(studio, training.id)
            TRAININGS.update(db, training.id, status="interrupted")
    for found in ACTIVATION_SETS.select(db, "status IN ('queued', 'initializing', 'extracting')"):
        if not _active(db, "target_id = ?", found.id):
            ACTIVATION_SETS.update(db, found.id, status="interrupted", progress=None)
    if not _active(db, "kind IN ('import_dataset', 'download_dataset', 'add_sample', 'demo')"):
        unfinished = "status IN ('downloading', 'ingesting') AND source <> 'sample'"
        for dataset in DATASETS.select(db, unfinished):
            DATASETS.delete(db, dataset.id)
            shutil.rmtree(studio.paths.dataset(dataset.id), ignore_errors=True)
    hidden = [*(studio.paths.home / "datasets").glob("*/.*")]
    if hidden and not _active(db, f"kind IN ({_INDEXING})"):
        from mistudio.jobs.index_dataset import INDEX

        for leftover in (path for path in hidden if path.name.startswith(f".{INDEX}.")):
            leftover.unlink(missing_ok=True)
    torn = [*(studio.paths.home / "saes").glob("*/.*.tmp")]  # figures that were being written
    if torn and not JOBS.select(db, "status = 'running'", limit=1):
        for leftover in torn:
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


def _clear_away(studio: Studio) -> None:
    """Finish deletions and drop old temporary files.

    What does it is imported where there is something: it takes a tenth of a window's start.
    """
    if any(studio.paths.tmp.iterdir()):
        from mistudio.jobs import storage

        storage.clean_temporary(studio)
    if FEATURE_SETS.select(studio.db(), "status = 'deleting'", limit=1):
        from mistudio.jobs import deletion

        deletion.finish_what_was_set_aside(studio)
    if (studio.paths.home / "deleted").is_dir():
        from mistudio.jobs import set_aside

        set_aside.settle(studio)


def _tidy_run(studio: Studio, training_id: str) -> None:
    """Remove what a process that trained left half written, and say which checkpoints there are.

    An SAE of it that no row knows was written just before its row: the run makes it again.
    """
    from mistudio.jobs import checkpoints
    from mistudio.ml.training import keeping

    run, saes = studio.paths.run(training_id), studio.paths.home / "saes"
    keeping.remove_unfinished(run)
    left = (".*.tmp", "window-*.bin", "calibration", "evaluation")
    for leftover in (path for pattern in left for path in run.glob(pattern)):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)
    known = {row.id for row in SAES.select(studio.db(), "training_id = ?", [training_id])}
    for card in saes.glob("*/card.json"):
        if card.parent.name not in known and _training_of(card) == training_id:
            shutil.rmtree(card.parent, ignore_errors=True)
    checkpoints.mirror(studio, training_id)


def _training_of(card: Path) -> str | None:
    """The training that an SAE's card names."""
    try:
        return json.loads(card.read_text(encoding="utf-8")).get("training")
    except (OSError, ValueError):
        return None


def _settle_ended(db: Db, lost: list[JobRow]) -> list[JobRow]:
    """Complete the jobs whose trainings had all ended; returns the others."""
    left: list[JobRow] = []
    for job in lost:
        made = trainings.of_job(db, job.target_id or "") if job.kind in ("train", "sweep") else []
        if not made or any(row.status not in ("completed", "stopped") for row in made):
            left.append(job)
            continue
        result = {"training": made[0].id, "outcome": made[0].status, "sae": made[0].sae_id}
        source, target = jobs.JobState.INTERRUPTED, jobs.JobState.COMPLETED
        values = {"progress": 100.0, "phase": "finished", "result": json.dumps(result)}
        jobs.move(db, job.id, source, target, **values)
    return left


def _active(db: Db, where: str, *values: str) -> bool:
    return bool(
        JOBS.select(db, f"status IN ('queued', 'running', 'paused') AND {where}", values, limit=1)
    )
