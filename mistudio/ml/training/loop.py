"""Train sparse autoencoders, one or several over the same windows: first batch to usable SAE."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mistudio.core.control import JobControl, Request
from mistudio.core.errors import Cancelled, StudioError
from mistudio.core.events import Reporter
from mistudio.core.training_configs import TrainConfig
from mistudio.ml.evaluation.held_out import HeldRows
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.training.checkpoint import load_checkpoint
from mistudio.ml.training.finished import folded
from mistudio.ml.training.learner import Learner
from mistudio.ml.training.learner_terms import (
    Calibration,
    Evaluation,
    InputStatistics,
    LearnerOptions,
    Stream,
    TrainResult,
    WindowedStream,
)
from mistudio.ml.training.run_state import RunState, TargetStatistics, restore_run

__all__ = ["TrainResult", "sae_from_checkpoint", "train", "train_together"]

TURN_STEPS = 10  # of one SAE, before another of those that are trained together has its turn

OnFailed = Callable[[int, StudioError], None]
OnDone = Callable[[int, TrainResult], None]


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
    held_out: HeldRows | None = None,
    resume_from: Path | None = None,
    start: RunState | None = None,
    target: TargetStatistics | None = None,
    origin: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    device: torch.device | None = None,
) -> TrainResult:
    """Run one training to the end, or until `control` asks otherwise, and return a usable SAE.

    `folder` receives checkpoints; what may be given beside is told by `LearnerOptions`. The stream
    may raise `Cancelled` when a request is waiting; it is then handled like one between two steps.
    Raises `Cancelled` when cancelled before the first step, `TrainingBroke` after three unusable
    batches in a row, `Mismatch` for a checkpoint of another training.
    """
    options = LearnerOptions(
        evaluate, calibration, resume_from, start, target, origin or {}, metadata or {},
        held_out=held_out,
    )  # fmt: skip
    device = device or torch.device("cpu")
    learner = Learner(config, stream, statistics, folder, report, control, device, options)
    results: list[TrainResult] = []

    def raise_it(_number: int, error: StudioError) -> None:
        raise error

    train_together([learner], control, lambda _number, result: results.append(result), raise_it)
    return results[0]


def train_together(
    learners: Sequence[Learner], control: JobControl, on_done: OnDone, on_failed: OnFailed
) -> str:
    """Train several SAEs whose streams share their windows; returns the outcome of the whole.

    All use a window up before the next one is filled, so that each is trained exactly as it would
    be alone. `on_done(i, result)` gets each as soon as it has ended; a request ends all of them.
    `on_failed(i, error)` is told of one that broke; the others go on.
    """
    left = dict(enumerate(learners))

    def end(number: int, outcome: str) -> None:
        learner = left.pop(number)
        try:
            on_done(number, learner.end(outcome))
        except StudioError as error:
            on_failed(number, error)

    for number in [n for n, learner in left.items() if learner.done]:
        end(number, "completed")
    outcome = "completed"
    while left and outcome == "completed":
        wanted = _wanted(left.values()) if len(learners) > 1 else None
        for number, learner in list(left.items()):
            try:
                outcome = _turn(learner, control, wanted, left.values())
            except StudioError as error:
                del left[number]
                on_failed(number, error)
                continue
            if outcome != "completed":
                break
            if learner.done:
                end(number, "completed")
    if outcome == "cancelled" and not any(learner.run.step for learner in learners):
        raise Cancelled
    for number, learner in list(left.items()):
        if outcome != "cancelled" or learner.run.step:
            end(number, outcome)
    return outcome


def _turn(
    learner: Learner, control: JobControl, wanted: tuple[int, int] | None, others: Iterable[Learner]
) -> str:
    """Some steps of one SAE within the window that is wanted; returns what a request makes of it.

    "completed" is: go on.
    """
    for _ in range(TURN_STEPS):
        if wanted is not None and _window_of(learner) != wanted:
            return "completed"
        outcome = _outcome(control.requested())
        if outcome != "completed":
            return outcome
        try:
            learner.step()
        except Cancelled:  # a stream may give up while it fills a window
            outcome = _outcome(control.requested())
            if outcome == "completed":
                raise
            return outcome
        if control.take_save():
            for other in others:
                other.save_if_room()
        if learner.done:
            return "completed"
    return "completed"


def _wanted(learners: Iterable[Learner]) -> tuple[int, int]:
    """The earliest window that a stream needs: those that are ahead wait."""
    return min(_window_of(learner) for learner in learners)


def _window_of(learner: Learner) -> tuple[int, int]:
    """Epoch and window of its next batch, of a stream that shares its windows."""
    stream = learner.stream
    assert isinstance(stream, WindowedStream)
    return stream.wanted


def sae_from_checkpoint(path: Path) -> SparseAutoencoder:
    """The folded SAE of a checkpoint, also of a run cut short; BatchTopK by its average θ."""
    saved = load_checkpoint(path)
    run = restore_run(saved, torch.device("cpu"))
    return folded(run).with_metadata(**saved.values["metadata"], trained_steps=saved.step)


def _outcome(request: Request) -> str:
    """What a request makes of the run; "completed" is: go on."""
    return {
        Request.NONE: "completed",
        Request.PAUSE: "paused",
        Request.STOP: "stopped",
        Request.CANCEL: "cancelled",
    }[request]
