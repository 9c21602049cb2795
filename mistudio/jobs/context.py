"""What a job function gets: the database, the folders, where to report, what was asked of it."""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from mistudio.core.config import Config
from mistudio.core.control import JobControl
from mistudio.core.events import Reporter
from mistudio.core.ids import now
from mistudio.core.paths import Paths
from mistudio.core.redact import without_tokens
from mistudio.store.connection import Db
from mistudio.store.records import JobRow
from mistudio.store.tables import JOBS

if TYPE_CHECKING:
    from mistudio.jobs.runner import Studio

Result = dict[str, Any]
log = logging.getLogger(__name__)


@dataclass
class JobContext:
    """One running job. Job functions touch nothing else of the program."""

    studio: Studio
    job: JobRow
    report: Reporter
    control: JobControl
    held: bool = False
    """set by a job that ended its turn at a safe point instead of finishing (paused training)"""

    @property
    def db(self) -> Db:
        return self.studio.db()

    @property
    def paths(self) -> Paths:
        return self.studio.paths

    def part(self, start: float, end: float) -> JobContext:
        """A context for one stage of this job, whose progress fills `start` to `end` of it."""
        staged = StageReporter(self.report, start, end)
        return JobContext(self.studio, self.job, staged, self.control)


class JobFunction(Protocol):
    """A use case: reads its config, reports, leaves rows and files, returns JSON values."""

    def __call__(self, ctx: JobContext, config: Any) -> Result: ...


class Prepare(Protocol):
    """Checks a config when it is submitted; returns the id of the row the job will fill, if any."""

    def __call__(self, studio: Studio, config: Any) -> str | None: ...


class StageReporter:
    """Passes events on, with progress squeezed into a part of the whole."""

    def __init__(self, inner: Reporter, start: float, end: float) -> None:
        self._inner = inner
        self._start = start
        self._span = end - start

    def progress(
        self, fraction: float, phase: str, *, rate: str = "", eta_s: float | None = None
    ) -> None:
        whole = self._start + self._span * min(max(fraction, 0.0), 1.0)
        self._inner.progress(whole, phase, rate=rate, eta_s=eta_s)

    def metric(self, name: str, values: Mapping[str, float | int | str | None]) -> None:
        self._inner.metric(name, values)

    def note(self, sentence: str, *, level: str = "info") -> None:
        self._inner.note(sentence, level=level)

    def partial(self, name: str, value: object) -> None:
        self._inner.partial(name, value)


class PersistingReporter:
    """Passes events on and keeps them: progress in the job's row, notes in its log file.

    Rows are written at most once a second; used from the job's thread only.
    """

    def __init__(self, inner: Reporter, db: Db, job: JobRow, log_file: Path) -> None:
        self._inner = inner
        self._db = db
        self._job = job
        self._log_file = log_file
        self._written_at = 0.0

    def progress(
        self, fraction: float, phase: str, *, rate: str = "", eta_s: float | None = None
    ) -> None:
        self._inner.progress(fraction, phase, rate=rate, eta_s=eta_s)
        if time.monotonic() - self._written_at >= 1.0:
            self._written_at = time.monotonic()
            # 100 % means finished, and that is the last row's to say.
            percent = min(100.0 * fraction, 99.9)
            try:
                JOBS.update(
                    self._db, self._job.id, progress=percent, phase=phase, rate=rate, eta_s=eta_s
                )
            except sqlite3.OperationalError:
                log.warning("the progress of %s was not written", self._job.id, exc_info=True)

    def metric(self, name: str, values: Mapping[str, float | int | str | None]) -> None:
        self._inner.metric(name, values)

    def note(self, sentence: str, *, level: str = "info") -> None:
        sentence = without_tokens(sentence)
        self._inner.note(sentence, level=level)
        entry = {"time": now(), "level": level, "job": self._job.id, "text": sentence}
        try:
            self._log_file.parent.mkdir(parents=True, exist_ok=True)
            with self._log_file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(entry, ensure_ascii=False) + "\n")
        except OSError:
            log.warning("could not write %s", self._log_file, exc_info=True)

    def partial(self, name: str, value: object) -> None:
        self._inner.partial(name, value)


@dataclass(frozen=True)
class JobKind:
    """A use case as the queue knows it."""

    kind: str
    lane: str
    noun: str
    """what the job does, as its title begins: "Train", "Import dataset" """
    config_class: type[Config]
    run: JobFunction
    prepare: Prepare | None = None
    subject: str = ""
    """the setting that names what the job works on, "" for the first that names anything"""
    ends_turn_on_pause: bool = False
    """a pause ends the run at a checkpoint and frees the lane, instead of waiting in place"""
    resumable: bool = False
    """what it has done is kept when its process ends, and a resumed job goes on from there"""
    early_finish: bool = False
    """a stop leaves a usable result"""
    ahead: Literal["tensors", "hub", ""] = "tensors"
    """what it needs that takes long to import: a window's lane does so ahead of the job"""
