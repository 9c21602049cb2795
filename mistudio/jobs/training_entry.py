"""The library entry of a trained SAE: its files, where it reads, what it was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mistudio.core.config import to_dict
from mistudio.core.training_configs import TrainConfig
from mistudio.jobs import sae_library
from mistudio.jobs.context import JobContext
from mistudio.jobs.training_source import TrainingSource
from mistudio.store.records import SaeRow, TrainingRow
from mistudio.store.tables import MODELS

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
    is_transcoder = config.encoder != "sae"
    metadata: dict[str, Any] = {
        "layer": config.layer,
        "hook": config.hook_read,
        "hook_head_index": None,
        "seqpos_slice": [None],
        "exclude_special_tokens": config.mask_special,
        "model_from_pretrained_kwargs": {},
        "training_architecture": config.architecture,
        "norm_cut": config.norm_cut,
        "trained_steps": result.step,
    }
    for name in ("median_norm", "median_norm_out"):
        if name in result.sae.metadata:
            metadata[name] = result.sae.metadata[name]
    if source.loaded is not None and source.model is not None:
        from mistudio.ml.hooks import place_metadata

        text = source.texts[0][0]
        written = config.hook_written if is_transcoder else None
        metadata |= place_metadata(source.loaded, config.layer, config.hook_read, written)
        metadata |= {
            "model_name": source.model.name,
            "model_class_name": "AutoModelForCausalLM",
            "context_size": text.context,
            "prepend_bos": (text.statistics or {}).get("row_start_id") is not None,
            "dataset_path": text.dataset_id,
        }
    elif source.stored is not None:
        metadata |= {"hook_name": source.stored.name, "dataset_path": source.stored.name}
    model, known = source.model, source.model is not None
    if source.stored is not None and model is None:  # vectors that may tell where they come from
        model = MODELS.find(ctx.db, source.stored.model_id) if source.stored.model_id else None
        known = int(source.stored.config.get("layer", -1)) >= 0
    return sae_library.add_sae(
        ctx.studio,
        result.sae,
        metadata,
        name=training.name,
        origin="trained",
        model=model,
        layer=config.layer if known else None,
        hook=config.hook_read if known else None,
        hook_out=config.hook_written if known and is_transcoder else None,
        training_id=training.id,
        step=result.step,
        config=to_dict(config),
        is_result=True,
    )
