"""What the Training tab reads, in the query thread."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from mistudio.core.held_out_looks import figures_of
from mistudio.core.units import EM_DASH
from mistudio.gui.tabs.training.series import COLUMNS, Columns
from mistudio.store import trainings
from mistudio.store.records import CheckpointRow, JobRow, SaeRow, TrainingRow
from mistudio.store.tables import JOBS, SAES, TRAININGS

ACTIVE = ("queued", "initializing", "training", "stopping", "paused", "interrupted")
FILTERS = {
    "All": (),
    "Active": ACTIVE,
    "Completed": ("completed",),
    "Stopped": ("stopped",),
    "Failed": ("failed",),
}


@dataclass(frozen=True)
class SweepFigures:
    """The newest figures of a sweep's runs as one: loss and L0 averaged over the runs that tell
    them, dead latents summed, of so many latents in all."""

    loss: float | None
    l0: float | None
    dead: int | None
    latents: int


@dataclass(frozen=True)
class Run:
    """A training with the names its card shows and the job that works on it, if any."""

    training: TrainingRow
    model: str
    dataset: str
    job: JobRow | None
    checkpoints: int
    sae: SaeRow | None
    place: int = 1
    """which run of its sweep it is, from 1"""
    members: int = 1
    """runs of its sweep"""
    looked: Mapping[str, Any] | None = None
    """the metric row of what was last measured on held-out text"""
    sweep: SweepFigures | None = None
    """of a run that is one of several"""

    @property
    def held_out(self) -> Mapping[str, Any]:
        """What was last measured on held-out text, as an evaluation names it; empty before."""
        return figures_of(self.looked) if self.looked else {}

    @property
    def shares_its_job(self) -> bool:
        """Whether the job that works on it works on the other runs of its sweep too."""
        return self.members > 1 and self.job is not None and self.job.kind == "sweep"


@dataclass(frozen=True)
class Runs:
    """The runs of a filter, active first, then newest; `total` counts those beyond the limit."""

    runs: list[Run]
    total: int
    counts: dict[str, int]  # filter name -> number of runs


def read_runs(db: Any, shown: str, words: str, limit: int) -> Runs:
    """At most `limit` runs of a filter whose name, model or text contains the words."""
    states = [row["status"] for row in db.query("SELECT status FROM trainings")]
    counts = {
        name: sum(not wanted or state in wanted for state in states)
        for name, wanted in FILTERS.items()
    }
    where, values = _condition(FILTERS.get(shown, ()), words)
    active = ", ".join(f"'{state}'" for state in ACTIVE)
    # runs of a sweep stay together, in the order in which they were made
    begun = (
        "coalesce((SELECT min(created_at) FROM trainings AS other"
        " WHERE other.group_id = trainings.group_id), created_at)"
    )
    order = f"CASE WHEN status IN ({active}) THEN 0 ELSE 1 END, {begun} DESC, group_id, rowid"
    rows = TRAININGS.select(db, where, values, order=order, limit=limit)
    total = next(iter(db.query(f"SELECT count(*) AS n FROM trainings WHERE {where}", values)))["n"]
    return Runs([_run(db, row) for row in rows], int(total), counts)


def _condition(states: Sequence[str], words: str) -> tuple[str, list[Any]]:
    where, values = "1", []
    if states:
        where += f" AND status IN ({', '.join('?' for _ in states)})"
        values += list(states)
    for word in words.split():
        where += (
            " AND (instr(lower(name), ?) OR instr(lower(architecture), ?) OR model_id IN"
            " (SELECT id FROM models WHERE instr(lower(name), ?)) OR id IN"
            " (SELECT training_id FROM training_datasets JOIN tokenizations"
            " ON tokenizations.id = tokenization_id JOIN datasets ON datasets.id = dataset_id"
            " WHERE instr(lower(datasets.name), ?)))"
        )
        values += [word.lower()] * 4
    return where, values


def read_run(db: Any, training_id: str) -> Run | None:
    """One run, None if it is gone."""
    row = TRAININGS.find(db, training_id)
    return _run(db, row) if row else None


def _run(db: Any, row: TrainingRow) -> Run:
    whose = "target_id IN (?, ?) AND kind IN ('train', 'sweep')"
    jobs = JOBS.select(db, whose, [row.id, row.group_id], limit=1)
    group = trainings.of_group(db, row.group_id) if row.group_id else [row]
    ids = [member.id for member in group]
    counted = db.query("SELECT count(*) AS n FROM checkpoints WHERE training_id = ?", [row.id])
    return Run(
        row,
        _name(db, "models", row.model_id or str(row.config.get("model") or "")),
        _text_name(db, row),
        jobs[0] if jobs else None,
        int(next(iter(counted))["n"]),
        SAES.find(db, row.sae_id) if row.sae_id else None,
        ids.index(row.id) + 1 if row.id in ids else 1,
        len(ids),
        trainings.newest_held_out(db, row.id),
        _figures(group) if len(group) > 1 else None,
    )


def _figures(group: Sequence[TrainingRow]) -> SweepFigures:
    losses = [row.latest_loss for row in group if row.latest_loss is not None]
    counts = [row.latest_l0 for row in group if row.latest_l0 is not None]
    told = [row for row in group if row.latest_dead is not None]
    return SweepFigures(
        sum(losses) / len(losses) if losses else None,
        sum(counts) / len(counts) if counts else None,
        sum(row.latest_dead or 0 for row in told) if told else None,
        sum(int(row.config.get("width") or 0) for row in told),
    )


def _name(db: Any, table: str, wanted: str) -> str:
    found = list(db.query(f"SELECT name FROM {table} WHERE id = ?", [wanted]))
    return str(found[0]["name"]) if found else wanted


def _text_name(db: Any, row: TrainingRow) -> str:
    """What a run reads: the dataset of its tokenisation, else the activation set without a model,
    else what its settings name."""
    if row.activation_set_id and not row.model_id:
        return _name(db, "activation_sets", row.activation_set_id)
    wanted = trainings.tokenization_of(db, row.id) or str(row.config.get("dataset") or "")
    owner = list(db.query("SELECT dataset_id FROM tokenizations WHERE id = ?", [wanted]))
    return _name(db, "datasets", owner[0]["dataset_id"] if owner else wanted)


@dataclass(frozen=True)
class LogLine:
    """One note of a run's jobs: ISO time, level, sentence."""

    time: str
    level: str
    text: str


