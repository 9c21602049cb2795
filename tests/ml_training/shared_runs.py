"""A process of the trainings that test_ranks compares; run by it, alone or as one of two."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mistudio.core.control import JobControl, Request
from mistudio.core.events import RecordingReporter, Reporter, SilentReporter
from mistudio.core.launch import launch_of
from mistudio.core.training_configs import TrainConfig
from mistudio.ml.collective import SINGLE, Collective, ProcessGroup
from mistudio.ml.training import learner as learning
from mistudio.ml.training.checkpoint import newest_checkpoint
from mistudio.ml.training.learner import Learner, LearnerOptions
from mistudio.ml.training.loop import train_together
from mistudio.ml.training.ranks import SharedControl
from tests.helpers.activations import FakeStream, statistics_of

D, BATCH, STEPS, PAUSED_AT = 16, 65, 40, 23
SPOILT_AT = 30  # a batch whose loss is a spike
BASE = TrainConfig(
    model="m",
    dataset="d",
    width=64,
    k=4,
    aux_k=8,
    dead_window=4 * BATCH,
    learning_rate=3e-3,
    tokens=BATCH * STEPS,
    batch=BATCH,
    target_l0=4.0,
)
CONFIGS: dict[str, TrainConfig] = {
    "topk": replace(BASE, architecture="topk"),
    "batch_topk": replace(BASE, architecture="batch_topk"),
    "matryoshka_batch_topk": replace(BASE, architecture="matryoshka_batch_topk"),
    "standard": replace(BASE, architecture="standard", ghost=True),
    "gated": replace(BASE, architecture="gated"),
    "jumprelu": replace(BASE, architecture="jumprelu"),
}


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


def run(
    config: TrainConfig,
    folder: Path,
    collective: Collective,
    *,
    pause_at: int = -1,
    resume: bool = False,
) -> tuple[list[Mapping[str, Any]], dict[str, torch.Tensor]]:
    """The rows of a training, one a step, and its last parameters."""
    recorded = RecordingReporter()
    report: Reporter = SilentReporter() if collective.rank else recorded
    asked = PausedAt(pause_at) if collective.rank == 0 else JobControl()
    control = SharedControl(asked, collective) if collective.size > 1 else asked
    begun = newest_checkpoint(folder) if resume else None
    learner = Learner(
        config,
        FakeStream(BATCH, D, {SPOILT_AT: 1e3}),
        statistics_of(D),
        folder,
        report,
        control,
        torch.device("cpu"),
        LearnerOptions(resume_from=begun, collective=collective),
    )

    def failed(_number: int, error: Exception) -> None:
        raise error

    train_together([learner], control, lambda _number, _result: None, failed)
    rows = [event.values for event in recorded.events if event.kind == "metric"]
    return rows, dict(learner.run.sae.parameters)


def main(target: str) -> None:
    """Every architecture whole, then paused and resumed; rank 0 keeps what it saw."""
    learning.REPORT_EVERY = 1
    torch.set_num_threads(1)
    launch = launch_of()
    collective = ProcessGroup(launch) if launch.is_shared else SINGLE
    folder, found = Path(target), {}
    for name, config in CONFIGS.items():
        rows, parameters = run(config, folder / f"{name}-{launch.size}", collective)
        found[name] = {"rows": [dict(row) for row in rows], "parameters": parameters}
    if launch.is_shared:
        place = folder / "stopped"
        run(CONFIGS["batch_topk"], place, collective, pause_at=PAUSED_AT)
    torch.save(found, folder / f"found-{launch.size}-{launch.rank}.pt")
    collective.close()


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())
    main(sys.argv[1])
