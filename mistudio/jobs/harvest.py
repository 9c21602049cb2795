"""Find features: one pass over a tokenisation into the feature store, statistics into rows."""

from __future__ import annotations

import json
import shutil
from typing import Any

from mistudio.core.atomic import directory_bytes
from mistudio.core.config import from_dict, to_dict
from mistudio.core.configs import HarvestConfig
from mistudio.core.errors import Cancelled, Left, Mismatch, StudioError
from mistudio.core.ids import new_id
from mistudio.core.training_configs import TrainConfig
from mistudio.jobs import harvest_source, lookup, sae_geometry, sae_library
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.evaluate import text_for
from mistudio.jobs.label_features import label_by_rules
from mistudio.jobs.runner import Studio
from mistudio.jobs.skipped_positions import skipped_by
from mistudio.store import features
from mistudio.store.records import (
    ActivationSetRow,
    FeatureSetRow,
    ModelRow,
    SaeRow,
    TokenizationRow,
)
from mistudio.store.tables import FEATURE_SETS


def prepare(studio: Studio, config: HarvestConfig) -> None:
    """Refuse what is unknown or does not fit before anything is queued, and a second harvest."""
    row = lookup.sae(studio, config.sae)
    model = lookup.model_of(studio, row)
    if config.activations:
        harvest_source.stored_for(studio, row, model, config.activations)
    harvest_source.refuse_second(studio, row)


def run(ctx: JobContext, config: HarvestConfig) -> Result:
    """Harvest; an interrupted harvest with the same settings goes on where it was."""
    row = lookup.sae(ctx.studio, config.sae)
    model = lookup.model_of(ctx.studio, row)
    stored = None
    if config.activations:
        stored = harvest_source.stored_for(ctx.studio, row, model, config.activations)
        tokens = harvest_source.text_of(ctx.studio, stored, config)
    else:
        tokens = text_for(ctx, row, model, config.dataset)
    part = ctx.part(0.0, 0.97) if config.labels else ctx
    found = find_features(part, row, model, tokens, config, stored)
    labelled = _labelled(ctx.part(0.97, 1.0), row, found, config) if config.labels else {}
    return {
        "feature_set": found.id,
        "sae": row.id,
        "features": row.n_latents,
        "live_features": found.n_live,
        "tokens": found.n_tokens,
        "store_hash": found.store_hash,
        **labelled,
    }


def _labelled(
    ctx: JobContext, row: SaeRow, found: FeatureSetRow, config: HarvestConfig
) -> dict[str, Any]:
    """Name the features by rules; a set whose labels fail is a good one all the same."""
    try:
        made = label_by_rules(ctx, row, found, config.seed)
    except Cancelled:  # also at the program's end: what took long is done and kept
        ctx.report.note("The features are found; their labels were left out.", level="warning")
        return {}
    except StudioError as error:
        ctx.report.note(f"The features have no labels: {error.sentence}", level="warning")
        return {}
    return {"labelled": made["labelled"], "interpretable_share": made["share"]}


def find_features(
    ctx: JobContext,
    row: SaeRow,
    model: ModelRow,
    tokens: TokenizationRow,
    config: HarvestConfig,
    stored: ActivationSetRow | None = None,
) -> FeatureSetRow:
    """The feature set of an SAE over a tokenisation, from the model or a set of activations."""
    from mistudio.ml.activations.shards import ActivationSet
    from mistudio.ml.data.text import TextStore
    from mistudio.ml.data.tokenize import TokenStore
    from mistudio.ml.features.feature_store import FeatureStore
    from mistudio.ml.features.harvest import HarvestSettings, harvest

    if not sae_library.is_placed(row):
        raise Mismatch(f"SAE {row.name!r} does not say which layer and hook it reads.")
    ctx.report.progress(0.0, "loading the model")
    loaded = ctx.studio.models.get(model, ctx.paths.absolute(model.path))
    sae = sae_library.read_sae(ctx.studio, row).to(loaded.device)
    geometry = sae_geometry.ensure_geometry(
        ctx.studio, row, sae, check=lambda done: _comparing(ctx, done)
    )
    for doubt in harvest_source.doubts(row, model, stored):
        ctx.report.note(doubt, level="warning")
    training = from_dict(TrainConfig, row.config or {})  # its defaults for an imported SAE
    settings = HarvestSettings(
        context=config.context,
        rows=config.rows,
        top_k=config.top_k,
        seed=config.seed,
        norm_cut=training.norm_cut,
        mask_special=training.mask_special,
        batch_size=config.batch_size,
        fast=config.fast,
        skip_positions=skipped_by(sae.metadata, min(config.context, tokens.context)),
    )
    pending = _pending_set(ctx, row, tokens, config)
    folder = ctx.paths.absolute(pending.path or "")
    try:
        facts = harvest(
            loaded,
            sae,
            row.layer or 0,
            row.hook_in or "",
            TokenStore(ctx.paths.absolute(tokens.path or "")),
            TextStore(ctx.paths.dataset(tokens.dataset_id)),
            settings,
            folder,
            ctx.report,
            ctx.control,
            row.hook_out,
            stored=ActivationSet(ctx.paths.absolute(stored.path or "")) if stored else None,
            expected_ev=harvest_source.known_ev(row),
        )
        ctx.report.progress(0.97, "writing the table")
        store = FeatureStore(folder)
        rows = sae_geometry.with_nearest(store.table_rows(), geometry)
        features.add_statistics(ctx.db, pending.id, rows)
    except Left:
        raise  # the job is left interrupted and goes on from what is whole
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        FEATURE_SETS.delete(ctx.db, pending.id)
        raise
    FEATURE_SETS.update(
        ctx.db,
        pending.id,
        status="ready",
        n_tokens=facts.n_tokens,
        n_live=facts.n_live,
        store_hash=facts.store_hash,
        summary={**store.summary, "seconds": facts.seconds if facts.whole else None},
        size_bytes=directory_bytes(folder),
    )
    return FEATURE_SETS.get(ctx.db, pending.id)


def _comparing(ctx: JobContext, done: float) -> None:
    ctx.control.check()
    ctx.report.progress(0.0, f"comparing decoder rows, {100 * done:.0f} %")


def _pending_set(
    ctx: JobContext, row: SaeRow, tokens: TokenizationRow, config: HarvestConfig
) -> FeatureSetRow:
    """The unfinished row with these settings, left by a process that ended, or a fresh one."""
    wanted = _key(config)
    for found in FEATURE_SETS.select(
        ctx.db,
        "sae_id = ? AND tokenization_id = ? AND status = 'extracting'",
        [row.id, tokens.id],
    ):
        if _key(from_dict(HarvestConfig, found.config)) == wanted:
            return found
        FEATURE_SETS.delete(ctx.db, found.id)
        shutil.rmtree(ctx.paths.feature_set(found.id), ignore_errors=True)
    feature_set_id = new_id("feature_set")
    return FEATURE_SETS.insert(
        ctx.db,
        id=feature_set_id,
        sae_id=row.id,
        tokenization_id=tokens.id,
        config=to_dict(config),
        path=ctx.paths.relative(ctx.paths.feature_set(feature_set_id)),
        status="extracting",
    )


def _key(config: HarvestConfig) -> dict[str, Any]:
    values = json.loads(json.dumps(to_dict(config)))
    decisive = ("context", "rows", "top_k", "seed", "activations", "fast")
    return {
        **{name: values[name] for name in decisive},
        "batch_size": config.batch_size if config.fast else None,
    }