def read_log(db: Any, training_id: str, logs: Path, run: Path, limit: int = 2000) -> list[LogLine]:
    """The newest notes of a run, oldest first: its own, and what its jobs told beside.

    `logs` holds the jobs' log files, `run` the files of the run.
    """
    lines = _lines_of(run / "log.jsonl", limit)
    own = {line.text for line in lines}
    row = TRAININGS.find(db, training_id)
    whose = "target_id IN (?, ?) AND kind IN ('train', 'sweep')"
    for job in JOBS.select(db, whose, [training_id, row.group_id if row else None]):
        told = _lines_of(logs / f"{job.id}.jsonl", limit)
        lines += [line for line in told if line.text not in own and not of_member(line.text)]
    return sorted(lines, key=lambda line: line.time)[-limit:]


def of_member(sentence: str, place: int = 0) -> bool:
    """Whether a sweep's job told a sentence of one of its runs; of that at `place` if it is not 0,
    counted from 1."""
    return bool(re.match(rf"SAE {place or r'[0-9]+'}: ", sentence))


def _lines_of(file: Path, limit: int) -> list[LogLine]:
    try:
        written = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []  # what said nothing has no file
    return [line for text in written[-limit:] if (line := _log_line(text))]


def _log_line(text: str) -> LogLine | None:
    try:
        entry = json.loads(text)
        return LogLine(str(entry["time"]), str(entry["level"]), str(entry["text"]))
    except (ValueError, KeyError, TypeError):
        return None  # a line torn by the end of the process


def read_checkpoints(db: Any, training_id: str) -> list[CheckpointRow]:
    """Checkpoints of a run, newest step first."""
    return trainings.checkpoints(db, training_id)


def read_metrics(db: Any, training_id: str, after_step: int) -> Columns:
    """The metric columns of a run behind a step, in step order.

    Converted in pieces: a long conversion would keep the window's thread from running.
    """
    parts = [
        np.array(rows, dtype=np.float64)
        for rows in trainings.metric_chunks(db, training_id, COLUMNS, after_step)
    ]
    whole = np.concatenate(parts) if parts else np.empty((0, len(COLUMNS)))
    return {name: whole[:, place] for place, name in enumerate(COLUMNS)}


def local_time(stamp: str | None) -> str:
    """An ISO time of the database as the user's own clock shows it."""
    if not stamp:
        return EM_DASH
    return datetime.fromisoformat(stamp).astimezone().strftime("%Y-%m-%d %H:%M")
