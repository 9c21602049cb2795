"""The library entry of a trained SAE: its files, where it reads, what it was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mistudio.core.config import to_dict
from mistudio.core.training_configs import TrainConfig
from mistudio.jobs import sae_library, sae_metadata
from mistudio.jobs.context import JobContext
from mistudio.jobs.training_source import TrainingSource
from mistudio.store.records import SaeRow, TrainingRow

if TYPE_CHECKING:
    from mistudio.ml.training.loop import TrainResult


def add_to_library(
    ctx: JobContext,
    source: TrainingSource,
    training: TrainingRow,
    config: TrainConfig,
    result: TrainResult,
) -> SaeRow:
    """Write the SAE of a run that ended, with what other programs want to know of its hook."""
    assert result.sae is not None
    # not loaded for its modules' paths: its room may be taken
    held = None if source.lent is None else source.lent.held
    told = sae_metadata.of_training(ctx.studio, training, config, result.step, held)
    return sae_library.add_sae(
        ctx.studio,
        result.sae,
        told,
        name=training.name,
        origin="trained",
        model=sae_metadata.source_of(ctx.studio, training, config).model,
        layer=told.get("layer"),
        hook=told.get("hook"),
        hook_out=told.get("hook_out"),
        training_id=training.id,
        step=result.step,
        config=to_dict(config),
        is_result=True,
    )
