"""Everything a training changes while it runs, and how it goes into a checkpoint and back."""

from __future__ import annotations

import platform
import random
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy
import torch

import mistudio
from mistudio.core.config import config_hash, from_dict, to_dict
from mistudio.core.errors import InvalidInput, Mismatch
from mistudio.core.model_weights import WEIGHTS, changed
from mistudio.core.training_configs import TrainConfig
from mistudio.core.training_rules import DENSE_FAMILY, is_whitened
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.sae.fold import fold_coordinates, fold_decoder_norms
from mistudio.ml.sae.registry import new_trainable
from mistudio.ml.sae.trainable import Auxiliary, Penalty, StepResult, TrainableSae
from mistudio.ml.training.checkpoint import Checkpoint
from mistudio.ml.training.dead import DeadTracker
from mistudio.ml.training.micro_batch import MicroBatches
from mistudio.ml.training.optimizer import optimizer_of
from mistudio.ml.training.random_states import restore_random_states
from mistudio.ml.training.schedule import Schedule, resolve
from mistudio.ml.training.sparsity import GHOST_WEIGHT, FiringRates, SparsityControl
from mistudio.ml.training.threshold import ThresholdAverage
from mistudio.ml.whitening import Whitener, Whitening

SPIKE = 10.0  # a batch whose loss exceeds this many times the average is skipped
SPIKE_AFTER = 20  # accepted steps before the average is trusted
LOSS_DECAY = 0.98


