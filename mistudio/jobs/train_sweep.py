"""Train several SAEs from one pass over the text: layers, hooks and combinations of settings."""

from __future__ import annotations

import dataclasses

from mistudio.core.ids import new_id
from mistudio.core.sweep_configs import SweepConfig
from mistudio.jobs import lookup
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.runner import Studio
from mistudio.jobs.train import add_training, resolved
from mistudio.jobs.training_run import run_trainings
from mistudio.store import trainings


def prepare(studio: Studio, config: SweepConfig) -> str:
    """Add a row for every training of the sweep; returns the id of their group."""
    layer_count = 1 << 12
    if config.model:
        layer_count = lookup.model(studio, config.model).num_layers or 0
    members = [resolved(studio, member) for member in config.members(layer_count)]
    group = new_id("sweep")
    for member in members:
        named = member
        if not member.name and config.varied:
            told = [f"{name} {getattr(member, name)}" for name in config.varied]
            base = f"L{member.layer} {member.place} {member.architecture} {member.width:,}"
            named = dataclasses.replace(member, name=" ".join([base, *told]))
        add_training(studio, named, group)
    return group


def run(ctx: JobContext, config: SweepConfig) -> Result:
    """Run or go on with the trainings of the group that have not ended."""
    assert ctx.job.target_id is not None
    rows = trainings.of_group(ctx.db, ctx.job.target_id)
    if all(row.started_at is None for row in rows):
        for sentence in config.own_warnings():
            ctx.report.note(sentence, level="warning")
    left = [row for row in rows if row.status not in ("completed", "stopped", "failed")]
    results = run_trainings(ctx, left) if left else []
    return {"sweep": ctx.job.target_id, "trainings": results}
