"""Train one sparse autoencoder: from the first batch to a usable SAE."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from mistudio.core.control import JobControl, Request
from mistudio.core.errors import Cancelled, InvalidInput, TrainingBroke
from mistudio.core.events import Reporter
from mistudio.core.training_configs import TrainConfig
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.training.checkpoint import load_checkpoint, prune, save_checkpoint
from mistudio.ml.training.metrics import MetricWindow, loss_of
from mistudio.ml.training.run_state import RunState, restore_run, seed_random_states
from mistudio.ml.training.threshold import calibrate_threshold

REPORT_EVERY = 10  # steps
BAD_LIMIT = 3  # batches in a row that cannot be used
CALIBRATION_TOKENS = 131_072
QUICK_CALIBRATION_TOKENS = 16_384  # after a stop, when the user waits

Calibration = Callable[[], Iterable[torch.Tensor]]
Evaluation = Callable[[SparseAutoencoder], Mapping[str, Any]]


class Stream(Protocol):
    """Endless batches of activations, x_BD float32 unscaled, whose position can be saved."""

    def __iter__(self) -> Iterator[torch.Tensor]: ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: dict[str, Any]) -> None: ...


class InputStatistics(Protocol):
    """What calibration found: s, the mean x̄ of unscaled tokens [D], V of s·x."""

    @property
    def scale(self) -> float: ...

    @property
    def mean_D(self) -> Any: ...  # array or tensor

    @property
    def variance(self) -> float: ...


@dataclass(frozen=True)
class TrainResult:
    """How a training ended.

    `outcome` is "completed", "stopped", "cancelled" or "paused"; a paused one has no SAE. `sae` is
    folded: it reads unscaled activations. `metrics` is what `evaluate` returned, empty if it did
    not run; `last` the last "training" row; `threshold` a BatchTopK's θ in residual units.
    """

    outcome: str
    sae: SparseAutoencoder | None
    step: int
    steps: int
    tokens: int
    seconds: float
    checkpoint: Path
    metrics: Mapping[str, Any] = field(default_factory=dict)
    last: Mapping[str, Any] = field(default_factory=dict)
    threshold: float | None = None
    dead: int = 0
    skipped: int = 0


def train(
    config: TrainConfig,
    stream: Stream,
    statistics: InputStatistics,
    folder: Path,
    report: Reporter,
    control: JobControl,
    *,
    evaluate: Evaluation | None = None,
    calibration: Calibration | None = None,
    resume_from: Path | None = None,
    origin: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    device: torch.device | None = None,
) -> TrainResult:
    """Run to the end, or until `control` asks otherwise, and return a usable SAE.

    `folder` receives checkpoints. `calibration()` yields unscaled x of calibration documents, for
    the final threshold of a BatchTopK. `origin` holds fingerprints (JSON) that a resume must
    match, `metadata` what the SAE is to carry. The stream may raise `Cancelled` when a request is
    waiting; it is then handled like one between two steps. `resume_from` is a checkpoint to go on
    from: the stream is moved there, and the final weights equal those of an undisturbed run.
    Raises `Cancelled` when cancelled before the first step, `TrainingBroke` after three unusable
    batches in a row, `Mismatch` for a checkpoint of another training.
    """
    device = device or torch.device("cpu")
    origin, metadata = origin or {}, metadata or {}
    if resume_from is None:
        seed_random_states(config.seed)
        mean_D = torch.as_tensor(statistics.mean_D)
        run = RunState(config, mean_D, statistics.scale, statistics.variance, device)
    else:
        saved = load_checkpoint(resume_from)
        run = restore_run(saved, device, config, origin)
        stream.restore(dict(saved.values["data"]))
    schedule, window, skipped = run.schedule, MetricWindow(), 0
    batches, outcome, saved_path = iter(stream), "completed", resume_from
    began = time.monotonic() - run.seconds

    def save() -> Path:
        run.seconds = time.monotonic() - began
        path = save_checkpoint(folder, run.checkpoint(stream.state(), origin, metadata))
        prune(folder)
        return path

    while run.step < schedule.steps:
        outcome = _outcome(control.requested())
        if outcome != "completed":
            break
        try:
            x_BD = next(batches, None)
        except Cancelled:  # a stream may give up while it fills a window
            outcome = _outcome(control.requested())
            if outcome == "completed":
                raise
            break
        if x_BD is None:
            raise InvalidInput("The dataset gives no activations to train on.")
        x_BD = x_BD.to(device) * run.scale
        run.sae.k = schedule.k_at(run.step)
        rate = schedule.rate_at(run.step)
        result = run.sae.gradients(x_BD, run.variance, run.extra())
        loss = float(loss_of(result, schedule.aux_weight))
        norm = float("nan")
        if run.acceptable(loss):
            norm = float(run.optimizer.step(rate))
        if norm == norm and norm != float("inf"):
            run.sae.normalise_decoder()
            run.take_in(result, loss, x_BD.shape[0])
            window.add(result, loss, norm, x_BD.shape[0])
        else:
            skipped += 1
            _skip(run, loss, report)
        run.step += 1

        if run.step % REPORT_EVERY == 0 or run.step == schedule.steps:
            _tell(run, window, rate, report)
        wanted = control.take_save()
        due = config.checkpoint_every and run.step % config.checkpoint_every == 0
        if due or wanted or run.step == schedule.steps:
            saved_path = save()

    if outcome == "cancelled" and run.step == 0:
        raise Cancelled
    if outcome != "completed" or saved_path is None:
        saved_path = save()
    run.seconds = time.monotonic() - began
    sae = metrics = None
    if outcome != "paused":
        sae = _finish(run, calibration, outcome, control, report).with_metadata(**metadata)
        metrics = _evaluated(sae, evaluate if outcome != "cancelled" else None, report)
    return TrainResult(
        outcome=outcome,
        sae=sae,
        step=run.step,
        steps=schedule.steps,
        tokens=run.tokens,
        seconds=run.seconds,
        checkpoint=saved_path,
        metrics=metrics or {},
        last=window.last,
        threshold=float(sae.threshold_F[0])
        if sae is not None and sae.threshold_F is not None and run.sae.needs_threshold
        else None,
        dead=int(run.tracker.dead().numel()),
        skipped=skipped,
    )


def sae_from_checkpoint(path: Path) -> SparseAutoencoder:
    """The folded SAE of a checkpoint, also of a run cut short; BatchTopK by its average θ."""
    saved = load_checkpoint(path)
    run = restore_run(saved, torch.device("cpu"))
    return _folded(run).with_metadata(**saved.values["metadata"], trained_steps=saved.step)


def _outcome(request: Request) -> str:
    """What a request makes of the run; "completed" is: go on."""
    return {
        Request.NONE: "completed",
        Request.PAUSE: "paused",
        Request.STOP: "stopped",
        Request.CANCEL: "cancelled",
    }[request]


def _skip(run: RunState, loss: float, report: Reporter) -> None:
    """Note a batch that was not used. Nothing has changed yet, so there is nothing to undo."""
    run.bad_in_a_row += 1
    what = f"a loss of {loss:.3g}" if loss == loss else "a loss that is not a number"
    report.note(f"Step {run.step + 1:,} gave {what}; its batch was skipped.", level="warning")
    if run.bad_in_a_row >= BAD_LIMIT:
        raise TrainingBroke(
            f"The loss was unusable {BAD_LIMIT} times in a row at step {run.step + 1:,}. "
            "Lower the learning rate, or go on from the last checkpoint."
        )


def _tell(run: RunState, window: MetricWindow, rate: float, report: Reporter) -> None:
    """Publish the last steps and start a new window."""
    row = window.close(
        step=run.step,
        tokens=run.tokens,
        learning_rate=rate,
        k=run.sae.k if run.sae.uses_k else None,
        dead=int(run.tracker.dead().numel()),
        width=run.config.width,
        threshold=_threshold(run),
        aux_weight=run.schedule.aux_weight,
    )
    report.metric("training", row)
    rate_tokens = row["tokens_per_s"] or 0.0
    left = (run.schedule.steps - run.step) * run.schedule.batch
    report.progress(
        run.step / run.schedule.steps,
        f"Training: step {run.step:,} of {run.schedule.steps:,}",
        rate=f"{rate_tokens:,.0f} tokens/s",
        eta_s=left / rate_tokens if rate_tokens else None,
    )


def _threshold(run: RunState) -> float | None:
    """θ in residual units, of a JumpReLU its mean; None where there is none."""
    own_F = run.sae.parameters.get("threshold_F")
    value = float(own_F.mean()) if own_F is not None else run.threshold.value
    return value / run.scale or None


def _finish(
    run: RunState,
    calibration: Calibration | None,
    outcome: str,
    control: JobControl,
    report: Reporter,
) -> SparseAutoencoder:
    """Fold; give a BatchTopK the threshold at which calibration documents have mean L0 = k."""
    sae = _folded(run)
    if not run.sae.needs_threshold or calibration is None or outcome == "cancelled":
        return sae
    report.progress(run.step / run.schedule.steps, "Finding the threshold")
    whole = outcome == "completed"
    tokens = CALIBRATION_TOKENS if whole else QUICK_CALIBRATION_TOKENS
    try:
        threshold = calibrate_threshold(
            sae.to(run.sae.device), calibration, run.sae.k, tokens, control if whole else None
        )
    except Cancelled:
        report.note("The threshold stays at its average over the training.", level="warning")
        return sae
    return sae.with_threshold(threshold)


def _folded(run: RunState) -> SparseAutoencoder:
    sae = run.sae.folded(run.scale, run.threshold.value)
    kept = {"k": run.sae.k} if run.sae.uses_k else {}
    return sae.with_metadata(
        trained_tokens=run.tokens, **kept, input_scale=run.scale, seed=run.config.seed
    )


def _evaluated(
    sae: SparseAutoencoder, evaluate: Evaluation | None, report: Reporter
) -> Mapping[str, Any]:
    if evaluate is None:
        return {}
    try:
        return evaluate(sae)
    except Cancelled:
        report.note("The SAE is kept; its evaluation was left out.", level="warning")
        return {}
