"""Taking the sample project away: the bundled model and text, and all that was made with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mistudio.core.errors import InUse
from mistudio.jobs import deletion, dependants, sample_preset, vector_library
from mistudio.jobs.runner import Studio
from mistudio.store import steering
from mistudio.store.tables import (
    ACTIVATION_SETS,
    DATASETS,
    JOBS,
    MODELS,
    SAES,
    STEERING_RUNS,
    STEERING_VECTORS,
    TRAININGS,
)

_ACTIVE = "status IN ('running', 'paused', 'queued')"


class SampleParts(NamedTuple):
    """Ids of what belongs to the sample, by what it is, in the order in which it is deleted."""

    presets: list[str]
    steering_runs: list[str]
    vectors: list[str]
    saes: list[str]
    trainings: list[str]
    activation_sets: list[str]
    datasets: list[str]
    models: list[str]

    @property
    def is_empty(self) -> bool:
        return not any(self)

    @property
    def words(self) -> str:
        """How many of each, for a question before it is done."""
        names = ("preset", "steering run", "vector", "SAE", "training", "activation set")
        nouns = (*names, "dataset", "model")
        counted = [(len(ids), noun) for ids, noun in zip(self, nouns, strict=True) if ids]
        return ", ".join(f"{count:,} {noun}{'' if count == 1 else 's'}" for count, noun in counted)


def parts(studio: Studio) -> SampleParts:
    """What `remove` would delete: everything of the sample's model, and the sample's text."""
    db = studio.db()
    models = [row.id for row in MODELS.select(db, "origin = 'sample'")]
    marks = ", ".join("?" for _ in models) or "''"

    def of_model(table: Any) -> list[str]:
        return [row.id for row in table.select(db, f"model_id IN ({marks})", models)]

    return SampleParts(
        [row.id for row in sample_preset.of_sample(studio)],
        of_model(STEERING_RUNS),
        of_model(STEERING_VECTORS),
        of_model(SAES),
        of_model(TRAININGS),
        of_model(ACTIVATION_SETS),
        [row.id for row in DATASETS.select(db, "source = 'sample'")],
        models,
    )


class Removed(NamedTuple):
    """What went, and a sentence for each thing that stays."""

    parts: SampleParts
    kept: list[str]


def remove(studio: Studio) -> Removed:
    """Delete it all; model and text stay where something of the user's own needs them.

    Raises `InUse` before anything is deleted if a job works with a part of it.
    """
    found = parts(studio)
    if any(job.kind == "demo" for job in JOBS.select(studio.db(), _ACTIVE)):
        raise InUse("The sample project is being run. Cancel it or wait for its end.")
    for ids, check in (
        (found.saes, dependants.of_sae),
        (found.trainings, dependants.of_training),
        (found.activation_sets, dependants.of_activation_set),
    ):
        for refusal in [check(studio, one).refusal for one in ids]:
            if refusal:
                raise InUse(refusal)
    sample_preset.remove(studio)
    steering.delete(studio.db(), found.steering_runs)
    for vector_id in found.vectors:
        vector_library.delete(studio, vector_id)
    steps: list[tuple[list[str], Callable[[Studio, str], None]]] = [
        (found.saes, deletion.delete_sae),
        (found.trainings, deletion.delete_training),
        (found.activation_sets, deletion.delete_activation_set),
        (found.datasets, deletion.delete_dataset),
        (found.models, deletion.delete_model),
    ]
    kept: list[str] = []
    for ids, delete in steps:
        for one in ids:
            try:
                delete(studio, one)
            except InUse as error:
                kept.append(error.sentence)
    return Removed(found, kept)
