"""Train an SAE: tokens and model in, checkpoints and metrics on the way, a library entry out."""

from __future__ import annotations

import dataclasses

from mistudio.core.config import to_dict
from mistudio.core.errors import InvalidInput
from mistudio.core.ids import new_id
from mistudio.core.training_configs import TrainConfig
from mistudio.jobs import lookup
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.runner import Studio
from mistudio.jobs.training_plan import check_skipped
from mistudio.jobs.training_run import run_trainings
from mistudio.jobs.training_source import activation_set
from mistudio.jobs.training_starts import named_start, starting_point
from mistudio.store.records import ModelRow
from mistudio.store.tables import MODELS, TRAININGS


def prepare(studio: Studio, config: TrainConfig) -> str:
    """Check what the config names and add the run's row; returns the training's id."""
    return add_training(studio, resolved(studio, config))


def resolved(studio: Studio, config: TrainConfig) -> TrainConfig:
    """The config with ids for names. An activation set tells what it was made from and holds.

    Raises `NotFound`, `InUse`, or `InvalidInput` for a layer or hook that does not exist, or for
    positions to skip that a row does not have.
    """
    stored = activation_set(studio, config)
    if stored is not None:
        config = dataclasses.replace(config, activations=stored.id)
        if not config.model and stored.model_id and stored.tokenization_id:
            config = dataclasses.replace(
                config, model=stored.model_id, dataset=stored.tokenization_id
            )
        if stored.model_id is None:
            config = dataclasses.replace(config, model="", dataset="", more_datasets=())
        if config.more_datasets:
            raise InvalidInput(
                "An activation set holds one text; leave further datasets out, or train without it."
            )
        hooks = (stored.hooks or "").split(",")
        layers = [int(number) for number in (stored.layers or "0").split(",") if number]
        if config.hook not in hooks and len(hooks) == 1:
            config = dataclasses.replace(config, hook=hooks[0])
        if config.layer not in layers and len(layers) == 1:
            config = dataclasses.replace(config, layer=layers[0])
    check_skipped(studio, config)
    if not config.model:
        return named_start(studio, config)
    model = lookup.model(studio, config.model)
    layers = model.num_layers or 0
    if config.layer >= layers:
        raise InvalidInput(
            f"Layer {config.layer} does not exist; {model.name!r} has {layers} blocks "
            f"(0 to {layers - 1}).",
            code="invalid_config",
        )
    texts = [
        ((lookup.tokenization(studio, name) or lookup.dataset(studio, name)).id, weight)
        for name, weight in config.mixture
    ]
    more = tuple(f"{found}={weight!r}" for found, weight in texts[1:])
    config = dataclasses.replace(config, model=model.id, dataset=texts[0][0], more_datasets=more)
    return named_start(studio, config)


def add_training(studio: Studio, config: TrainConfig, group: str | None = None) -> str:
    """Add the row of a run whose config is resolved; returns its id."""
    model = MODELS.get(studio.db(), config.model) if config.model else None
    name = config.name.strip() or _name(studio, config, model)
    training_id = new_id("training")
    stored, start = activation_set(studio, config), starting_point(studio, config)
    TRAININGS.insert(
        studio.db(),
        id=training_id,
        name=name,
        group_id=group,
        parent_id=start.parent.id if start and start.parent else None,
        model_id=model.id if model else None,
        model_format=model.format if model else None,
        activation_set_id=stored.id if stored else None,
        encoder_type=config.encoder,
        architecture=config.architecture,
        layer=config.layer,
        hook=config.hook_read,
        config=to_dict(dataclasses.replace(config, name=name)),
        total_steps=-(-config.tokens // config.batch) or None,
        path=studio.paths.relative(studio.paths.run(training_id)),
        status="queued",
    )
    return training_id


def _name(studio: Studio, config: TrainConfig, model: ModelRow | None) -> str:
    if model is None:
        stored = activation_set(studio, config)
        return f"{stored.name if stored else ''} {config.architecture} {config.width:,}".strip()
    return f"{model.name} L{config.layer} {config.place} {config.architecture} {config.width:,}"


def run(ctx: JobContext, config: TrainConfig) -> Result:
    """Run or go on with the training that this job was queued for."""
    assert ctx.job.target_id is not None
    return run_training(ctx, ctx.job.target_id)


def run_training(ctx: JobContext, training_id: str, *, ends_turn: bool = True) -> Result:
    """Take one training from where it stands to completed, stopped or paused."""
    return run_trainings(ctx, [TRAININGS.get(ctx.db, training_id)], ends_turn=ends_turn)[0]
