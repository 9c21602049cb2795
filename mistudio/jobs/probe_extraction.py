"""Measure how fast an extraction would run, by its first three batches."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mistudio.core.model_configs import ExtractConfig
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.extract_activations import settings_of
from mistudio.jobs.extraction_plan import plan_extraction
from mistudio.jobs.runner import Studio
from mistudio.jobs.tokenize import for_training


def prepare(studio: Studio, config: ExtractConfig) -> None:
    """Refuse what does not fit together before anything is queued."""
    plan_extraction(studio, config)


def run(ctx: JobContext, config: ExtractConfig) -> Result:
    """Tokens per second, and what follows for the whole: `tokens_per_s`, `seconds`, `tokens`,
    `bytes`. Nothing of it stays on disk.
    """
    from mistudio.ml.activations.extract import probe_rate
    from mistudio.ml.data.token_store import TokenStore

    plan = plan_extraction(ctx.studio, config)
    text = for_training(ctx, config.dataset, plan.model, 0)
    plan = plan_extraction(ctx.studio, config)
    ctx.report.progress(0.1, "loading the model")
    loaded = ctx.studio.models.get(plan.model, ctx.paths.absolute(plan.model.path))
    tokens = TokenStore(ctx.paths.absolute(text.path or ""))
    with tempfile.TemporaryDirectory(dir=ctx.paths.tmp, prefix="probe.") as folder:
        rate = probe_rate(
            loaded, tokens, settings_of(plan, config), Path(folder), ctx.report, ctx.control
        )
    return {
        "tokens_per_s": rate,
        "seconds": plan.tokens / rate,
        "tokens": plan.tokens,
        "bytes": plan.bytes,
    }
