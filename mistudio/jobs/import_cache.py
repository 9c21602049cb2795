"""A feature set from the activations and tokens of a delphi cache, with its text decoded."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistudio.core.atomic import directory_bytes
from mistudio.core.config import to_dict
from mistudio.core.errors import Mismatch
from mistudio.core.feature_export_configs import ImportCacheConfig
from mistudio.core.ids import new_id
from mistudio.jobs import harvest_source, lookup, sae_geometry, sae_library
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.dataset_names import free_name
from mistudio.jobs.label_features import label_by_rules
from mistudio.jobs.runner import Studio
from mistudio.store import features
from mistudio.store.records import FeatureSetRow, ModelRow, SaeRow, TokenizationRow
from mistudio.store.tables import DATASETS, FEATURE_SETS, TOKENIZATIONS

if TYPE_CHECKING:
    from mistudio.ml.formats.delphi import Cache


def prepare(studio: Studio, config: ImportCacheConfig) -> None:
    """Refuse an unknown SAE, or a folder without a cache, before anything is queued."""
    from mistudio.ml.formats.delphi import folder_of

    row = lookup.sae(studio, config.sae)
    lookup.model_of(studio, row)
    if not sae_library.is_placed(row):
        raise Mismatch(f"SAE {row.name!r} does not say which layer and hook it reads.")
    harvest_source.refuse_second(studio, row)
    folder_of(Path(config.path.strip()).expanduser())


def run(ctx: JobContext, config: ImportCacheConfig) -> Result:
    """Decode the tokens into a dataset, take the activations over, describe them as a harvest does.

    A failure or a cancel leaves nothing behind. A warning is told if the SAE gives other
    activations on the first rows than the cache holds.
    """
    from mistudio.ml.formats.delphi import open_cache

    row = lookup.sae(ctx.studio, config.sae)
    model = lookup.model_of(ctx.studio, row)
    cache = open_cache(Path(config.path.strip()).expanduser())
    if cache.features > row.n_latents:
        raise Mismatch(
            f"The cache is of at least {cache.features:,} features; SAE {row.name!r} has "
            f"{row.n_latents:,}."
        )
    tokens = _text(ctx, model, cache, config)
    try:
        found, agreement = _feature_set(ctx, row, model, tokens, cache, config)
    except BaseException:
        shutil.rmtree(ctx.paths.dataset(tokens.dataset_id), ignore_errors=True)
        TOKENIZATIONS.delete(ctx.db, tokens.id)
        DATASETS.delete(ctx.db, tokens.dataset_id)
        raise
    labelled = {}
    if config.labels:
        made = label_by_rules(ctx.part(0.97, 1.0), row, found, config.seed)
        labelled = {"labelled": made["labelled"], "interpretable_share": made["share"]}
    return {
        "feature_set": found.id,
        "sae": row.id,
        "dataset": tokens.dataset_id,
        "features": row.n_latents,
        "live_features": found.n_live,
        "tokens": found.n_tokens,
        "agreement": agreement,
        **labelled,
    }


def _text(
    ctx: JobContext, model: ModelRow, cache: Cache, config: ImportCacheConfig
) -> TokenizationRow:
    """The rows of the cache as a dataset and a tokenisation of it."""
    from mistudio.ml.data.given_rows import write_given_rows

    ctx.report.progress(0.0, "loading the model")
    tokenizer = ctx.studio.models.get(model, ctx.paths.absolute(model.path)).tokenizer
    dataset_id, tokenization_id = new_id("dataset"), new_id("tokenization")
    folder = ctx.paths.dataset(dataset_id)
    place = ctx.paths.tokens(dataset_id, tokenization_id)

    def check(done: float) -> None:
        ctx.control.check()
        ctx.report.progress(0.02 + 0.38 * done, "decoding the text")

    try:
        facts, meta = write_given_rows(
            cache.tokens_RS, tokenizer, folder, place, name=model.name, check=check
        )
        wanted = config.name.strip() or f"delphi {cache.name}"
        DATASETS.insert(
            ctx.db,
            id=dataset_id,
            name=free_name(ctx.studio, wanted, ctx.report),
            source="local",
            description=f"Tokens of the delphi cache {cache.name}, decoded; one row each.",
            status="ready",
            path=ctx.paths.relative(folder),
            num_samples=facts.num_samples,
            text_column=facts.text_column,
            statistics=facts.to_dict(),
            size_bytes=directory_bytes(folder / "text"),
        )
        return TOKENIZATIONS.insert(
            ctx.db,
            id=tokenization_id,
            dataset_id=dataset_id,
            model_id=model.id,
            tokenizer_name=meta["tokenizer_fingerprint"],
            settings=meta["settings"],
            settings_hash=meta["settings_hash"],
            context=meta["context"],
            path=ctx.paths.relative(place),
            status="ready",
            rows=meta["rows"],
            tokens=meta["tokens"],
            statistics=meta,
            size_bytes=directory_bytes(place),
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        DATASETS.delete(ctx.db, dataset_id)
        raise


def _feature_set(
    ctx: JobContext,
    row: SaeRow,
    model: ModelRow,
    tokens: TokenizationRow,
    cache: Cache,
    config: ImportCacheConfig,
) -> tuple[FeatureSetRow, dict[str, Any]]:
    from mistudio.ml.data.text import TextStore
    from mistudio.ml.data.token_store import TokenStore
    from mistudio.ml.features import given_entries
    from mistudio.ml.features.feature_store import FeatureStore
    from mistudio.ml.features.harvest import HarvestSettings

    loaded = ctx.studio.models.get(model, ctx.paths.absolute(model.path))
    sae = sae_library.read_sae(ctx.studio, row)
    geometry = sae_geometry.ensure_geometry(ctx.studio, row, sae)
    feature_set_id = new_id("feature_set")
    folder = ctx.paths.feature_set(feature_set_id)
    rows, length = cache.tokens_RS.shape
    settings = HarvestSettings(
        context=length, rows=rows, seed=config.seed, most_entries=row.n_latents
    )
    FEATURE_SETS.insert(
        ctx.db,
        id=feature_set_id,
        sae_id=row.id,
        tokenization_id=tokens.id,
        config={**to_dict(config), "context": length, "rows": rows},
        path=ctx.paths.relative(folder),
        status="extracting",
    )
    try:
        facts, agreement = given_entries.store_entries(
            cache,
            loaded,
            sae,
            row.layer or 0,
            (row.hook_in or "", row.hook_out or row.hook_in or ""),
            TokenStore(ctx.paths.absolute(tokens.path or "")),
            TextStore(ctx.paths.dataset(tokens.dataset_id)),
            settings,
            folder,
            ctx.report,
            ctx.control,
        )
        store = FeatureStore(folder)
        features.add_statistics(
            ctx.db, feature_set_id, sae_geometry.with_nearest(store.table_rows(), geometry)
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(given_entries.partial_folder(folder), ignore_errors=True)
        FEATURE_SETS.delete(ctx.db, feature_set_id)
        raise
    told = {**agreement._asdict(), "share": agreement.share}
    if agreement.share < given_entries.AGREES:
        warning = (
            f"On the first rows only {100 * agreement.share:.0f} % of the activations that the "
            "cache or this SAE has are in both: the cache may be of another SAE, hook or model."
        )
        ctx.report.note(warning, level="warning")
        store.summary["fit"] = {**(store.summary.get("fit") or {}), "warning": warning}
    FEATURE_SETS.update(
        ctx.db,
        feature_set_id,
        status="ready",
        n_tokens=facts.n_tokens,
        n_live=facts.n_live,
        store_hash=facts.store_hash,
        summary={**store.summary, "seconds": None, "agreement": told},
        size_bytes=directory_bytes(folder),
    )
    return FEATURE_SETS.get(ctx.db, feature_set_id), told
