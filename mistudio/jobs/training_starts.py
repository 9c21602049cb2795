"""Where a run begins that is no fresh one: at a checkpoint of another, or at an SAE."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mistudio.core.config import from_dict, settings_of
from mistudio.core.errors import InvalidInput, Mismatch
from mistudio.core.sae_readings import refuse_cross_layer
from mistudio.core.training_configs import TrainConfig
from mistudio.core.training_rules import FIXED_IN_A_CONTINUATION
from mistudio.jobs import lookup, sae_library
from mistudio.jobs.checkpoints import find
from mistudio.jobs.runner import Studio
from mistudio.jobs.same_model import check_checkpoint, weights_of
from mistudio.ml.training import keeping
from mistudio.store import trainings
from mistudio.store.hook_width import hook_width
from mistudio.store.records import SaeRow, TrainingRow
from mistudio.store.tables import MODELS, SAES, TRAININGS

if TYPE_CHECKING:
    import torch

    from mistudio.ml.training.loop import InputStatistics
    from mistudio.ml.training.run_state import TargetStatistics

STATISTICS = ("statistics.json", "statistics-out.json")  # of what is read, of a target


class Start(NamedTuple):
    """Where a run begins that is no fresh one: a checkpoint of `parent`, or an SAE."""

    parent: TrainingRow | None = None
    checkpoint: Path | None = None
    sae: SaeRow | None = None


def continued(studio: Studio, wanted: str, step: int = -1, **changes: Any) -> TrainConfig:
    """The settings of a run that goes on from a checkpoint of another; `changes` replace its own.

    Raises `NotFound`, or `Mismatch` for a setting that both must share.
    """
    training = TRAININGS.named(studio.db(), wanted)
    row = find(studio, training.id, step)
    own: dict[str, Any] = {"name": "", "init_from": "", "context": 0}
    text = trainings.tokenization_of(studio.db(), training.id)
    if text and not training.config.get("more_datasets"):
        own["dataset"] = text  # the very rows, also if the dataset was tokenised again since
    config = from_dict(TrainConfig, {**training.config, **own, **changes})
    config = dataclasses.replace(config, continue_from=f"{training.id}@{row.step}")
    starting_point(studio, config)
    return config


def proposed(studio: Studio, training_id: str, step: int = -1) -> TrainConfig:
    """Settings to continue a run with: its own length if that is not reached, else twice it."""
    training = TRAININGS.get(studio.db(), training_id)
    row = find(studio, training_id, step)
    stored = from_dict(TrainConfig, training.config)
    done = row.step * stored.batch
    tokens = stored.tokens if done < stored.tokens else 2 * stored.tokens
    return continued(studio, training_id, row.step, tokens=tokens)


def named_start(studio: Studio, config: TrainConfig) -> TrainConfig:
    """The config with ids for what it begins at; raises as `starting_point`."""
    start = starting_point(studio, config)
    if start is None:
        return config
    if start.parent is not None and start.checkpoint is not None:
        step = keeping.step_of(start.checkpoint)
        return dataclasses.replace(config, continue_from=f"{start.parent.id}@{step}")
    assert start.sae is not None
    return dataclasses.replace(config, init_from=start.sae.id)


def starting_point(studio: Studio, config: TrainConfig) -> Start | None:
    """Where a run begins; None: afresh.

    Raises `NotFound` if that is gone, `Mismatch` or `InvalidInput` if `config` does not go with it.
    """
    if config.continue_from:
        return _continued_start(studio, config)
    if config.init_from:
        row = lookup.sae(studio, config.init_from)
        refuse_cross_layer(row.config, "it cannot be trained on")
        if row.n_latents != config.width:
            raise Mismatch(
                f"The SAE {row.name!r} has {row.n_latents:,} latents; set Latents to it."
            )
        if row.encoder_type != config.encoder:
            raise Mismatch(
                f"{row.name!r} is of type {row.encoder_type}, what is to be trained of type "
                f"{config.encoder}."
            )
        model = MODELS.find(studio.db(), config.model)
        width = hook_width(model, config.hook_read) if model is not None else None
        if width not in (None, row.d_in):
            raise Mismatch(
                f"This SAE expects width {row.d_in:,}, the model gives {width:,} at "
                f"{config.hook_read}."
            )
        return Start(sae=row)
    return None


def _continued_start(studio: Studio, config: TrainConfig) -> Start:
    wanted, _, step = config.continue_from.partition("@")
    if step and not step.isdecimal():
        raise InvalidInput("Continue from is the id of a run, or ID@STEP.", code="invalid_config")
    parent = TRAININGS.named(studio.db(), wanted)
    row = find(studio, parent.id, int(step) if step else -1)
    stored = from_dict(TrainConfig, parent.config)
    own = {
        "model": MODELS.named(studio.db(), config.model).id if config.model else "",
    }
    for name in FIXED_IN_A_CONTINUATION:
        if own.get(name, getattr(config, name)) != getattr(stored, name):
            label = next(s.option.label for s in settings_of(TrainConfig) if s.name == name)
            own_value = getattr(stored, name)
            raise Mismatch(
                f"{label} cannot change in a continued run; {parent.name!r} has "
                f"{'none' if own_value == '' else own_value}."
            )
    model = MODELS.find(studio.db(), own["model"]) if own["model"] else None
    if model is not None:
        saved = studio.paths.absolute(row.path)
        check_checkpoint(saved, parent.name, model, weights_of(model))
    if row.step * config.batch >= config.tokens:
        raise InvalidInput(
            f"Step {row.step:,} has seen {row.step * config.batch:,} tokens already; the length "
            "must be more.",
            code="invalid_config",
        )
    return Start(parent=parent, checkpoint=studio.paths.absolute(row.path))


def inherit_statistics(studio: Studio, config: TrainConfig, folder: Path) -> None:
    """Let a continued run measure norms by its parent's values, as its weights do."""
    start = starting_point(studio, config) if config.continue_from else None
    if start is None or start.parent is None:
        return
    from mistudio.ml.activations.statistics_file import load_statistics, save_statistics

    for file in STATISTICS:
        measured = studio.paths.run(start.parent.id) / file
        if measured.exists() and not (folder / file).exists():
            save_statistics(folder / file, load_statistics(measured))


def write_start(
    studio: Studio,
    config: TrainConfig,
    folder: Path,
    statistics: InputStatistics,
    *,
    data: Mapping[str, Any],
    origin: Mapping[str, Any],
    metadata: Mapping[str, Any],
    device: torch.device,
    target: TargetStatistics | None = None,
) -> Path | None:
    """Write the first checkpoint of a run that begins elsewhere; None if it begins afresh.

    From then on the run needs neither its parent nor the SAE. `data` is the position of its stream
    before the first batch, used where it starts from an SAE; `target` what a transcoder is to give.
    Raises as `starting_point`.
    """
    start = starting_point(studio, config)
    if start is None:
        return None
    from mistudio.ml.training.checkpoint import load_checkpoint, save_checkpoint
    from mistudio.ml.training.continue_run import extend_run, run_from_sae
    from mistudio.ml.training.random_states import seed_random_states

    if start.checkpoint is not None:
        saved = load_checkpoint(start.checkpoint)
        run = extend_run(saved, config, device, origin)
        data = saved.values["data"]
    else:
        assert start.sae is not None
        seed_random_states(config.seed)
        sae = sae_library.read_sae(studio, SAES.get(studio.db(), start.sae.id))
        run = run_from_sae(sae, config, statistics, device, target)
    return save_checkpoint(folder, run.checkpoint(data, origin, metadata))
