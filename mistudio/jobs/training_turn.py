"""One training in one turn of a job: how it begins, where it goes on from, how it fails."""

from __future__ import annotations

import logging
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistudio.core.config import from_dict
from mistudio.core.errors import StudioError
from mistudio.core.ids import now
from mistudio.core.training_configs import TrainConfig
from mistudio.jobs import lookup
from mistudio.jobs.context import JobContext, StageReporter
from mistudio.jobs.training_reporter import TrainingReporter
from mistudio.store.records import SaeRow, TrainingRow
from mistudio.store.tables import TRAININGS

if TYPE_CHECKING:
    from mistudio.ml.training.loop import TrainResult

log = logging.getLogger(__name__)

TRAINED = 0.93  # of a training's progress is reached before the evaluation


@dataclass
class Run:
    """One training of this turn."""

    row: TrainingRow
    config: TrainConfig
    folder: Path
    report: TrainingReporter
    result: TrainResult | None = None
    sae: SaeRow | None = None
    ended: bool = False
    """whether its row holds the last state of this turn"""


def begin(ctx: JobContext, row: TrainingRow, progress: Any) -> Run:
    """Tell the row that its training begins, or goes on."""
    config = from_dict(TrainConfig, row.config)
    folder = ctx.paths.run(row.id)
    folder.mkdir(parents=True, exist_ok=True)
    TRAININGS.update(
        ctx.db,
        row.id,
        status="initializing",
        error_code=None,
        error_message=None,
        started_at=row.started_at or now(),
    )
    sae = lookup.sae(ctx.studio, row.sae_id) if row.sae_id else None
    report = TrainingReporter(StageReporter(progress, 0.0, TRAINED), ctx.studio, row)
    return Run(row, config, folder, report, sae=sae)


def checkpoint_of(run: Run) -> Path | None:
    """The newest whole checkpoint of a run, if it has one."""
    from mistudio.ml.training.checkpoint import newest_checkpoint

    notes: list[str] = []
    found = newest_checkpoint(run.folder, notes)
    for note in notes:
        run.report.note(note, level="warning")
    if found is not None:
        run.report.note(f"Goes on from {found.name}.")
    return found


def fail(ctx: JobContext, run: Run, failure: StudioError) -> None:
    """Tell the row what its training failed of."""
    run.report.flush()
    run.ended = True
    try:
        TRAININGS.update(
            ctx.db,
            run.row.id,
            status="failed",
            progress=None,
            error_code=failure.code,
            error_message=failure.sentence,
            ended_at=now(),
        )
    except sqlite3.OperationalError:  # a full disk: the next start finds it interrupted
        log.warning("the end of %s was not written", run.row.id, exc_info=True)
