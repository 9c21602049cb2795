"""Tokenise a dataset for a model; the same settings again lead to the existing tokenisation."""

from __future__ import annotations

import dataclasses
import shutil

from mistudio.core.atomic import directory_bytes
from mistudio.core.config import from_dict
from mistudio.core.dataset_configs import HELD_OUT_SHARE, TokenizeConfig
from mistudio.core.errors import Mismatch, NotFound
from mistudio.core.ids import new_id
from mistudio.jobs import lookup, tokenizers
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.runner import Studio
from mistudio.store.records import DatasetRow, ModelRow, TokenizationRow
from mistudio.store.tables import TOKENIZATIONS


def prepare(studio: Studio, config: TokenizeConfig) -> None:
    """Refuse an unknown dataset, model or local tokenizer before anything is queued."""
    lookup.dataset(studio, config.dataset)
    try:
        tokenizers.find(studio, config)
    except NotFound as error:
        if error.code != tokenizers.NOT_HERE:
            raise


def run(ctx: JobContext, config: TokenizeConfig) -> Result:
    """Tokenise; a failure or a cancel leaves neither row nor files."""
    dataset = lookup.dataset(ctx.studio, config.dataset)
    row = tokenize(ctx, dataset, config)
    return {
        "tokenization": row.id,
        "dataset": dataset.id,
        "rows": row.rows,
        "tokens": row.tokens,
        "context": row.context,
    }


def tokenize(
    ctx: JobContext,
    dataset: DatasetRow,
    config: TokenizeConfig,
    held_out_share: float = HELD_OUT_SHARE,
) -> TokenizationRow:
    """The tokenisation with these settings, made now unless it exists."""
    from mistudio.ml.data.text import TextStore
    from mistudio.ml.data.token_settings import hash_of
    from mistudio.ml.data.tokenize import tokenize_dataset
    from mistudio.ml.data.tokenizer_files import read_tokenizer
    from mistudio.ml.loading import tokenizer_fingerprint

    db, paths = ctx.db, ctx.paths
    tokenizers.fetch(ctx.studio, config, ctx.control)
    source = tokenizers.find(ctx.studio, config)
    tokenizer = read_tokenizer(source.path)
    settings = tokenizers.settings_for(config, source)
    settings = dataclasses.replace(settings, held_out_share=held_out_share)
    fingerprint = tokenizer_fingerprint(tokenizer)
    hashed = hash_of(settings, fingerprint)
    found = TOKENIZATIONS.select(
        db,
        "dataset_id = ? AND tokenizer_name = ? AND settings_hash = ?",
        [dataset.id, fingerprint, hashed],
    )
    if found and found[0].status == "ready":
        return found[0]
    for stale in found:
        TOKENIZATIONS.delete(db, stale.id)
    tokenization_id = new_id("tokenization")
    folder = paths.tokens(dataset.id, tokenization_id)
    TOKENIZATIONS.insert(
        db,
        id=tokenization_id,
        dataset_id=dataset.id,
        model_id=source.model_id,
        tokenizer_name=fingerprint,
        settings=dataclasses.asdict(settings),
        settings_hash=hashed,
        context=settings.context,
        path=paths.relative(folder),
        status="tokenizing",
    )
    try:
        facts = tokenize_dataset(
            TextStore(paths.dataset(dataset.id)),
            tokenizer,
            settings,
            folder,
            ctx.report,
            ctx.control,
            name=source.name,
            fingerprint=fingerprint,
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        TOKENIZATIONS.delete(db, tokenization_id)
        raise
    TOKENIZATIONS.update(
        db,
        tokenization_id,
        status="ready",
        rows=facts.rows,
        tokens=facts.tokens,
        statistics=facts.meta,
        size_bytes=directory_bytes(folder),
    )
    return TOKENIZATIONS.get(db, tokenization_id)


def share_of(row: TokenizationRow) -> float:
    """Per cent of its documents that a tokenisation keeps for evaluation."""
    return float(row.settings.get("held_out_share", HELD_OUT_SHARE))


def for_training(
    ctx: JobContext, wanted: str, model: ModelRow, context: int, share: float | None = None
) -> TokenizationRow:
    """The tokenisation that `wanted` (tokenisation id, dataset id or name) means for a model.

    A dataset stands for its newest tokenisation made with this model's tokenizer (of `context`
    tokens, if not 0) that holds out `share` per cent; without one it is tokenised now. So is the
    text of a tokenisation that holds out another share; without a share it is taken as it is.
    """
    fingerprint = str((model.layer_map or {}).get("tokenizer"))
    named = lookup.tokenization(ctx.studio, wanted)
    if named is not None and named.tokenizer_name != fingerprint:
        raise Mismatch(
            f"This text is tokenised for another vocabulary than that of {model.name!r}. "
            "Tokenise it for this model."
        )
    if named is not None and share in (None, share_of(named)):
        return named
    share = HELD_OUT_SHARE if share is None else share
    told = f" with {share:g} % of its documents held out" if share != HELD_OUT_SHARE else ""
    if named is not None:
        dataset = lookup.dataset(ctx.studio, named.dataset_id)
        same = {**named.settings, "dataset": dataset.id, "model": model.id}
        config = from_dict(TokenizeConfig, same)
    else:
        dataset = lookup.dataset(ctx.studio, wanted)
        where = "dataset_id = ? AND tokenizer_name = ? AND status = 'ready'"
        values: list[object] = [dataset.id, fingerprint]
        if context:
            where += " AND context = ?"
            values.append(context)
        found = [r for r in TOKENIZATIONS.select(ctx.db, where, values) if share_of(r) == share]
        if found:
            return found[0]
        config = TokenizeConfig(dataset=dataset.id, model=model.id, context=context)
    ctx.report.note(f"Tokenising {dataset.name!r} for {model.name!r}{told}.")
    return tokenize(ctx, dataset, config, share)
