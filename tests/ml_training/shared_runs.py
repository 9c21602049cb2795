"""The trainings that test_ranks compares; started by it as one of two processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mistudio.core.control import JobControl, Request
from mistudio.core.errors import StudioError
from mistudio.core.events import RecordingReporter
from mistudio.core.launch import launch_of
from mistudio.core.training_configs import TrainConfig
from mistudio.ml.collective import SINGLE, Collective, ProcessGroup
from mistudio.ml.evaluation.held_out import HeldBatch
from mistudio.ml.training.learner import Learner, LearnerOptions
from mistudio.ml.training.loop import train_together
from mistudio.ml.training.ranks import SharedControl
from tests.helpers.activations import FakeStream, batch_at, statistics_of

D, BATCH, STEPS, PAUSED_AT = 16, 65, 30, 13  # the halves of a batch differ
SPOILT_AT = 24  # a batch whose loss is a spike
BASE = TrainConfig(
    model="m",
    dataset="d",
    width=256,
    k=3,
    aux_k=8,
    dead_window=2 * BATCH,
    learning_rate=3e-3,
    tokens=BATCH * STEPS,
    batch=BATCH,
    target_l0=3.0,
    metrics_every=1,
    eval_every=10,
)
CONFIGS: dict[str, TrainConfig] = {
    "topk": replace(BASE, architecture="topk"),
    "batch_topk": replace(BASE, architecture="batch_topk", aux_k=200),
    "matryoshka_batch_topk": replace(BASE, architecture="matryoshka_batch_topk"),
    "standard": replace(BASE, architecture="standard", ghost=True),
    "gated": replace(BASE, architecture="gated"),
    "jumprelu": replace(BASE, architecture="jumprelu"),
}


class Ran:
    """What a process saw of a training: rows, one a step, notes, the last weights and counters."""

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        collective: Collective = SINGLE,
        control: JobControl | None = None,
        resume_from: Path | None = None,
    ) -> None:
        report, asked = RecordingReporter(), control or JobControl()
        shared = SharedControl(asked, collective) if collective.size > 1 else asked
        stream = FakeStream(BATCH, D, {SPOILT_AT: 1e3})
        options = LearnerOptions(
            resume_from=resume_from, collective=collective, held_out=self._held_out
        )
        learner = Learner(
            config, stream, statistics_of(D), folder, report, shared, torch.device("cpu"), options
        )
        train_together([learner], shared, lambda _number, _result: None, _raise)
        told = [dict(e.values) for e in report.events if e.kind == "metric"]
        self.rows: list[Mapping[str, Any]] = [row for row in told if row["name"] == "training"]
        self.looks = [row for row in told if row["name"] == "held_out"]
        self.notes = [str(e.values["sentence"]) for e in report.events if e.kind == "note"]
        self.parameters = {**learner.run.sae.parameters, **learner.run.tracker.state()}

    def _held_out(self) -> Iterator[HeldBatch]:
        x_TD = batch_at(-70, batch=200, d=D)
        yield HeldBatch(x_TD, x_TD, np.arange(200), np.arange(200) // 20)


class PausedAt(JobControl):
    """Asked to pause once so many steps were made."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self._left = step

    def requested(self) -> Request:
        if self._left == 0:
            self.pause()
        self._left -= 1
        return super().requested()


def _raise(_number: int, error: StudioError) -> None:
    raise error


def compare(folder: Path, collective: Collective) -> None:
    """Every architecture whole, and one paused on request of rank 0."""
    found = {}
    for name, config in CONFIGS.items():
        ran = Ran(config, folder / f"{name}-{collective.rank}", collective)
        found[name] = (ran.rows, ran.notes, ran.parameters, ran.looks)
    control = PausedAt(PAUSED_AT) if collective.rank == 0 else JobControl()
    Ran(CONFIGS["batch_topk"], folder / f"paused-{collective.rank}", collective, control)
    torch.save(found, folder / f"found-{collective.rank}.pt")
    collective.close()


def lose(folder: Path, collective: Collective) -> None:
    """One process ends without a word; the other prints what it is told."""
    if collective.rank == 1:
        os._exit(9)
    try:
        Ran(BASE, folder, collective)
    except StudioError as error:
        sys.stdout.write(f"{error.code}: {error.sentence}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    what = {"compare": compare, "lose": lose}[sys.argv[1]]
    what(Path(sys.argv[2]), ProcessGroup(launch_of()))
