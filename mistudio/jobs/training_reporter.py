"""What a training leaves in the database while it runs."""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import psutil

from mistudio.core.errors import DiskFull
from mistudio.core.events import Reporter
from mistudio.core.ids import now
from mistudio.jobs import checkpoints
from mistudio.jobs.runner import Studio
from mistudio.store import trainings
from mistudio.store.connection import Db, durable
from mistudio.store.records import TrainingRow
from mistudio.store.tables import TRAININGS
from mistudio.system.gpu import GpuReader

log = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def _gpu() -> GpuReader:
    """The reader of this process, opened once."""
    reader = GpuReader()
    reader.open()
    return reader


class TrainingReporter:
    """Keeps a run's metric rows, checkpoint rows and latest figures, written about once a second.

    Used from the job's thread only.
    """

    def __init__(self, inner: Reporter, studio: Studio, training: TrainingRow) -> None:
        self._inner = inner
        self._studio = studio
        self._training = training
        self._rows: list[Mapping[str, float | int | str | None]] = []
        self._written_at = time.monotonic()
        self._last_step, self._seconds = trainings.last_metric(studio.db(), training.id)
        self._looked_at = float("-inf")
        self._gpu_load: float | None = None
        self._log = studio.paths.run(training.id) / "log.jsonl"
        self._waits = False  # whether it was told that rows find no room

    @property
    def _db(self) -> Db:
        return self._studio.db()

    def progress(
        self, fraction: float, phase: str, *, rate: str = "", eta_s: float | None = None
    ) -> None:
        self._inner.progress(fraction, phase, rate=rate, eta_s=eta_s)
        if time.monotonic() - self._written_at >= 1.0:
            self.flush(progress=100.0 * fraction)

    def metric(self, name: str, values: Mapping[str, float | int | str | None]) -> None:
        if name == "training":
            values = {
                **values,
                "train_seconds": self._clock(values),
                "gpu_percent": self._gpu_percent(),
                "memory_bytes": psutil.Process().memory_info().rss,
            }
            self._rows.append(values)
        elif name == "held_out":  # of the step whose row was the last
            values = {**values, "train_seconds": self._seconds}
            self._rows.append(values)
        self._inner.metric(name, {"training_id": self._training.id, **values})

    def _gpu_percent(self) -> float | None:
        """How busy the GPU is, looked at once a second; None without one."""
        if time.monotonic() - self._looked_at >= 1.0:
            self._looked_at = time.monotonic()
            sample = _gpu().take()
            self._gpu_load = sample.load_percent if sample else None
        return self._gpu_load

    def _clock(self, values: Mapping[str, float | int | str | None]) -> float:
        """Seconds of training so far; those of steps that are done again count once."""
        step = int(values["step"] or 0)
        if step > self._last_step:
            self._last_step = step
            self._seconds += float(values.get("seconds") or 0.0)
        return self._seconds

    def note(self, sentence: str, *, level: str = "info") -> None:
        self._inner.note(sentence, level=level)
        self.keep(sentence, level=level)

    def keep(self, sentence: str, *, level: str = "info") -> None:
        """A line for the training's own log only: the job tells it for several at once."""
        line = {"time": now(), "level": level, "text": sentence}
        try:
            with self._log.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")
        except OSError:
            log.warning("could not write %s", self._log, exc_info=True)

    def partial(self, name: str, value: object) -> None:
        self._inner.partial(name, value)

    def flush(self, **also: Any) -> None:
        """Write what has gathered; what finds no room is kept and written later."""
        try:
            self.write(**also)
        except (DiskFull, sqlite3.OperationalError) as error:
            log.warning("metric rows wait to be written", exc_info=True)
            if not self._waits:
                self._waits = True
                self.note(f"Metrics cannot be written now and wait: {error}", level="warning")

    def write_durably(self) -> None:
        """As `write`, for good: not even a power cut leaves a checkpoint ahead of its rows."""
        with durable(self._db):
            self.write(updated_at=now())  # something, so that rows of earlier writes are safe too

    def write(self, **also: Any) -> None:
        """Write what has gathered; raises `DiskFull`, and nothing is lost then."""
        self._written_at = time.monotonic()
        try:
            self._write(also)
        except sqlite3.OperationalError as error:
            if "full" not in str(error):
                raise
            raise DiskFull(
                "The disk is full: could not write the metrics. Free some space and retry.",
                details=str(error),
            ) from error
        self._waits = False

    def _write(self, also: dict[str, Any]) -> None:
        if self._rows:
            trainings.add_metrics(self._db, self._training, self._rows)
            last = next((row for row in reversed(self._rows) if "loss" in row), None)
            self._rows = []
            if last is not None:
                also.update(
                    status="training",
                    current_step=last["step"],
                    tokens_seen=last["tokens"],
                    latest_loss=last["loss"],
                    latest_l0=last["l0"],
                    latest_dead=last["dead"],
                    latest_ev=last["explained_variance"],
                )
            self.mirror_checkpoints()
        if also:
            TRAININGS.update(self._db, self._training.id, **also)

    def mirror_checkpoints(self) -> None:
        """Make the checkpoint rows of the run say what is on the disk."""
        checkpoints.mirror(self._studio, self._training.id)
