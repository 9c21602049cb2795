"""Whether a run that goes on reads the very model that its checkpoint was trained with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistudio.core.errors import Mismatch
from mistudio.core.model_weights import FORMAT, WEIGHTS, changed
from mistudio.jobs.runner import Studio
from mistudio.ml.training import keeping
from mistudio.store.records import ModelRow, TrainingRow
from mistudio.store.tables import MODELS, TRAININGS

if TYPE_CHECKING:
    from mistudio.jobs.training_source import TrainingSource
    from mistudio.jobs.training_turn import Run
    from mistudio.ml.loading import LoadedModel

Weights = dict[str, str]


def weights_of(model: ModelRow, loaded: LoadedModel | None = None) -> Weights:
    """What is known of a model's weights; without `loaded`, by its row alone."""
    if loaded is None:
        config: Mapping[str, Any] = model.architecture_config or {}
        fingerprint = (model.layer_map or {}).get("fingerprint", "")
        found = {"asked": model.format or "", "fingerprint": str(fingerprint)}
    else:
        config = loaded.facts.config
        found = {
            "format": loaded.format,
            "asked": model.format or "",
            "fingerprint": loaded.facts.fingerprint,
        }
    return {**found, "transformers": str(config.get("transformers_version", ""))}


def check_resume(studio: Studio, trainings: Iterable[TrainingRow]) -> None:
    """Raise `Mismatch` if a training cannot go on because its model is another one by now."""
    for training in trainings:
        model = MODELS.find(studio.db(), training.model_id) if training.model_id else None
        saved = keeping.list_checkpoints(studio.paths.run(training.id))
        if model is not None and saved:
            check_checkpoint(saved[-1], training.name, model, weights_of(model))


def check_loaded(studio: Studio, source: TrainingSource, runs: Iterable[Run]) -> None:
    """The same of a model that is loaded, for checkpoints of the runs or of what they continue."""
    if source.model is None:
        return
    for run in runs:
        parent, _, step = run.config.continue_from.partition("@")
        saved, name = keeping.list_checkpoints(run.folder), run.row.name
        if not saved and parent:
            found = TRAININGS.find(studio.db(), parent)
            every = keeping.list_checkpoints(studio.paths.run(parent))
            saved = [path for path in every if not step or keeping.step_of(path) == int(step)]
            name = found.name if found is not None else name
        if saved:
            check_checkpoint(saved[-1], name, source.model, source.weights)


def check_checkpoint(checkpoint: Path, name: str, model: ModelRow, now: Weights) -> None:
    """Raise `Mismatch`, with what to do, if the model is not the one of the run `name`.

    A checkpoint that does not tell its weights passes.
    """
    stored = keeping.known_values(checkpoint).get("origin", {}).get(WEIGHTS, {})
    what = changed(stored, now)
    if what == FORMAT:
        raise Mismatch(
            f"{name!r} was trained with {model.name} in {stored['format']}, which is now "
            f"{now.get('format') or now['asked']}: set the format back, or start a new training "
            "from its SAE, which can be written of any checkpoint.",
            code="model_changed",
        )
    if what:
        raise Mismatch(
            f"The files of {model.name} are not those that {name!r} was trained with: put them "
            "back, or start a new training from its SAE, which can be written of any checkpoint.",
            code="model_changed",
        )
