"""One sparse autoencoder in training: takes batches, saves, tells, and ends as a usable SAE."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mistudio.core.control import JobControl, Request
from mistudio.core.errors import Cancelled, DiskFull, InvalidInput, TrainingBroke
from mistudio.core.events import Reporter
from mistudio.core.training_configs import TrainConfig
from mistudio.core.training_rules import is_whitened
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.training.alarms import Alarms
from mistudio.ml.training.checkpoint import (
    checkpoint_path,
    load_checkpoint,
    prune,
    save_checkpoint,
)
from mistudio.ml.training.finished import described, folded
from mistudio.ml.training.first_directions import first_directions
from mistudio.ml.training.follower import Follower
from mistudio.ml.training.keeping import AutoSave
from mistudio.ml.training.learner_terms import InputStatistics, LearnerOptions, Stream, TrainResult
from mistudio.ml.training.metrics import MetricWindow, loss_of
from mistudio.ml.training.random_states import seed_random_states
from mistudio.ml.training.run_state import RunState, restore_run
from mistudio.ml.training.threshold import calibrate_threshold

BAD_LIMIT = 3  # batches in a row that cannot be used
CALIBRATION_TOKENS = 131_072
QUICK_CALIBRATION_TOKENS = 16_384  # after a stop, when the user waits
FIGURES, CHECKPOINT = "figures", "checkpoint"  # what may be due after a step


class Learner:
    """The training of one SAE, step by step."""

    def __init__(
        self,
        config: TrainConfig,
        stream: Stream,
        statistics: InputStatistics,
        folder: Path,
        report: Reporter,
        control: JobControl,
        device: torch.device,
        options: LearnerOptions,
    ) -> None:
        """`folder` receives checkpoints. Raises `Mismatch` for a checkpoint of another training."""
        self.stream, self.report = stream, report
        self._folder, self._control, self._options = folder, control, options
        self._saved_path = options.resume_from
        self._window, self._skipped = MetricWindow(), 0
        self._owed: set[str] = set()  # what is due after the last step and not done
        self._held_out: Mapping[str, Any] | None = None  # figures after the last step
        if options.resume_from is not None:
            saved = load_checkpoint(options.resume_from)
            self.run = restore_run(saved, device, config, options.origin)
            stream.restore(dict(saved.values["data"]))
            self._owed = set(saved.values.get("owed", ()))
            self._held_out = saved.values.get("held_out")
            if "window" in saved.values:  # not in checkpoints of the first version
                self._window.restore(saved.values["window"], device)
        elif options.start is not None:
            self.run = options.start
        else:
            seed_random_states(config.seed)
            self.run = RunState(
                config,
                torch.as_tensor(statistics.mean_D),
                statistics.scale,
                statistics.variance,
                device,
                target=options.target,
                whitening=statistics.whitening if is_whitened(config) else None,
                subspace_DR=first_directions(config, statistics.whitening, report),
            )
        collective = options.collective
        if config.batch < collective.size:
            raise InvalidInput(
                f"{collective.size} processes cannot share a batch of {config.batch:,} tokens."
            )
        self.run.sae.collective = collective
        schedule = self.run.schedule
        # no weight is led to the L0 without an aim: it settles later
        settled = schedule.steps // (10 if config.aimed_l0 else 5)
        self._alarms = Alarms(schedule.steps, schedule.dead_window, config.aimed_l0, settled)
        self._alarms.resumed_at(self.run.step)
        rows = None if collective.rank else options.held_out  # one of several processes measures
        self._follower = Follower(rows, report, control if collective.size == 1 else None)
        self._saves = AutoSave(folder, config.checkpoint_every)
        self._batches = iter(stream)
        self._began = time.monotonic() - self.run.seconds
        self._saved_step = -1

    @property
    def done(self) -> bool:
        """Whether every step has been made."""
        return self.run.step >= self.run.schedule.steps

    def step(self) -> None:
        """One batch. Raises `Cancelled` if the stream gave up, `TrainingBroke` after three
        unusable batches in a row, `InvalidInput` if there is nothing to learn from.

        Makes up for what is owed of the step before; none is made while that is interrupted.
        """
        run, schedule = self.run, self.run.schedule
        self._settle()
        if self._owed:
            return
        batch = next(self._batches, None)
        if batch is None:
            raise InvalidInput("The dataset gives no activations to train on.")
        x_BD, target_BO = (batch, None) if isinstance(batch, torch.Tensor) else batch
        x_BD = run.normalised(x_BD.to(run.sae.device))
        if target_BO is not None:
            target_BO = target_BO.to(run.sae.device) * run.scale_out
        run.sae.k = schedule.k_at(run.step)
        rate = schedule.rate_at(run.step)
        rows = run.micro.rows
        result = run.micro.gradients(run.sae, x_BD, run.variance, run.extra(), target_BO)
        if run.micro.rows != rows:
            self.report.note(
                f"A step ran out of memory; batches go on in pieces of {run.micro.rows:,} tokens.",
                level="warning",
            )
        loss = float(loss_of(result, schedule.aux_weight))
        norm = float("nan")
        if run.acceptable(loss):
            norm = float(run.optimizer.step(rate))
        if norm == norm and norm != float("inf"):
            run.sae.normalise_decoder()
            run.take_in(result, loss, x_BD.shape[0])
            self._window.add(result, loss, norm, x_BD.shape[0])
        else:
            self._skipped += 1
            self._skip(loss)
        run.step += 1
        if run.step % run.config.metrics_every == 0 or self.done:
            self._tell(rate)
        self._held_out = None
        if self._saves.due(run.step) or self.done:
            self._owed = {FIGURES, CHECKPOINT}
        elif run.config.eval_every and run.step % run.config.eval_every == 0:
            self._owed = {FIGURES}
        self._settle()

    def _settle(self) -> None:
        """Do what is due after a step; a request in between leaves it to whoever goes on."""
        if FIGURES in self._owed:
            try:
                self._held_out = self._follower.measure(self.run)
            except Cancelled:
                return
        save = CHECKPOINT in self._owed
        self._owed = set()
        if save:
            # one that was saved meanwhile has no figures yet
            self.save_if_room(again=self._held_out is not None)

    def save(self) -> Path:
        """Write a checkpoint and let surplus ones go; one of several processes does."""
        if self._options.collective.rank:
            self._saved_path = checkpoint_path(self._folder, self.run.step)
            return self._saved_path
        self.run.seconds = time.monotonic() - self._began
        options = self._options
        if options.before_save is not None:
            options.before_save()
        state = self.run.checkpoint(self.stream.state(), options.origin, options.metadata)
        beside = {"window": self._window.state(), "owed": sorted(self._owed)}
        if self._held_out is not None:
            beside["held_out"] = dict(self._held_out)
        state = replace(state, values={**state.values, **beside})
        self._saved_path = save_checkpoint(self._folder, state)
        self._saved_step = self.run.step
        prune(self._folder)
        return self._saved_path

    def save_if_room(self, *, again: bool = False) -> None:
        """A run whose disk is full goes on: its last checkpoint stays, the next may find room."""
        if self._saved_step == self.run.step and not again:
            return
        try:
            self.save()
        except DiskFull as error:
            self.report.note(
                f"{error.sentence} The training goes on without this checkpoint.", level="warning"
            )

    def end(self, outcome: str) -> TrainResult:
        """Save, and make the SAE unless the run is only paused.

        A pause that comes while the SAE is made is one before the end. Raises `DiskFull` if there
        is no checkpoint that a paused run could go on from.
        """
        if outcome == "cancelled" and self.run.step == 0:
            raise Cancelled
        if outcome == "completed" and self._owed:
            outcome = self._settled_last()
        if outcome != "completed":
            self._save_last(outcome)
        run = self.run
        run.seconds = time.monotonic() - self._began
        sae = None
        metrics: Mapping[str, Any] = {}
        if outcome != "paused" and not self._options.collective.rank:
            sae = self._finish(outcome)
            outcome = "paused" if sae is None else outcome
        if sae is not None:
            sae = sae.with_metadata(**self._options.metadata)
            metrics = self._evaluated(sae, outcome)
        threshold = None
        if sae is not None and sae.threshold_F is not None and run.sae.needs_threshold:
            one = bool((sae.threshold_F == sae.threshold_F[0]).all())
            threshold = float(sae.threshold_F[0] if one else sae.threshold_F.mean())
        return TrainResult(
            outcome=outcome,
            sae=sae,
            step=run.step,
            steps=run.schedule.steps,
            tokens=run.tokens,
            seconds=run.seconds,
            checkpoint=self._saved_path,
            metrics=metrics,
            last=self._window.last,
            threshold=threshold,
            dead=int(run.tracker.dead().numel()),
            skipped=self._skipped,
        )

    def _settled_last(self) -> str:
        """Make up for what is owed of the last step; "paused" if a pause comes in between again."""
        self._settle()
        if self._owed and self._control.requested() not in (Request.STOP, Request.CANCEL):
            return "paused"
        if self._owed:
            self.report.note("The last step was not measured on held-out text.", level="warning")
            self._owed = set()
            self.save_if_room()
        return "completed"

    def _save_last(self, outcome: str) -> None:
        """The checkpoint of a run that is asked to end; without room an earlier one must do."""
        if self._saved_step == self.run.step:
            return
        try:
            self.save()
        except DiskFull as error:
            if outcome == "paused" and self._saved_path is None:
                raise
            what = "The SAE is kept without a checkpoint."
            if outcome == "paused" and self._saved_path is not None:
                what = f"The training will go on from {self._saved_path.name}."
            self.report.note(f"{error.sentence} {what}", level="warning")

    def _skip(self, loss: float) -> None:
        """Note a batch that was not used. Nothing has changed yet, so there is nothing to undo."""
        run = self.run
        run.bad_in_a_row += 1
        what = f"a loss of {loss:.3g}" if loss == loss else "a loss that is not a number"
        self.report.note(
            f"Step {run.step + 1:,} gave {what}; its batch was skipped.", level="warning"
        )
        if run.bad_in_a_row >= BAD_LIMIT:
            raise TrainingBroke(
                f"The loss was unusable {BAD_LIMIT} times in a row at step {run.step + 1:,}. "
                "Lower the learning rate, or go on from the last checkpoint."
            )

    def _tell(self, rate: float) -> None:
        """Publish the last steps and start a new window."""
        run = self.run
        row = self._window.close(
            step=run.step,
            tokens=run.tokens,
            learning_rate=rate,
            k=run.sae.k if run.sae.uses_k else None,
            dead=int(run.tracker.dead().numel()),
            width=run.config.width,
            threshold=_threshold(run),
            aux_weight=run.schedule.aux_weight,
        )
        self.report.metric("training", row)
        for level, sentence in self._alarms.of(row):
            self.report.note(sentence, level=level)
        rate_tokens = row["tokens_per_s"] or 0.0
        left = (run.schedule.steps - run.step) * run.schedule.batch
        self.report.progress(
            run.step / run.schedule.steps,
            f"Training: step {run.step:,} of {run.schedule.steps:,}",
            rate=f"{rate_tokens:,.0f} tokens/s",
            eta_s=left / rate_tokens if rate_tokens else None,
        )

    def _finish(self, outcome: str) -> SparseAutoencoder | None:
        """Fold; give a BatchTopK the threshold at which calibration documents have mean L0 = k.

        None if a pause came in between: whoever goes on does all of this again.
        """
        run, calibration = self.run, self._options.calibration
        if not run.sae.needs_threshold or calibration is None or outcome == "cancelled":
            return folded(run)
        sae = run.folded()
        self.report.progress(run.step / run.schedule.steps, "Finding the threshold")
        whole = outcome == "completed"
        tokens = CALIBRATION_TOKENS if whole else QUICK_CALIBRATION_TOKENS
        control = self._control if whole else None
        try:
            threshold = calibrate_threshold(
                sae.to(run.sae.device), calibration, run.sae.k, tokens, control
            )
        except Cancelled:
            if self._control.requested() not in (Request.STOP, Request.CANCEL):
                return None
            self.report.note(
                "The threshold stays at its average over the training.", level="warning"
            )
            return described(run, sae)
        return described(run, sae.with_threshold(threshold))

    def _evaluated(self, sae: SparseAutoencoder, outcome: str) -> Mapping[str, Any]:
        evaluate = self._options.evaluate
        if evaluate is None or outcome == "cancelled":
            return {}
        try:
            return evaluate(sae)
        except Cancelled:
            self.report.note("The SAE is kept; its evaluation was left out.", level="warning")
            return {}


def _threshold(run: RunState) -> float | None:
    """θ in residual units, or in those of whitened activations; of a JumpReLU its mean; None
    where there is none."""
    own_F = run.sae.parameters.get("threshold_F")
    value = float(own_F.mean()) if own_F is not None else run.threshold.value
    return value / run.scale_out or None
