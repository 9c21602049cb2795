"""Compare a quantised form of a model with its 16-bit form on a text sample."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistudio.core.errors import InvalidInput, Mismatch, Unsupported
from mistudio.core.model_configs import ReportModelConfig
from mistudio.core.units import format_count
from mistudio.jobs import lookup
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.runner import Studio
from mistudio.store.records import ModelRow, TokenizationRow
from mistudio.store.tables import MODELS, TOKENIZATIONS

if TYPE_CHECKING:
    import torch

ROW_TOKENS = 512  # longest context; the model's own limit may be smaller
_DOCUMENTS = 64  # read from the dataset at a time


def prepare(studio: Studio, config: ReportModelConfig) -> str:
    """Refuse a model or text that is not there before anything is queued."""
    row = lookup.model(studio, config.model)
    if lookup.tokenization(studio, config.dataset) is None:
        lookup.dataset(studio, config.dataset)
    return row.id


def run(ctx: JobContext, config: ReportModelConfig) -> Result:
    """Measure and store the comparison in the model's row, `report[format]`.

    The result is what is stored: model, name, format, reference (the 16-bit format), dataset,
    tokens (predictions compared), agreement (share), kl (nats per token), perplexity,
    reference_perplexity, seconds.
    """
    from mistudio.ml.model_report import compare, load_reference

    row = lookup.model(ctx.studio, config.model)
    path = ctx.paths.absolute(row.path)
    begun = time.monotonic()
    form = config.format or row.format or "auto"

    def step(phase: str, start: float, span: float) -> Callable[[float], None]:
        def tell(done: float) -> None:
            ctx.control.check()
            ctx.report.progress(start + span * done, phase)

        return tell

    judged = ctx.studio.models.load(
        row.id,
        row.name,
        path,
        form,
        allow_code=row.trust_remote_code,
        step=step("loading", 0.0, 0.1),
    )
    if judged.note:
        raise Unsupported(judged.note, code="no_backend")
    reference = load_reference(
        path,
        judged.device,
        allow_code=row.trust_remote_code,
        step=step("loading the 16-bit form", 0.1, 0.1),
    )
    source, rows = _rows(ctx, row, config, judged.tokenizer)
    comparing = step("comparing", 0.2, 0.8)
    found = compare(
        reference,
        judged,
        _limited(rows, config.tokens),
        lambda tokens: comparing(min(1.0, tokens / config.tokens)),
    )
    values: Result = {
        "model": row.id,
        "name": row.name,
        "format": judged.format,
        "reference": reference.format,
        "dataset": source,
        **found.to_dict(),
        "seconds": round(time.monotonic() - begun, 2),
    }
    report = dict(MODELS.get(ctx.db, row.id).report or {})
    report[judged.format] = values
    MODELS.update(ctx.db, row.id, report=report)
    ctx.report.note(
        f"{judged.format.upper()} against {reference.format.upper()} on "
        f"{format_count(found.tokens)} tokens: the likeliest token agrees in "
        f"{100 * found.agreement:.1f} %, KL {found.kl:.4f} nats, perplexity "
        f"{found.perplexity:.2f} against {found.reference_perplexity:.2f}."
    )
    return values


def _limited(rows: Iterator[torch.Tensor], most: int) -> Iterator[torch.Tensor]:
    """Rows until `most` tokens are read, the last one cut."""
    left = most
    for ids_S in rows:
        if left < 2:
            return
        yield ids_S[:left]
        left -= min(left, len(ids_S))


def _rows(
    ctx: JobContext, row: ModelRow, config: ReportModelConfig, tokenizer: Any
) -> tuple[str, Iterator[torch.Tensor]]:
    """A name for the text and its rows: of a tokenisation if there is one, else tokenised now."""
    from mistudio.ml.data.token_store import TokenStore

    fingerprint = str((row.layer_map or {}).get("tokenizer"))
    length = min(ROW_TOKENS, row.max_positions or ROW_TOKENS)
    named = lookup.tokenization(ctx.studio, config.dataset)
    if named is not None and named.tokenizer_name != fingerprint:
        raise Mismatch(
            f"This text is tokenised for another vocabulary than that of {row.name!r}. "
            "Choose the dataset itself or a tokenisation made for this model."
        )
    tokens = named or _tokenization(ctx, config.dataset, fingerprint)
    if tokens is not None:
        store = TokenStore(ctx.paths.absolute(tokens.path or ""))
        return tokens.id, _stored_rows(store, length)
    dataset = lookup.dataset(ctx.studio, config.dataset)
    return dataset.id, _fresh_rows(ctx.paths.dataset(dataset.id), tokenizer, length)


def _tokenization(ctx: JobContext, wanted: str, fingerprint: str) -> TokenizationRow | None:
    found = TOKENIZATIONS.select(
        ctx.db,
        "dataset_id = ? AND tokenizer_name = ? AND status = 'ready'",
        [lookup.dataset(ctx.studio, wanted).id, fingerprint],
        limit=1,
    )
    return found[0] if found else None


def _stored_rows(store: Any, length: int) -> Iterator[torch.Tensor]:
    """Rows without their padding, cut to `length`."""
    import numpy as np
    import torch

    from mistudio.ml.data.token_store import PADDING

    for index in range(len(store)):
        kept_S = np.asarray(store.mask[index]) != PADDING
        ids_S = np.asarray(store.ids[index])[kept_S]
        yield torch.tensor(ids_S[:length], dtype=torch.int64)


def _fresh_rows(folder: Path, tokenizer: Any, length: int) -> Iterator[torch.Tensor]:
    """The beginnings of the documents as the tokenizer reads them."""
    import torch

    from mistudio.ml.data.text import TextStore

    store = TextStore(folder)
    if not len(store):
        raise InvalidInput("This dataset holds no text.")
    for low in range(0, len(store), _DOCUMENTS):
        for text in store.texts(low, min(low + _DOCUMENTS, len(store))):
            ids = tokenizer(text, truncation=True, max_length=length)["input_ids"]
            yield torch.tensor(ids, dtype=torch.int64)