class TargetStatistics(NamedTuple):
    """What a transcoder is to give: the mean ȳ of unscaled tokens [O], s_out, and V of s_out·y."""

    mean_O: torch.Tensor
    scale: float
    variance: float


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
        target: TargetStatistics | None = None,
        whitening: Whitening | None = None,
        subspace_DR: torch.Tensor | None = None,
    ) -> None:
        """A fresh run, its biases set from the means of the scaled calibration tokens.

        `mean_D` is x̄ of unscaled tokens, `scale` s, `variance` V of s·x; settings that ask for
        no input normalisation make s 1 and V that of x; those that ask for whitening make s 1 and
        take V and the place of x from `whitening`, which is ignored otherwise. The features begin
        in `subspace_DR`, of what the SAE trains on, if there is one. A transcoder needs a
        `target`, whose V takes the place of `variance`. Raises `InvalidInput` if it lacks, or if an
        SAE has one, or a whitening lacks.
        """
        if (target is not None) != (config.encoder != "sae"):
            raise InvalidInput("A transcoder, and nothing else, needs the statistics of a target.")
        self.config = config
        self.mean_D = mean_D.detach().double().cpu()
        self.target = None
        self.whitening = whitening if is_whitened(config) else None
        self._whitener: Whitener | None = None
        if self.whitening is not None:
            self._whitener = Whitener(self.whitening, device)
            self.scale, self.variance = 1.0, self.whitening.total_variance
        elif is_whitened(config):
            raise InvalidInput("Whitening needs the covariance of the activations.")
        else:
            self.scale, self.variance = _units(config, float(scale), float(variance))
        if target is not None:
            mean_O = target.mean_O.detach().double().cpu().clone()  # may be that of the input
            self.target = TargetStatistics(mean_O, *_units(config, target.scale, target.variance))
            self.variance = self.target.variance
        self.scale_out = self.target.scale if self.target else self.scale
        d_out = self.target.mean_O.numel() if self.target else self.mean_D.numel()
        self.schedule: Schedule = resolve(config, d_out)
        if sae is None:
            sae = _new_sae(config, self.mean_D.numel(), d_out)
            scaled_out_O = self.target.mean_O * self.scale_out if self.target else None
            scaled_in_D = self.mean_D * self.scale
            if self.whitening is not None:
                scaled_in_D = torch.zeros_like(self.mean_D)
            sae.start_from(scaled_in_D, scaled_out_O)
            if subspace_DR is not None:
                sae.start_within(subspace_DR)
        self.sae = sae
        self.sae.to(device)
        clip_norm = config.gradient_clip / self.variance
        self.optimizer = optimizer_of(config, self.sae.parameters, clip_norm)
        self.tracker = DeadTracker(config.width, self.schedule.dead_window, device)
        self.threshold = ThresholdAverage(self.schedule.average_start)
        self.sparsity = SparsityControl(config, self.schedule.steps)
        self.rates = FiringRates(config.width, self.schedule.dead_window, device)
        self.micro = MicroBatches(config.micro_batch)
        self.step = 0
        self.seconds = 0.0
        self.loss_average = 0.0
        self.l0: float | None = None  # of the last accepted batch
        self.accepted = 0
        self.bad_in_a_row = 0

    @property
    def tokens(self) -> int:
        """Tokens seen, those of skipped batches included."""
        return self.step * self.schedule.batch

    def normalised(self, x_BD: torch.Tensor) -> torch.Tensor:
        """What the SAE trains on, s·x or z, of activations on its device."""
        return x_BD * self.scale if self._whitener is None else self._whitener(x_BD)

    @property
    def has_other_rows(self) -> bool:
        """Whether decoder rows need not be unit in the units of the activations."""
        return self.whitening is not None or self.sae.row_lengths_F is not None

    def folded(self) -> SparseAutoencoder:
        """The SAE as it is now, reading unscaled activations; BatchTopK by its average θ.

        Where it was whitened, or its rows are held at their own lengths, these may be any, so that
        one θ still holds for all latents; `with_unit_rows` comes after θ is found.
        """
        sae = self.sae.inference(self.scale, self.threshold.value, self.scale_out)
        return sae if self.whitening is None else fold_coordinates(sae, self.whitening.coordinates)

    def with_unit_rows(self, sae: SparseAutoencoder) -> SparseAutoencoder:
        """What `folded` gave, with unit decoder rows. A TopK keeps what rows it has: with others it
        would choose other latents."""
        if sae.architecture == "topk" or not self.has_other_rows:
            return sae
        return fold_decoder_norms(sae)

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
        self.l0 = result.active / tokens
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
        if self.target is not None:
            tensors["target_mean"] = self.target.mean_O
        if self.whitening is not None:
            tensors["whitening_basis"] = self.whitening.basis_DC
            tensors["whitening_variance"] = self.whitening.variance_C
        if self.sae.row_lengths_F is not None:
            tensors["row_lengths"] = self.sae.row_lengths_F
        if torch.cuda.is_available():
            for number, state in enumerate(torch.cuda.get_rng_state_all()):
                tensors[f"rng_cuda_{number}"] = state
        values = {
            "tokens": self.tokens,
            "seconds": self.seconds,
            "learning_rate": self.schedule.rate_at(self.step),
            "k": self.sae.k,
            "scale": self.scale,
            "scale_out": self.scale_out,
            "variance": self.variance,
            "threshold": self.threshold.state(),
            "sparsity": self.sparsity.state(),
            "loss": self.loss_average,
            "l0": self.l0,
            "accepted": self.accepted,
            "bad_in_a_row": self.bad_in_a_row,
            "micro_batch": self.micro.rows,
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
    check_origin(checkpoint, origin or {}, "this training was started with")
    mean_D, mean_O = checkpoint.state["input_mean"], checkpoint.state.get("target_mean")
    target = None
    if mean_O is not None:
        target = TargetStatistics(mean_O, values["scale_out"], values["variance"])
    sae = sae_parameters(checkpoint, stored)
    scale, variance = values["scale"], values["variance"]
    whitening = stored_whitening(checkpoint)
    run = RunState(stored, mean_D, scale, variance, device, sae, target, whitening)
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
    run.l0 = values.get("l0")
    run.accepted = int(values["accepted"])
    run.bad_in_a_row = int(values["bad_in_a_row"])
    run.micro.rows = int(values.get("micro_batch", 0))
    restore_random_states(checkpoint)
    return run


def check_origin(checkpoint: Checkpoint, origin: Mapping[str, Any], whose: str) -> None:
    """Raise `Mismatch` naming the first part of `origin` that is not the checkpoint's.

    Weights that the checkpoint does not tell of pass: older ones did not.
    """
    stored = checkpoint.values["origin"]
    for key, value in origin.items():
        if key == WEIGHTS:
            if what := changed(stored.get(key, {}), value):
                raise Mismatch(f"The model differs in its {what} from the one {whose}.")
        elif stored.get(key) != value:
            raise Mismatch(f"The {key} differs from the one {whose}.")


def stored_whitening(checkpoint: Checkpoint) -> Whitening | None:
    """The whitening of a checkpoint's run, if it has one."""
    state = checkpoint.state
    if "whitening_basis" not in state:
        return None
    return Whitening(state["input_mean"], state["whitening_basis"], state["whitening_variance"])


def sae_parameters(checkpoint: Checkpoint, config: TrainConfig) -> TrainableSae:
    """The trainable SAE of a checkpoint, on the CPU; raises `Mismatch` for foreign shapes."""
    mean_D = checkpoint.state["input_mean"]
    sae = _new_sae(config, mean_D.numel(), checkpoint.state.get("target_mean", mean_D).numel())
    for name, parameter in sae.parameters.items():
        stored = checkpoint.model.get(name)
        if stored is None or stored.shape != parameter.shape:
            raise Mismatch(f"The checkpoint's {name} does not fit its settings.")
        parameter.copy_(stored)
    sae.row_lengths_F = checkpoint.state.get("row_lengths")
    return sae


def _units(config: TrainConfig, scale: float, variance: float) -> tuple[float, float]:
    """s and V of what is trained on: without input normalisation s is 1 and V that of x."""
    if config.input_norm == "none":
        return 1.0, float(variance) / float(scale) ** 2
    return float(scale), float(variance)


def _new_sae(config: TrainConfig, d_in: int, d_out: int) -> TrainableSae:
    sae = new_trainable(
        config.architecture,
        d_in,
        config.width,
        config.k,
        seed=config.seed,
        d_out=d_out,
        encoder=config.encoder,
    )
    sae.configure(config)
    return sae
