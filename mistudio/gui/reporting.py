"""Collects a running job's events from its thread until the window's timer takes them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Progress(NamedTuple):
    """The newest progress of a job: fraction 0..1, phase, rate as shown, seconds left."""

    fraction: float
    phase: str
    rate: str
    eta_s: float | None


class Note(NamedTuple):
    """A line for the log; level info, warning or error."""

    sentence: str
    level: str


@dataclass
class Drained:
    """All that a job told since the last drain."""

    progress: Progress | None = None
    metrics: list[tuple[str, Mapping[str, float | int | str | None]]] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    partials: list[tuple[str, object]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.progress or self.metrics or self.notes or self.partials)


class BufferedReporter:
    """A `Reporter` that only appends under a lock; nothing is signalled per step."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting = Drained()

    def progress(
        self, fraction: float, phase: str, *, rate: str = "", eta_s: float | None = None
    ) -> None:
        with self._lock:
            self._waiting.progress = Progress(fraction, phase, rate, eta_s)

    def metric(self, name: str, values: Mapping[str, float | int | str | None]) -> None:
        with self._lock:
            self._waiting.metrics.append((name, values))

    def note(self, sentence: str, *, level: str = "info") -> None:
        with self._lock:
            self._waiting.notes.append(Note(sentence, level))

    def partial(self, name: str, value: object) -> None:
        with self._lock:
            self._waiting.partials.append((name, value))

    def drain(self) -> Drained:
        """Everything since the last call; leaves the buffer empty."""
        with self._lock:
            taken, self._waiting = self._waiting, Drained()
        return taken
