"""What a new training can read: ready models and, for each, the texts in its tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mistudio.core.units import format_count, format_short
from mistudio.store.hook_width import hook_width
from mistudio.store.records import (
    ActivationSetRow,
    DatasetRow,
    ModelRow,
    SaeRow,
    TokenizationRow,
)
from mistudio.store.tables import ACTIVATION_SETS, DATASETS, MODELS, SAES, TOKENIZATIONS

Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Choices:
    """Ready models, datasets, tokenisations, SAEs and activation sets, newest first."""

    models: list[ModelRow] = field(default_factory=list)
    datasets: list[DatasetRow] = field(default_factory=list)
    tokenizations: list[TokenizationRow] = field(default_factory=list)
    saes: list[SaeRow] = field(default_factory=list)
    sets: list[ActivationSetRow] = field(default_factory=list)

    def model(self, name: str) -> ModelRow | None:
        """The model that a form's value means: a name, or an id where names repeat."""
        found = (row for row in self.models if name in (row.id, row.name))
        return next(found, None) if name else None

    def tokenization(self, name: str) -> TokenizationRow | None:
        """The tokenisation with this id, None if the value names a dataset."""
        return next((row for row in self.tokenizations if row.id == name), None)

    def model_pairs(self) -> Pairs:
        """(value, text) of every model."""
        values = _values(self.models)
        return [(values[row.id], _model_text(row)) for row in self.models]

    def sae_pairs(self, model: ModelRow | None) -> Pairs:
        """(value, text) of every SAE whose width is that of the model at the hook it reads."""
        return [
            (row.id, f"{row.name} · {row.architecture} · {format_count(row.n_latents)} latents")
            for row in self.saes
            if model is not None and row.d_in == hook_width(model, row.hook_in)
        ]

    def sae(self, sae_id: str) -> SaeRow | None:
        """The SAE with this id."""
        return next((row for row in self.saes if row.id == sae_id), None)

    def stored(self, set_id: str) -> ActivationSetRow | None:
        """The activation set with this id."""
        return next((row for row in self.sets if row.id == set_id), None)

    def set_pairs(self) -> Pairs:
        """(id, text) of every activation set that is whole."""
        models = {row.id: row for row in self.models}
        return [(row.id, _set_text(row, models.get(row.model_id or ""))) for row in self.sets]

    def text_pairs(self, model: ModelRow | None) -> Pairs:
        """(value, text) of every dataset and of its tokenisations that fit the model."""
        values = _values(self.datasets)
        pairs: Pairs = []
        for row in self.datasets:
            fitting = [t for t in self.matching(model) if t.dataset_id == row.id]
            note = "newest tokenisation" if fitting else "tokenised first"
            pairs.append((values[row.id], f"{row.name} · {note}"))
            pairs += [(t.id, f"{row.name} · {_tokens_text(t)}") for t in fitting]
        return pairs

    def only_model(self) -> str:
        """The value of the one model there is, "" if there are none or several."""
        return next(iter(_values(self.models).values())) if len(self.models) == 1 else ""

    def only_dataset(self) -> str:
        """The value of the one dataset there is, "" if there are none or several."""
        return next(iter(_values(self.datasets).values())) if len(self.datasets) == 1 else ""

    def matching(self, model: ModelRow | None) -> list[TokenizationRow]:
        """Tokenisations made with the tokenizer of a model."""
        if model is None:
            return []
        own = {t.tokenizer_name for t in self.tokenizations if t.model_id == model.id}
        return [t for t in self.tokenizations if t.tokenizer_name in own]


def layers_of(row: ActivationSetRow) -> list[int]:
    """The blocks of which an activation set holds something."""
    return [int(part) for part in (row.layers or "0").split(",") if part] or [0]


def hooks_of(row: ActivationSetRow) -> list[str]:
    """The hooks that an activation set holds of each of its blocks."""
    return [part for part in (row.hooks or "").split(",") if part]


def holds_one(row: ActivationSetRow) -> bool:
    """Whether an activation set holds one hook of one block only."""
    return len(layers_of(row)) == len(hooks_of(row)) == 1


def read_choices(db: Any) -> Choices:
    """Everything a form offers; runs in the query thread."""
    ready = "status = 'ready'"
    return Choices(
        MODELS.select(db, ready),
        DATASETS.select(db, ready),
        TOKENIZATIONS.select(db, ready),
        SAES.select(db, ready),
        ACTIVATION_SETS.select(db, "status = 'completed'"),
    )


def _values(rows: Iterable[ModelRow | DatasetRow]) -> dict[str, str]:
    """id -> its name where that is unique, so that a copied command reads well; else the id."""
    listed = list(rows)
    count = Counter(row.name for row in listed)
    return {row.id: row.name if count[row.name] == 1 else row.id for row in listed}


def _model_text(row: ModelRow) -> str:
    size = f"{format_short(row.params_count)} parameters" if row.params_count else row.origin
    return f"{row.name} · {size}"


def _set_text(row: ActivationSetRow, model: ModelRow | None) -> str:
    whose = f"{model.name} L{row.layers} {row.hooks}" if model else "vectors"
    return f"{row.name} · {whose} · {format_short(row.n_tokens)}"


def _tokens_text(row: TokenizationRow) -> str:
    return f"{format_count(row.context)} tokens a row · {format_short(row.tokens)} tokens"
