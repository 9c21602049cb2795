"""Where a run may begin that is no fresh one: another run's checkpoint, or an SAE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from mistudio.core.config import from_dict, settings_of
from mistudio.core.errors import InvalidInput, Mismatch
from mistudio.core.training_configs import TrainConfig
from mistudio.core.training_rules import FIXED_IN_A_CONTINUATION, is_whitened
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.sae.fold import UNIT_TOLERANCE, fold_coordinates, fold_decoder_norms
from mistudio.ml.sae.registry import new_trainable
from mistudio.ml.sae.trainable import EPS, TrainableSae
from mistudio.ml.training.checkpoint import Checkpoint
from mistudio.ml.training.random_states import restore_random_states
from mistudio.ml.training.run_state import (
    RunState,
    TargetStatistics,
    check_origin,
    sae_parameters,
    stored_whitening,
)

if TYPE_CHECKING:
    from mistudio.ml.training.loop import InputStatistics

# what an SAE computes -> what can be trained further without changing what it computes, but for
# the number of active latents
_FITTING = {
    "standard": ("standard", "gated", "jumprelu"),
    "topk": ("topk", "batch_topk"),
    "groupmax": (),
    "matching_pursuit": (),
    "temporal": (),
    "jumprelu": ("jumprelu", "gated", "batch_topk", "matryoshka_batch_topk"),
}

WHITENED_TOLERANCE = 1e-3  # relative


def extend_run(
    checkpoint: Checkpoint,
    config: TrainConfig,
    device: torch.device,
    origin: Mapping[str, Any] | None = None,
) -> RunState:
    """A run that goes on from another one's checkpoint under new settings.

    Weights, moments, counters, averages, random states and the step number come from the
    checkpoint, the schedule from `config`, whose `tokens` count from the first run's beginning.
    The stream is to be moved to `checkpoint.values["data"]`. With the settings of the first run
    it goes on as that one would have. Raises `Mismatch` where a setting differs that must not, or
    `origin` does; `InvalidInput` if there is nothing left to do.
    """
    values = checkpoint.values
    stored = from_dict(TrainConfig, values["config"])
    check_continuation(stored, config)
    check_origin(checkpoint, origin or {}, "of the run that is continued")
    sae = sae_parameters(checkpoint, config)
    mean_D, mean_O = checkpoint.state["input_mean"], checkpoint.state.get("target_mean")
    target = None
    if mean_O is not None:
        target = TargetStatistics(mean_O, values["scale_out"], values["variance"])
    scale, variance = values["scale"], values["variance"]
    whitening = stored_whitening(checkpoint)
    run = RunState(config, mean_D, scale, variance, device, sae, target, whitening)
    if run.schedule.steps <= checkpoint.step:
        done = checkpoint.step * config.batch
        raise InvalidInput(
            f"This checkpoint has seen {done:,} tokens already; the length must be more."
        )
    run.optimizer.restore(checkpoint.optimizer)
    run.tracker.restore(checkpoint.state)
    run.threshold.restore(values["threshold"])
    if "sparsity" in values:  # not in checkpoints of the first version
        if (stored.sparsity, stored.jumprelu_penalty) == (config.sparsity, config.jumprelu_penalty):
            run.sparsity.restore(values["sparsity"])
        run.rates.restore(checkpoint.state)
    run.step = checkpoint.step
    run.sae.k = run.schedule.k_at(run.step)
    run.loss_average = float(values["loss"])
    run.l0 = values.get("l0")
    run.accepted = int(values["accepted"])
    if int(values.get("micro_batch", 0)) != stored.micro_batch:  # it ran out of memory
        run.micro.limit(int(values.get("micro_batch", 0)))
    restore_random_states(checkpoint)
    return run


def check_continuation(stored: TrainConfig, config: TrainConfig) -> None:
    """Raise `Mismatch` naming the first setting that a continued run cannot change."""
    labels = {setting.name: setting.option.label for setting in settings_of(TrainConfig)}
    for name in FIXED_IN_A_CONTINUATION:
        old, new = getattr(stored, name), getattr(config, name)
        if old != new:
            raise Mismatch(
                f"{labels[name]} cannot change in a continued run: it was {old}, now {new}."
            )


def run_from_sae(
    sae: SparseAutoencoder,
    config: TrainConfig,
    statistics: InputStatistics,
    device: torch.device,
    target: TargetStatistics | None = None,
) -> RunState:
    """A fresh run whose weights are those of an SAE that reads unscaled activations.

    At step 0 it computes what `sae` does: decoder rows become unit, those of a TopK are held at the
    lengths they have, biases and thresholds are multiplied by s, and a b_dec that was not
    subtracted from the input moves into the encoder's bias. With whitening the SAE is first brought
    to whitened coordinates. A transcoder needs the statistics of its `target`. Raises `Mismatch`
    for other widths, `InvalidInput` for an architecture that `config` cannot train on from there.
    """
    mean_D = torch.as_tensor(statistics.mean_D)
    check_fits(sae, config, mean_D.numel(), None if target is None else target.mean_O.numel())
    whitening = statistics.whitening if is_whitened(config) else None
    if whitening is not None:
        sae = fold_coordinates(sae, whitening.coordinates.inverse)
    lengths_F = _other_lengths(sae)
    if lengths_F is not None and sae.architecture != "topk":
        sae, lengths_F = fold_decoder_norms(sae), None
    _check_threshold(sae, config)
    trainable = new_trainable(
        config.architecture,
        sae.d_in,
        config.width,
        config.k,
        seed=config.seed,
        d_out=sae.d_out,
        encoder=config.encoder,
    )
    trainable.configure(config)
    trainable.row_lengths_F = lengths_F
    scale, variance = statistics.scale, statistics.variance
    run = RunState(config, mean_D, scale, variance, device, trainable, target, whitening)
    _take_weights(run.sae, sae, run.scale, run.scale_out)
    if trainable.needs_threshold and sae.threshold_F is not None:
        value = float(sae.threshold_F[0]) * run.scale_out
        run.threshold.restore({"value": value, "averaging": 0.0})
    return run


def check_fits(
    sae: SparseAutoencoder, config: TrainConfig, d_in: int, d_out: int | None = None
) -> None:
    """Raise unless training with `config` on activations of width `d_in`, and a transcoder's
    target of `d_out`, can begin at `sae`."""
    if sae.encoder != config.encoder:
        raise InvalidInput(
            f"What is to be trained is of type {config.encoder}, and this is of type {sae.encoder}."
        )
    if sae.token_norm:
        raise InvalidInput(
            "This SAE scales each token by itself, which no training here does; it cannot be "
            "trained on."
        )
    if sae.d_in != d_in:
        raise Mismatch(f"This SAE expects width {sae.d_in:,}, the activations have {d_in:,}.")
    if d_out is not None and sae.d_out != d_out:
        raise Mismatch(f"This transcoder gives width {sae.d_out:,}, its target has {d_out:,}.")
    if sae.n_latents != config.width:
        raise Mismatch(
            f"This SAE has {sae.n_latents:,} latents; set Latents to that number to train it on."
        )
    wanted = config.architecture
    if wanted not in _FITTING[sae.architecture]:
        fitting = ", ".join(_FITTING[sae.architecture])
        if not fitting:
            raise InvalidInput(f"There is no training here that a {sae.architecture} SAE fits.")
        raise InvalidInput(
            f"A {sae.architecture} SAE cannot be trained on as {wanted}; it can as {fitting}."
        )
    trained_as = sae.metadata.get("training_architecture")
    if wanted == "matryoshka_batch_topk" and trained_as != wanted:
        raise InvalidInput(
            "The latents of this SAE are not nested; it cannot be trained on as a Matryoshka SAE."
        )


def _take_weights(
    trainable: TrainableSae, sae: SparseAutoencoder, scale: float, scale_out: float
) -> None:
    """Parameters in units of s·x and s_out·y from an SAE in units of x and y whose rows have the
    lengths that are held, by way of float64; of no transcoder both scales are the same."""
    b_enc_F = sae.b_enc_F.double()
    if sae.apply_b_dec_to_input == sae.is_transcoder:  # an SAE subtracts it, a transcoder does not
        shift_F = sae.b_dec_O.double() @ sae.W_enc_DF.double()
        b_enc_F = b_enc_F - shift_F if sae.is_transcoder else b_enc_F + shift_F
    b_enc_F = b_enc_F * scale_out
    threshold_F = torch.zeros_like(b_enc_F)
    if sae.threshold_F is not None:
        threshold_F = sae.threshold_F.double().clamp(min=0) * scale_out
    ratio = scale_out / scale
    skip_OD = torch.zeros(0) if sae.W_skip_OD is None else sae.W_skip_OD.double() * ratio
    values = {
        "W_enc_FD": sae.W_enc_DF.T.double() * ratio,
        "W_skip_OD": skip_OD,
        "W_dec_FO": sae.W_dec_FO,
        "b_dec_O": sae.b_dec_O.double() * scale_out,
        "b_enc_F": b_enc_F,
        "threshold_F": threshold_F,
        # gated: both paths read one matrix; the gate opens where h exceeds the threshold
        "b_mag_F": b_enc_F,
        "b_gate_F": b_enc_F - threshold_F,
        "r_mag_F": torch.zeros_like(b_enc_F),
    }
    for name, parameter in trainable.parameters.items():
        parameter.copy_(values[name])
    trainable.normalise_decoder()


def _other_lengths(sae: SparseAutoencoder) -> torch.Tensor | None:
    """The lengths of decoder rows, None if all are unit. A row of zeros counts as one of length 1:
    that is what it gets with its first step."""
    norms_F = torch.linalg.vector_norm(sae.W_dec_FO.double(), dim=1)
    if bool(((norms_F - 1).abs() <= UNIT_TOLERANCE).all()):
        return None
    return torch.where(norms_F > 0, norms_F.clamp_min(EPS), 1.0).to(sae.W_dec_FO.dtype)


def _check_threshold(sae: SparseAutoencoder, config: TrainConfig) -> None:
    """Raise `InvalidInput` if an SAE, in the units of its training, needs more than one θ."""
    if sae.threshold_F is None or not config.architecture.endswith("batch_topk"):
        return
    off_F = (sae.threshold_F - sae.threshold_F[0]).abs()
    # those of one whitening differ in rounding after they were folded and brought back
    allowed = WHITENED_TOLERANCE * float(sae.threshold_F[0]) if is_whitened(config) else 0.0
    if bool((off_F > allowed).any()):
        raise InvalidInput(
            f"This SAE has a threshold for each latent; {config.architecture} has one for all. "
            "Train it on as jumprelu or gated."
        )
