"""Everything a training changes while it runs, and how it goes into a checkpoint and back."""

from __future__ import annotations

import platform
import random
from collections.abc import Mapping
from typing import Any

import numpy
import torch

import mistudio
from mistudio.core.config import config_hash, from_dict, to_dict
from mistudio.core.errors import Mismatch
from mistudio.core.training_configs import DENSE_FAMILY, TrainConfig
from mistudio.ml.sae.registry import new_trainable
from mistudio.ml.sae.trainable import Auxiliary, Penalty, StepResult, TrainableSae
from mistudio.ml.training.checkpoint import Checkpoint
from mistudio.ml.training.dead import DeadTracker
from mistudio.ml.training.optimizer import ClippedAdam
from mistudio.ml.training.schedule import Schedule, resolve
from mistudio.ml.training.sparsity import GHOST_WEIGHT, FiringRates, SparsityControl
from mistudio.ml.training.threshold import ThresholdAverage

SPIKE = 10.0  # a batch whose loss exceeds this many times the average is skipped
SPIKE_AFTER = 20  # accepted steps before the average is trusted
LOSS_DECAY = 0.98


class RunState:
    """SAE, optimiser, counters and averages of one run, and the number of steps done."""

    def __init__(
        self,
        config: TrainConfig,
        mean_D: torch.Tensor,
        scale: float,
        variance: float,
        device: torch.device,
        sae: TrainableSae | None = None,
    ) -> None:
        """A fresh run: b_dec is the mean of the scaled calibration tokens, s·x̄.

        `mean_D` is x̄ of unscaled tokens, `scale` s, `variance` V of s·x.
        """
        d_in = mean_D.numel()
        self.config = config
        self.schedule: Schedule = resolve(config, d_in)
        self.scale, self.variance = float(scale), float(variance)
        self.mean_D = mean_D.detach().double().cpu()
        if sae is None:
            sae = new_trainable(config.architecture, d_in, config.width, config.k, seed=config.seed)
            sae.configure(config)
            sae.parameters["b_dec_O"].copy_(self.mean_D * self.scale)
        self.sae = sae
        self.sae.to(device)
        self.optimizer = ClippedAdam(self.sae.parameters, config.gradient_clip / self.variance)
        self.tracker = DeadTracker(config.width, self.schedule.dead_window, device)
        self.threshold = ThresholdAverage(self.schedule.average_start)
        self.sparsity = SparsityControl(config, self.schedule.steps)
        self.rates = FiringRates(config.width, self.schedule.dead_window, device)
        self.step = 0
        self.seconds = 0.0
        self.loss_average = 0.0
        self.accepted = 0
        self.bad_in_a_row = 0

    @property
    def tokens(self) -> int:
        """Tokens seen, those of skipped batches included."""
        return self.step * self.schedule.batch

    def extra(self) -> Auxiliary | Penalty | None:
        """What the next step needs beside the batch: AuxK's part, or the penalty."""
        config, schedule = self.config, self.schedule
        if config.architecture in DENSE_FAMILY:
            return Penalty(
                self.sparsity.weight_at(self.step),
                GHOST_WEIGHT if config.ghost else 0.0,
                self.rates.rare() if config.ghost else None,
                self.sparsity.aim_at(self.step),
            )
        if schedule.aux_k == 0 or schedule.aux_weight == 0:
            return None
        dead_N = self.tracker.dead()
        if dead_N.numel() == 0:
            return None
        return Auxiliary(dead_N, schedule.aux_k, schedule.aux_weight)

    def acceptable(self, loss: float) -> bool:
        """Whether a batch's loss is finite and no spike."""
        spiked = self.accepted >= SPIKE_AFTER and loss > SPIKE * self.loss_average
        return loss == loss and abs(loss) != float("inf") and not spiked

    def take_in(self, result: StepResult, loss: float, tokens: int) -> None:
        """Update counters and averages after an accepted step."""
        self.tracker.update(result.counts_F, result.last_row_F, tokens)
        if self.sae.needs_threshold:
            self.threshold.update(result.smallest_kept, self.step)
        if self.config.architecture in DENSE_FAMILY:
            self.sparsity.update(result.active / tokens, self.step)
            self.rates.update(result.counts_F, tokens)
        weight = LOSS_DECAY if self.accepted else 0.0
        self.loss_average = weight * self.loss_average + (1 - weight) * loss
        self.accepted += 1
        self.bad_in_a_row = 0

    def checkpoint(
        self, data: Mapping[str, Any], origin: Mapping[str, Any], metadata: Mapping[str, Any]
    ) -> Checkpoint:
        """The state after `step` steps. `data` is the stream's position, `origin` what the run
        was made from (fingerprints), `metadata` what the SAE is to carry: JSON values all."""
        python_version, python_state, python_gauss = random.getstate()
        kind, keys, position, has_gauss, gauss = numpy.random.get_state(legacy=True)  # type: ignore[misc]
        tensors = {
            **self.tracker.state(),
            **self.rates.state(),
            "input_mean": self.mean_D,
            "rng_torch": torch.get_rng_state(),
        }
        if torch.cuda.is_available():
            for number, state in enumerate(torch.cuda.get_rng_state_all()):
                tensors[f"rng_cuda_{number}"] = state
        values = {
            "tokens": self.tokens,
            "seconds": self.seconds,
            "learning_rate": self.schedule.rate_at(self.step),
            "k": self.sae.k,
            "scale": self.scale,
            "variance": self.variance,
            "threshold": self.threshold.state(),
            "sparsity": self.sparsity.state(),
            "loss": self.loss_average,
            "accepted": self.accepted,
            "bad_in_a_row": self.bad_in_a_row,
            "data": dict(data),
            "origin": dict(origin),
            "metadata": dict(metadata),
            "config": to_dict(self.config),
            "config_hash": config_hash(self.config),
            "rng_python": [python_version, list(python_state), python_gauss],
            "rng_numpy": [kind, [int(key) for key in keys], position, has_gauss, gauss],
            "versions": {
                "mistudio": mistudio.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "device": str(self.sae.device),
            "threads": torch.get_num_threads(),
        }
        return Checkpoint(self.step, self.sae.parameters, self.optimizer.state(), tensors, values)


def restore_run(
    checkpoint: Checkpoint,
    device: torch.device,
    config: TrainConfig | None = None,
    origin: Mapping[str, Any] | None = None,
) -> RunState:
    """The run as it was when the checkpoint was written.

    Raises `Mismatch` if `config` or `origin` are given and differ from those of the checkpoint.
    """
    values = checkpoint.values
    stored = from_dict(TrainConfig, values["config"])
    if config is not None and config != stored:
        raise Mismatch("The settings differ from those that this training was started with.")
    if origin is not None:
        for key, value in origin.items():
            if values["origin"].get(key) != value:
                raise Mismatch(f"The {key} differs from the one this training was started with.")
    mean_D = checkpoint.state["input_mean"]
    sae = sae_parameters(checkpoint, stored)
    run = RunState(stored, mean_D, values["scale"], values["variance"], device, sae)
    run.sae.k = int(values["k"])
    run.optimizer.restore(checkpoint.optimizer)
    run.tracker.restore(checkpoint.state)
    run.threshold.restore(values["threshold"])
    if "sparsity" in values:  # not in checkpoints of the first version
        run.sparsity.restore(values["sparsity"])
        run.rates.restore(checkpoint.state)
    run.step = checkpoint.step
    run.seconds = float(values["seconds"])
    run.loss_average = float(values["loss"])
    run.accepted = int(values["accepted"])
    run.bad_in_a_row = int(values["bad_in_a_row"])
    _restore_random_states(checkpoint)
    return run


def sae_parameters(checkpoint: Checkpoint, config: TrainConfig) -> TrainableSae:
    """The trainable SAE of a checkpoint, on the CPU; raises `Mismatch` for foreign shapes."""
    d_in = checkpoint.state["input_mean"].numel()
    sae = new_trainable(config.architecture, d_in, config.width, config.k, seed=config.seed)
    sae.configure(config)
    for name, parameter in sae.parameters.items():
        stored = checkpoint.model.get(name)
        if stored is None or stored.shape != parameter.shape:
            raise Mismatch(f"The checkpoint's {name} does not fit its settings.")
        parameter.copy_(stored)
    return sae


def seed_random_states(seed: int) -> None:
    """Start every global generator from the run's seed: whatever draws from one is repeatable."""
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)


def _restore_random_states(checkpoint: Checkpoint) -> None:
    version, state, gauss = checkpoint.values["rng_python"]
    random.setstate((version, tuple(state), gauss))
    kind, keys, position, has_gauss, cached = checkpoint.values["rng_numpy"]
    numpy.random.set_state(
        (kind, numpy.array(keys, dtype=numpy.uint32), position, has_gauss, cached)
    )
    torch.set_rng_state(checkpoint.state["rng_torch"])
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            if f"rng_cuda_{number}" in checkpoint.state:
                torch.cuda.set_rng_state(checkpoint.state[f"rng_cuda_{number}"], number)
