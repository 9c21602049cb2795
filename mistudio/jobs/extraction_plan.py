"""What an extraction will read and write, known from rows alone: layers, tokens, bytes."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from mistudio.core.errors import InUse, InvalidInput, Mismatch
from mistudio.core.model_configs import EXTRACTION_HOOKS, ExtractConfig, chosen_layers
from mistudio.jobs import lookup
from mistudio.jobs.runner import Studio
from mistudio.store.hook_width import hook_width
from mistudio.store.records import DatasetRow, ModelRow, TokenizationRow
from mistudio.store.tables import TOKENIZATIONS

BYTES_PER_VALUE = {"fp16": 2, "bf16": 2, "fp32": 4}
_TOKEN_BYTES = 13  # id, row and position as int32, a mark for special tokens
_SPARE = 10 * 10**9


@dataclass(frozen=True)
class ExtractionPlan:
    """A config whose names are rows and whose choices are made."""

    model: ModelRow
    dataset: DatasetRow | None
    """what is tokenised first if there is no tokenisation yet"""
    tokenization: TokenizationRow | None
    layers: list[int]
    hooks: list[str]
    """in the order of `EXTRACTION_HOOKS`, each once"""
    dtype: str
    """fp16, bf16 or fp32: precision on disk"""
    rows: int
    tokens: int
    """about as many are stored for each layer and hook; exact only without padding"""
    dropped: str
    """the sentence that names layers the model lacks, "" if it has all"""

    @property
    def bytes(self) -> int:
        """About the size on disk."""
        width = sum(hook_width(self.model, hook) or 0 for hook in self.hooks)
        return self.tokens * (width * BYTES_PER_VALUE[self.dtype] * len(self.layers) + _TOKEN_BYTES)


def plan_extraction(studio: Studio, config: ExtractConfig) -> ExtractionPlan:
    """Resolve a config.

    Raises `NotFound`, `InUse`, `Mismatch` (other vocabulary) or `InvalidInput` (no layer left).
    """
    model = lookup.model(studio, config.model)
    tokenization, dataset = _text(studio, config.dataset, model)
    count = model.num_layers or 0
    layers = chosen_layers(config.layers, count)
    if not layers:
        raise InvalidInput(
            f"{model.name!r} has none of the layers {config.layers}; it has {count} blocks "
            f"(0 to {count - 1}).",
            code="invalid_config",
        )
    asked = chosen_layers(config.layers, 4097) if config.layers.strip().lower() != "all" else layers
    gone = [layer for layer in asked if layer >= count]
    rows = tokens = 0
    if tokenization is not None:
        stored = tokenization.rows or 0
        rows = min(config.rows, stored) if config.rows else stored
        tokens = round(rows * _tokens_per_row(tokenization))
    elif config.rows:
        rows, tokens = config.rows, config.rows * min(512, model.max_positions or 512)
    if config.tokens:
        tokens = min(tokens, config.tokens) if tokens else config.tokens
    return ExtractionPlan(
        model,
        dataset,
        tokenization,
        layers,
        [hook for hook in EXTRACTION_HOOKS if hook in config.hooks],
        stored_as(config.dtype, model.format or ""),
        rows,
        tokens,
        f"{model.name!r} has no layer {', '.join(map(str, gone))}; left out." if gone else "",
    )


def stored_as(wanted: str, model_format: str) -> str:
    """The precision on disk: for auto bf16 if that is the model's own type, else fp16."""
    if wanted != "auto":
        return wanted
    return "bf16" if model_format == "bf16" else "fp16"


def free_room(studio: Studio) -> tuple[int, int]:
    """Bytes free in the data folder, and how many of them stay untouched.

    Untouched are a tenth of the disk or 10 GB, whichever is less.
    """
    usage = shutil.disk_usage(studio.paths.home)
    return usage.free, min(usage.total // 10, _SPARE)


def _text(
    studio: Studio, wanted: str, model: ModelRow
) -> tuple[TokenizationRow | None, DatasetRow | None]:
    fingerprint = str((model.layer_map or {}).get("tokenizer"))
    named = lookup.tokenization(studio, wanted)
    if named is not None:
        if named.tokenizer_name != fingerprint:
            raise Mismatch(
                f"This text is tokenised for another vocabulary than that of {model.name!r}. "
                "Tokenise it for this model."
            )
        return named, None
    dataset = lookup.dataset(studio, wanted)
    found = TOKENIZATIONS.select(
        studio.db(),
        "dataset_id = ? AND tokenizer_name = ?",
        [dataset.id, fingerprint],
    )
    ready = [row for row in found if row.status == "ready"]
    if found and not ready:
        raise InUse(f"Dataset {dataset.name!r} is being tokenised; extract when that is done.")
    return (ready[0] if ready else None), dataset


def _tokens_per_row(tokenization: TokenizationRow) -> float:
    """Tokens of a row that are not padding, on average."""
    if tokenization.rows and tokenization.tokens:
        return min(tokenization.tokens / tokenization.rows, tokenization.context)
    return tokenization.context
