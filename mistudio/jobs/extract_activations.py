"""Extract activations: a model's inner values on a text, stored token by token in shards."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistudio.core.atomic import directory_bytes, fsync_path
from mistudio.core.config import from_dict, to_dict
from mistudio.core.errors import Cancelled, DiskFull, Left, NotFound
from mistudio.core.ids import new_id
from mistudio.core.model_configs import ExtractConfig
from mistudio.core.units import format_bytes
from mistudio.jobs.activation_pages import no_room, partial_folder, remove_files
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.extraction_plan import ExtractionPlan, free_room, plan_extraction
from mistudio.jobs.runner import Studio, as_studio_error
from mistudio.jobs.tokenize import for_training
from mistudio.store import jobs
from mistudio.store.jobs import JobState
from mistudio.store.records import ActivationSetRow
from mistudio.store.tables import ACTIVATION_SETS, JOBS, MODELS

if TYPE_CHECKING:
    from mistudio.ml.activations.extract import ExtractSettings

UNFINISHED = "status IN ('cancelled', 'failed', 'interrupted')"


def prepare(studio: Studio, config: ExtractConfig) -> str:
    """Check what the config names and the room on disk; returns the id of the set to fill.

    That is a set with the same settings that was not finished, whose shards are kept, or a new one:
    also when the model's format has changed since, as values of two formats do not mix.
    """
    plan = plan_extraction(studio, config)
    text = plan.tokenization or plan.dataset
    assert text is not None
    fixed = dataclasses.replace(config, model=plan.model.id, dataset=text.id)
    found = _unfinished(studio, fixed)
    kept = directory_bytes(partial_folder(studio, found.id)) if found else 0
    free, spare = free_room(studio)
    if refusal := no_room(plan.bytes - kept, max(0, free - spare)):
        raise DiskFull(refusal)
    if found is not None:
        _give_up_waiting(studio, found.id)
        ACTIVATION_SETS.update(
            studio.db(), found.id, status="queued", error_code=None, error_message=None
        )
        return found.id
    set_id = new_id("activation_set")
    ACTIVATION_SETS.insert(
        studio.db(),
        id=set_id,
        name=config.name.strip() or _name(plan),
        config=to_dict(fixed),
        model_id=plan.model.id,
        tokenization_id=plan.tokenization.id if plan.tokenization else None,
        model_format=plan.model.format,
        layers=",".join(map(str, plan.layers)),
        hooks=",".join(plan.hooks),
        dtype=plan.dtype,
        container=config.container,
        batch_size=config.batch,
        top_k=config.top_k,
        path=studio.paths.relative(studio.paths.activations(set_id)),
        status="queued",
    )
    return set_id


def run(ctx: JobContext, config: ExtractConfig) -> Result:
    """Extract, or go on after the last whole shard of an earlier turn.

    A cancel or a failure keeps whole shards for another try and says so; without any, a cancelled
    set leaves nothing.
    """
    assert ctx.job.target_id is not None
    row = ACTIVATION_SETS.find(ctx.db, ctx.job.target_id)
    if row is None:
        raise NotFound("This activation set was deleted. Extract again.")
    if row.status == "completed":
        return _result(ctx.studio, row)
    try:
        return _run(ctx, row)
    except Left:
        ACTIVATION_SETS.update(ctx.db, row.id, status="interrupted", progress=None)
        raise
    except Cancelled:
        _settle(ctx, row, "cancelled")
        raise
    except Exception as error:
        failure = as_studio_error(error)
        _settle(ctx, row, "failed", error_code=failure.code, error_message=failure.sentence)
        raise


def settle_cancelled(studio: Studio, set_id: str) -> None:
    """After the cancel of a job that waits: a set that holds nothing goes, another is kept."""
    if ACTIVATION_SETS.find(studio.db(), set_id) is None:
        return
    if directory_bytes(partial_folder(studio, set_id)):
        ACTIVATION_SETS.update(studio.db(), set_id, status="cancelled", progress=None)
    else:
        ACTIVATION_SETS.delete(studio.db(), set_id)


def settings_of(plan: ExtractionPlan, config: ExtractConfig) -> ExtractSettings:
    """The settings as the extraction itself takes them."""
    from mistudio.ml.activations.extract import ExtractSettings

    return ExtractSettings(
        layers=tuple(plan.layers),
        hooks=tuple(plan.hooks),
        rows=config.rows,
        tokens=config.tokens,
        batch=config.batch,
        dtype=plan.dtype,
        container=config.container,
        top_k=config.top_k,
    )


def _run(ctx: JobContext, row: ActivationSetRow) -> Result:
    from mistudio.ml.activations.extract import extract
    from mistudio.ml.activations.shards import read_state
    from mistudio.ml.data.token_store import TokenStore

    db, studio = ctx.db, ctx.studio
    config = from_dict(ExtractConfig, row.config)
    final, working = studio.paths.activations(row.id), partial_folder(studio, row.id)
    if not (final / "meta.json").is_file():
        ACTIVATION_SETS.update(db, row.id, status="initializing")
        plan = plan_extraction(studio, config)
        if plan.dropped:
            ctx.report.note(plan.dropped, level="warning")
        text = for_training(ctx, config.dataset, plan.model, 0)
        ctx.report.progress(0.0, "loading the model")
        loaded = studio.models.get(plan.model, ctx.paths.absolute(plan.model.path))
        ACTIVATION_SETS.update(
            db,
            row.id,
            status="extracting",
            # kept shards keep the format that they were read in
            model_format=row.model_format if read_state(working) else loaded.format,
            tokenization_id=text.id,
            config=to_dict(dataclasses.replace(config, dataset=text.id)),
        )
        extract(
            loaded,
            TokenStore(ctx.paths.absolute(text.path or "")),
            settings_of(plan, config),
            working,
            ctx.report,
            ctx.control,
            lambda: _usable(studio),
        )
        _publish(working, final)
    return _complete(ctx, row)


def _usable(studio: Studio) -> int:
    free, spare = free_room(studio)
    return max(0, free - spare)


def _publish(working: Path, final: Path) -> None:
    """Let a whole set appear under its name."""
    shutil.rmtree(final, ignore_errors=True)
    working.replace(final)
    fsync_path(final.parent)


def _complete(ctx: JobContext, row: ActivationSetRow) -> Result:
    from mistudio.ml.activations.shards import ActivationSet

    folder = ctx.paths.activations(row.id)
    stored = ActivationSet(folder)
    ACTIVATION_SETS.update(
        ctx.db,
        row.id,
        status="completed",
        progress=None,
        error_code=None,
        error_message=None,
        n_tokens=len(stored),
        batch_size=stored.meta["batch"],
        statistics=stored.summary(),
        size_bytes=directory_bytes(folder),
    )
    return _result(ctx.studio, ACTIVATION_SETS.get(ctx.db, row.id))


def _result(studio: Studio, row: ActivationSetRow) -> Result:
    run = (row.statistics or {}).get("run", {})
    return {
        "activations": row.id,
        "name": row.name,
        "tokens": row.n_tokens,
        "layers": [int(layer) for layer in (row.layers or "").split(",")],
        "hooks": (row.hooks or "").split(","),
        "bytes": row.size_bytes,
        "path": str(studio.paths.activations(row.id)),
        **{name: run.get(name) for name in ("seconds", "tokens_per_s", "peak_memory_bytes")},
    }


def _settle(ctx: JobContext, row: ActivationSetRow, status: str, **why: str) -> None:
    """Keep whole shards of an extraction that ended early, remove what is not whole."""
    from mistudio.ml.activations.shards import keep_whole_shards

    working = partial_folder(ctx.studio, row.id)
    shards = keep_whole_shards(working)
    if shards:
        noun = "shard" if shards == 1 else "shards"
        ctx.report.note(
            f"{shards:,} whole {noun} ({format_bytes(directory_bytes(working))}) stay. Retry goes "
            "on from there; Delete removes the set."
        )
    elif status == "cancelled":
        remove_files(ctx.studio, row.id)
        ACTIVATION_SETS.delete(ctx.db, row.id)
        ctx.report.note("Nothing was kept: no shard was whole yet.")
        return
    ACTIVATION_SETS.update(ctx.db, row.id, status=status, progress=None, **why)


def _give_up_waiting(studio: Studio, set_id: str) -> None:
    """An interrupted job of the same set is not to be resumed beside the new one."""
    for job in JOBS.select(studio.db(), "target_id = ? AND status = 'interrupted'", [set_id]):
        jobs.move(studio.db(), job.id, JobState.INTERRUPTED, JobState.CANCELLED)


def _unfinished(studio: Studio, config: ExtractConfig) -> ActivationSetRow | None:
    wanted = _key(to_dict(config))
    form = MODELS.get(studio.db(), config.model).format
    rows = ACTIVATION_SETS.select(
        studio.db(), f"{UNFINISHED} AND model_id = ? AND model_format IS ?", [config.model, form]
    )
    return next((row for row in rows if _key(row.config) == wanted), None)


def _key(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != "name"}


def _name(plan: ExtractionPlan) -> str:
    layers = plan.layers
    run = layers == list(range(layers[0], layers[-1] + 1)) and len(layers) > 2
    shown = f"{layers[0]}-{layers[-1]}" if run else ",".join(map(str, layers))
    return f"{plan.model.name} {', '.join(plan.hooks)} L{shown}"[:255]
