"""Measure how fast a training would run: twenty steps on random activations, some model passes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from mistudio.core.errors import InvalidInput
from mistudio.core.training_configs import TrainConfig
from mistudio.core.training_plan import Rates
from mistudio.jobs import lookup
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.runner import Studio
from mistudio.jobs.training_plan import check_training, context_of, members_of, plan_training


def prepare(studio: Studio, config: TrainConfig) -> None:
    """Refuse what does not fit, or has no model to time, before anything is queued."""
    if not config.model:
        raise InvalidInput("Name the model to measure with.", code="invalid_config")
    check_training(studio, members_of(studio, config))


def run(ctx: JobContext, config: TrainConfig) -> Result:
    """The measured rates, and the plan that follows from them under `plan`."""
    from mistudio.ml.activations.capture import Capture
    from mistudio.ml.training.plan import divided
    from mistudio.ml.training.probe import probe

    members = members_of(ctx.studio, config)
    pieces = plan_training(ctx.studio, members).pieces
    model = lookup.model(ctx.studio, config.model)
    ctx.report.progress(0.1, "loading the model")
    loaded = ctx.studio.models.get(model, ctx.paths.absolute(model.path))
    deepest = max(members, key=lambda member: member.layer)
    capture = Capture(loaded, deepest.layer, deepest.hook)
    ctx.report.progress(0.4, "measuring")
    context = context_of(ctx.studio, members, model)
    timed = divided(members, pieces) if pieces else members
    found = probe(timed, capture, context, ctx.control)
    plan = plan_training(ctx.studio, members, rates_of(found))
    return {**found, "plan": asdict(plan)}


def rates_of(result: dict[str, Any]) -> Rates:
    """The rates in a probe's result."""
    return Rates(
        step_s=tuple(float(second) for second in result["step_s"]),
        forward_tokens_per_s=float(result["forward_tokens_per_s"]),
        forward_bytes=int(result["forward_bytes"]),
        measured_tokens_per_s=tuple(map(float, result.get("measured_tokens_per_s", ()))),
    )
