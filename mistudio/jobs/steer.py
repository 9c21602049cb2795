"""Generate with and without steering, measure the difference, keep the run."""

from __future__ import annotations

import time

from mistudio.core.config import to_dict
from mistudio.core.configs import SteerConfig
from mistudio.core.errors import Cancelled, InvalidInput, Mismatch, NotFound
from mistudio.core.steering_spec import parse_edits
from mistudio.jobs import lookup, sae_library
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.runner import Studio
from mistudio.store import features
from mistudio.store.records import SaeRow
from mistudio.store.tables import STEERING_RUNS


def prepare(studio: Studio, config: SteerConfig) -> None:
    """Refuse unknown features, or units that need a feature set there is none of."""
    row = lookup.sae(studio, config.sae)
    lookup.model_of(studio, row)
    largest(studio, row, config)


def largest(studio: Studio, row: SaeRow, config: SteerConfig) -> dict[int, float]:
    """The largest activation of each steered feature; raises a sentence if it is not known."""
    edits = parse_edits(config.feature).edits
    for edit in edits:
        if edit.feature >= row.n_latents:
            raise InvalidInput(
                f"Feature {edit.feature:,} does not exist; the SAE has {row.n_latents:,} latents "
                f"(0 to {row.n_latents - 1:,})."
            )
    found = features.newest_set(studio.db(), row.id)
    if found is None:
        if config.unit == "max":
            raise NotFound(
                "The unit “× max activation” needs the features of this SAE. Find its features "
                "first, or use the raw unit."
            )
        return {}
    rows = features.feature_rows(studio.db(), found, [edit.feature for edit in edits])
    maxima = {r.index: r.max for r in rows}
    if config.unit == "max":
        for edit in edits:
            if not maxima.get(edit.feature):
                raise InvalidInput(
                    f"Feature {edit.feature:,} never fired on the text read, so its largest "
                    "activation is unknown. Use the raw unit or another feature."
                )
    return maxima


def run(ctx: JobContext, config: SteerConfig) -> Result:
    """Steer and keep the run with all that is needed to repeat it."""
    from mistudio.ml.steering.compare import steer

    row = lookup.sae(ctx.studio, config.sae)
    model = lookup.model_of(ctx.studio, row)
    if not sae_library.is_placed(row):
        raise Mismatch(f"SAE {row.name!r} does not say which layer and hook it reads.")
    maxima = largest(ctx.studio, row, config)
    ctx.report.progress(0.0, "loading the model")
    loaded = ctx.studio.models.get(model, ctx.paths.absolute(model.path))
    sae = sae_library.read_sae(ctx.studio, row).to(loaded.device)
    began = time.monotonic()
    found = steer(
        loaded,
        sae,
        row.layer or 0,
        row.hook_out or row.hook_in or "",
        parse_edits(config.feature).edits,
        config,
        maxima,
        ctx.report,
        ctx.control,
        hook_in=row.hook_in,
    )
    if not found.baseline_ids and "stopped" in found.reasons.values():
        raise Cancelled  # stopped before the first token: there is nothing to keep
    outputs = {"baseline": found.baseline_text, "steered": found.steered_text}
    tokens = {"baseline": found.baseline_ids, "steered": found.steered_ids}
    kept = STEERING_RUNS.insert(
        ctx.db,
        model_id=model.id,
        sae_id=row.id,
        mode="blended",
        prompt=config.prompt,
        config={**to_dict(config), "sae": row.id, "weights_hash": row.weights_hash},
        seed=config.seed,
        outputs={**outputs, "token_ids": tokens, "reasons": found.reasons},
        metrics=found.metrics,
        duration=time.monotonic() - began,
        status="completed",
    )
    return {"run": kept.id, "sae": row.id, **outputs, **found.metrics}
