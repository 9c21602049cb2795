"""Check a model of the library by loading it once; also how its format is changed."""

from __future__ import annotations

from typing import Any

from mistudio.core.errors import Cancelled, InUse, StudioError, Unsupported
from mistudio.core.model_configs import CheckModelConfig
from mistudio.jobs import model_checking
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.loaded_models import files_gone
from mistudio.jobs.runner import Studio, as_studio_error
from mistudio.store.records import ModelRow
from mistudio.store.tables import MODELS


def prepare(studio: Studio, config: CheckModelConfig) -> str:
    """Refuse a model that is still being downloaded or whose files are gone."""
    row = MODELS.named(studio.db(), config.model)
    if row.status == "downloading":
        raise InUse(f"Model {row.name!r} is still being downloaded.")
    if not studio.paths.absolute(row.path).exists():
        raise files_gone(row.name, studio.paths.absolute(row.path))
    return row.id


def run(ctx: JobContext, config: CheckModelConfig) -> Result:
    """Make a model ready, in the wanted format, and leave it loaded.

    A model that is ready already keeps its state and format if this fails; another one becomes
    "incompatible", "error" or "cancelled". The result of `summary` is returned, for an
    incompatible model as well.
    """
    row = MODELS.named(ctx.db, config.model)
    was_ready = row.status == "ready"
    allowed = config.allow_code or row.trust_remote_code
    if not was_ready:
        MODELS.update(ctx.db, row.id, status="checking", error_code=None, error_message=None)
    try:
        values = _checked(ctx, row, config.format or row.format or "auto", allowed)
    except Cancelled:
        if not was_ready:
            MODELS.update(ctx.db, row.id, status="cancelled")
        raise
    except Exception as error:
        if not was_ready:
            failure = as_studio_error(error)
            MODELS.update(
                ctx.db,
                row.id,
                status="error",
                error_code=failure.code,
                error_message=failure.sentence,
            )
        raise
    MODELS.update(ctx.db, row.id, trust_remote_code=allowed, **values)
    return summary(MODELS.get(ctx.db, row.id))


def _checked(ctx: JobContext, row: ModelRow, form: str, allowed: bool) -> dict[str, Any]:
    path = ctx.paths.absolute(row.path)
    try:
        return model_checking.check_files(
            ctx.studio,
            row.id,
            row.name,
            path,
            form,
            ctx.report,
            ctx.control,
            allow_code=allowed,
        )
    except StudioError as error:
        if not isinstance(error, Unsupported) or not model_checking.is_incompatible(error):
            raise
        ctx.report.note(error.sentence, level="warning")
        return model_checking.incompatible_values(path, error)


def summary(row: ModelRow) -> Result:
    """What the jobs that import and check a model return.

    `status` is "ready" or "incompatible", then with the reason in `why`; `lens_why` says why there
    is no logit lens. `memory_bytes` is measured: parameters, buffers, quantisation scales.
    """
    known = row.layer_map or {}
    return {
        "model": row.id,
        "name": row.name,
        "status": row.status,
        "why": row.error_message or "",
        "architecture": row.architecture,
        "layers": row.num_layers,
        "hidden": row.hidden_dim,
        "parameters": row.params_count,
        "format": row.format,
        "memory_bytes": row.memory_bytes,
        "lens": row.logit_lens_ready,
        "lens_why": known.get("lens_why", ""),
        "hooks": known.get("hooks", {}),
    }
