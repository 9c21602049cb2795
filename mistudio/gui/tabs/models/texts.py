"""The tokenised texts that a model can read, as the dialogs of its card offer them."""

from __future__ import annotations

from typing import Any

from mistudio.core.units import format_count, format_short
from mistudio.store.records import ModelRow
from mistudio.store.tables import DATASETS, TOKENIZATIONS


def matching_texts(db: Any, model: ModelRow) -> list[tuple[str, str]]:
    """(id, text) of the tokenisations made with the model's tokenizer, newest first."""
    fingerprint = str((model.layer_map or {}).get("tokenizer"))
    names = {row.id: row.name for row in DATASETS.select(db)}
    found = TOKENIZATIONS.select(db, "status = 'ready' AND tokenizer_name = ?", [fingerprint])
    return [
        (
            row.id,
            f"{names.get(row.dataset_id, '')} · {format_short(row.tokens)} tokens · "
            f"{format_count(row.rows)} rows",
        )
        for row in found
    ]


def all_texts(db: Any, model: ModelRow) -> list[tuple[str, str]]:
    """(id, text) of the model's tokenisations and of every ready dataset."""
    datasets = DATASETS.select(db, "status = 'ready'")
    plain = [(row.id, f"{row.name} · {format_count(row.num_samples)} samples") for row in datasets]
    return [*matching_texts(db, model), *plain]
