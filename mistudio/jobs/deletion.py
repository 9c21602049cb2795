"""Deleting stored objects: first the row and what hangs on it, then the files that were ours."""

from __future__ import annotations

import logging
import shutil
from datetime import datetime, timedelta, timezone
from pathlib import Path

from mistudio.core.errors import InUse
from mistudio.jobs import dependants, open_stores
from mistudio.jobs.activation_pages import remove_files
from mistudio.jobs.dependants import Dependants
from mistudio.jobs.runner import Studio
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

DELETING = "deleting"  # hidden, and to be deleted unless the user takes it back
UNDONE_WITHIN_S = 60  # longer than any window offers to undo
log = logging.getLogger(__name__)


def delete_dataset(studio: Studio, dataset_id: str) -> None:
    """Delete a dataset with its tokenisations; the file it was imported from stays.

    Raises `InUse` with its users, or `NotFound`.
    """
    _refuse(dependants.of_dataset(studio, dataset_id))
    DATASETS.delete(studio.db(), dataset_id)
    _remove(studio.paths.dataset(dataset_id))


def delete_tokenization(studio: Studio, tokenization_id: str) -> None:
    """Delete one tokenisation; raises as `delete_dataset`."""
    row = TOKENIZATIONS.get(studio.db(), tokenization_id)
    _refuse(dependants.of_tokenization(studio, tokenization_id))
    TOKENIZATIONS.delete(studio.db(), tokenization_id)
    _remove(studio.paths.tokens(row.dataset_id, tokenization_id))


def delete_model(studio: Studio, model_id: str) -> None:
    """Forget a model; only files that were copied into the data folder go.

    Raises as `delete_dataset`.
    """
    row = MODELS.get(studio.db(), model_id)
    _refuse(dependants.of_model(studio, model_id))
    if studio.models.name == row.name and not studio.models.unload():
        raise InUse(f"The model {row.name!r} is being loaded; try again in a moment.")
    MODELS.delete(studio.db(), model_id)
    _remove(studio.paths.model(model_id))


def delete_activation_set(studio: Studio, set_id: str) -> None:
    """Delete an activation set, finished or not; a waiting job of it is cancelled.

    Raises as `delete_dataset`.
    """
    _refuse(dependants.of_activation_set(studio, set_id))
    waiting = JOBS.select(
        studio.db(), "target_id = ? AND status IN ('queued', 'interrupted')", [set_id]
    )
    for job in waiting:
        studio.request(job.id, "cancel")
    ACTIVATION_SETS.delete(studio.db(), set_id)
    remove_files(studio, set_id)


def delete_training(studio: Studio, training_id: str) -> None:
    """Delete a training with its checkpoints; a waiting job of it is cancelled, its SAE stays.

    Raises as `delete_dataset`.
    """
    _refuse(dependants.of_training(studio, training_id))
    waiting = JOBS.select(
        studio.db(),
        "target_id = ? AND status IN ('queued', 'paused', 'interrupted')",
        [training_id],
    )
    for job in waiting:
        studio.request(job.id, "cancel")
    TRAININGS.delete(studio.db(), training_id)
    _remove(studio.paths.run(training_id))


def delete_sae(studio: Studio, sae_id: str) -> None:
    """Delete an SAE with its feature sets and labels; raises as `delete_dataset`."""
    _refuse(dependants.of_sae(studio, sae_id))
    sets = FEATURE_SETS.select(studio.db(), "sae_id = ?", [sae_id])
    SAES.delete(studio.db(), sae_id)
    for feature_set in sets:
        _remove(studio.paths.feature_set(feature_set.id))
    _remove(studio.paths.sae(sae_id))


def delete_feature_set(studio: Studio, feature_set_id: str) -> None:
    """Delete one feature set; labels belong to the SAE and stay. Raises as `delete_dataset`."""
    FEATURE_SETS.get(studio.db(), feature_set_id)
    _refuse(dependants.of_feature_set(studio, feature_set_id))
    FEATURE_SETS.delete(studio.db(), feature_set_id)
    _remove(studio.paths.feature_set(feature_set_id))


def set_aside_feature_set(studio: Studio, feature_set_id: str) -> None:
    """Hide a feature set as if it were deleted, until `finish_feature_set` or `take_back`.

    Its files stay. If the program ends before, a later start deletes it. Raises as
    `delete_dataset`.
    """
    _refuse(dependants.of_feature_set(studio, feature_set_id))
    FEATURE_SETS.update(studio.db(), feature_set_id, status=DELETING)


def take_back_feature_set(studio: Studio, feature_set_id: str) -> None:
    """Show a feature set that was set aside again; raises `InUse` if it is gone for good."""
    row = FEATURE_SETS.find(studio.db(), feature_set_id)
    if row is None or row.status != DELETING:
        raise InUse("The feature set is deleted; this cannot be undone any more.")
    FEATURE_SETS.update(studio.db(), feature_set_id, status="ready")


def finish_feature_set(studio: Studio, feature_set_id: str) -> None:
    """Delete a feature set that was set aside; one that was taken back stays."""
    row = FEATURE_SETS.find(studio.db(), feature_set_id)
    if row is not None and row.status == DELETING:
        delete_feature_set(studio, feature_set_id)


def finish_what_was_set_aside(studio: Studio) -> None:
    """Delete the feature sets that a process which ended had set aside.

    Those of the last minute may still be taken back in a window that is open.
    """
    before = datetime.now(timezone.utc) - timedelta(seconds=UNDONE_WITHIN_S)
    for row in FEATURE_SETS.select(studio.db(), "status = ?", [DELETING]):
        if datetime.fromisoformat(row.updated_at) < before:
            finish_feature_set(studio, row.id)


def _refuse(found: Dependants) -> None:
    if found.refusal:
        raise InUse(found.refusal)


def _remove(folder: Path) -> None:
    """Remove a folder of ours; what the system keeps is logged, the object is gone all the same."""
    open_stores.let_go()
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        log.warning("files of a deleted object are left at %s", folder)
