"""Finding objects by what the user calls them: an id, a name, `sample` or `last`."""

from __future__ import annotations

from mistudio.core.errors import InUse, NotFound
from mistudio.jobs import sample
from mistudio.jobs.runner import Studio
from mistudio.store.records import ActivationSetRow, DatasetRow, ModelRow, SaeRow, TokenizationRow
from mistudio.store.tables import (
    ACTIVATION_SETS,
    DATASETS,
    MODELS,
    SAES,
    TOKENIZATIONS,
    TRAININGS,
)


def dataset(studio: Studio, wanted: str) -> DatasetRow:
    """A ready dataset; the bundled sample is imported when first asked for."""
    if wanted == sample.NAME:
        sample.ensure_dataset(studio)
    row = DATASETS.named(studio.db(), wanted)
    if row.status != "ready":
        raise InUse(f"Dataset {row.name!r} is not ready yet ({row.status}).")
    return row


def model(studio: Studio, wanted: str) -> ModelRow:
    """A ready model; the bundled sample is registered when first asked for."""
    if wanted == sample.NAME:
        sample.ensure_model(studio)
    row = MODELS.named(studio.db(), wanted)
    if row.status != "ready":
        raise InUse(f"Model {row.name!r} is not ready ({row.status}).")
    return row


def sae(studio: Studio, wanted: str) -> SaeRow:
    """An SAE of the library."""
    return SAES.named(studio.db(), wanted)


def tokenization(studio: Studio, wanted: str) -> TokenizationRow | None:
    """The ready tokenisation with this id, or None if the words name something else."""
    row = TOKENIZATIONS.find(studio.db(), wanted)
    if row is not None and row.status != "ready":
        raise InUse(f"This tokenisation is not ready ({row.status}).")
    return row


def model_of(studio: Studio, row: SaeRow) -> ModelRow:
    """The model an SAE reads; raises `NotFound` with what to do."""
    found = MODELS.find(studio.db(), row.model_id) if row.model_id else None
    if found is None:
        raise NotFound(
            f"The model of SAE {row.name!r} ({row.model_name or 'unknown'}) is not in the library. "
            "Import the model, then import the SAE again with it."
        )
    return found


def reads_vectors(row: SaeRow) -> bool:
    """Whether an SAE was trained here on vectors that came without a text to read again."""
    settings = row.config or {}
    named = bool(settings.get("activations")) and not settings.get("model")
    return named and row.origin == "trained"


def training_vectors(studio: Studio, row: SaeRow) -> ActivationSetRow:
    """The vectors that an SAE was trained on; raises `NotFound` if they are gone."""
    found = ACTIVATION_SETS.find(studio.db(), str((row.config or {}).get("activations")))
    if found is None:
        raise NotFound(
            f"The activations that SAE {row.name!r} was trained on are no longer in the library, "
            "and there is no language model to read others with; it cannot be measured here."
        )
    return found


def training_tokenization(studio: Studio, row: SaeRow) -> str:
    """The id of the tokenisation an SAE was trained on; raises `NotFound` if it is gone."""
    from mistudio.store import trainings

    training = TRAININGS.find(studio.db(), row.training_id) if row.training_id else None
    found = trainings.tokenization_of(studio.db(), training.id) if training else None
    if found is None:
        raise NotFound(f"SAE {row.name!r} has no text of its own here. Choose a dataset.")
    return found
