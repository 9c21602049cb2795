"""Deleting several runs at once: first what that means, then those that can go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mistudio.core.errors import InUse, NotFound
from mistudio.core.units import format_bytes
from mistudio.jobs.deletion import delete_training
from mistudio.jobs.dependants import of_training
from mistudio.jobs.runner import Studio
from mistudio.jobs.set_aside import set_aside
from mistudio.store.records import TrainingRow
from mistudio.store.tables import CHECKPOINTS, SAES, TRAININGS

RESUMABLE = ("queued", "paused", "interrupted")
_NAMED = 5


@dataclass(frozen=True)
class RunsToDelete:
    """What deleting several runs means; lists hold names."""

    ids: tuple[str, ...]
    """of the runs that can go"""
    names: list[str]
    size_bytes: int
    """freed on disk"""
    checkpoints: int
    """that go with them"""
    unfinished: list[str]
    """of those that go, the ones that could have been resumed"""
    saes: list[str]
    """that stay in the library"""
    busy: list[str]
    """runs at work, which stay"""

    @property
    def title(self) -> str:
        """The question."""
        return f"Delete {_counted(len(self.ids), 'run')}?"

    @property
    def sentences(self) -> str:
        """What is lost, what is freed, what stays."""
        told = [f"This frees {format_bytes(self.size_bytes)}: {_listed(self.names)}."]
        lost = f" and {_counted(self.checkpoints, 'checkpoint')}" if self.checkpoints else ""
        whose = "its" if len(self.ids) == 1 else "their"
        told.append(f"Lost with {whose} settings: the curves{lost}.")
        if self.unfinished:
            told.append(f"Not finished, and then never resumed: {_listed(self.unfinished)}.")
        if self.saes:
            told.append(f"Kept in the library: {_counted(len(self.saes), 'SAE')}.")
        if self.busy:
            told.append(f"At work, so not deleted: {_listed(self.busy)}.")
        return " ".join(told)


def of_runs(studio: Studio, ids: Iterable[str]) -> RunsToDelete:
    """What deleting these runs means; one that is gone already is left out."""
    db = studio.db()
    goes: list[TrainingRow] = []
    busy: list[str] = []
    size = checkpoints = 0
    saes: list[str] = []
    for training_id in dict.fromkeys(ids):
        row = TRAININGS.find(db, training_id)
        if row is None:
            continue
        found = of_training(studio, training_id)
        if found.refusal:
            busy.append(row.name)
            continue
        goes.append(row)
        size += found.size_bytes
        checkpoints += len(CHECKPOINTS.select(db, "training_id = ?", [training_id]))
        saes += [sae.name for sae in SAES.select(db, "training_id = ?", [training_id])]
    return RunsToDelete(
        tuple(row.id for row in goes),
        [row.name for row in goes],
        size,
        checkpoints,
        [row.name for row in goes if row.status in RESUMABLE],
        saes,
        busy,
    )


def delete_runs(studio: Studio, ids: Iterable[str]) -> tuple[list[str], list[str]]:
    """Delete runs; returns the ids of those that are gone and what kept the others, as sentences.

    One that has begun to work meanwhile stays.
    """
    gone: list[str] = []
    refused: list[str] = []
    for training_id in ids:
        try:
            delete_training(studio, training_id)
        except InUse as error:
            refused.append(error.sentence)
            continue
        except NotFound:
            pass  # somebody else deleted it
        gone.append(training_id)
    return gone, refused


class PutAside(NamedTuple):
    """What became of a wish to delete runs."""

    ids: list[str]
    """of the runs that are gone"""
    folders: list[Path]
    """where they are kept while it can be undone"""
    refused: list[str]
    """what kept the others, as sentences"""


def put_runs_aside(studio: Studio, ids: Iterable[str]) -> PutAside:
    """Delete runs so that it can be undone; one that has begun to work meanwhile stays."""
    done = PutAside([], [], [])
    for training_id in ids:
        try:
            done.folders.append(set_aside(studio, "trainings", training_id))
        except InUse as error:
            done.refused.append(error.sentence)
            continue
        except NotFound:
            pass  # somebody else deleted it
        done.ids.append(training_id)
    return done


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _listed(names: Sequence[str]) -> str:
    shown = [f"“{name}”" for name in names[:_NAMED]]
    if len(names) > _NAMED:
        shown.append(f"{len(names) - _NAMED:,} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
