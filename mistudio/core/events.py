"""What a running job tells the outside: progress, metrics, notes. Faces decide how to show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


class Reporter(Protocol):
    """Receives events of one job; called from the job's thread, must be cheap and never raise."""

    def progress(
        self, fraction: float, phase: str, *, rate: str = "", eta_s: float | None = None
    ) -> None:
        """`fraction` 0..1 of the job, `phase` in words, `rate` as shown ("2,000 tokens/s")."""
        ...

    def metric(self, name: str, values: Mapping[str, float | int | str | None]) -> None:
        """One measured row, for example name "training" with step, loss, l0."""
        ...

    def note(self, sentence: str, *, level: str = "info") -> None:
        """A line for the log: level "info", "warning" or "error"."""
        ...

    def partial(self, name: str, value: object) -> None:
        """A piece of a result that can be shown already, such as streamed text."""
        ...


@dataclass(frozen=True)
class Event:
    """One recorded event: `kind` is progress, metric, note or partial."""

    kind: str
    values: Mapping[str, object]


class RecordingReporter:
    """Keeps every event in memory: for tests and for callers that look afterwards."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def progress(
        self, fraction: float, phase: str, *, rate: str = "", eta_s: float | None = None
    ) -> None:
        self.events.append(
            Event("progress", {"fraction": fraction, "phase": phase, "rate": rate, "eta_s": eta_s})
        )

    def metric(self, name: str, values: Mapping[str, float | int | str | None]) -> None:
        self.events.append(Event("metric", {"name": name, **values}))

    def note(self, sentence: str, *, level: str = "info") -> None:
        self.events.append(Event("note", {"sentence": sentence, "level": level}))

    def partial(self, name: str, value: object) -> None:
        self.events.append(Event("partial", {"name": name, "value": value}))


class SilentReporter:
    """Ignores everything."""

    def progress(
        self, fraction: float, phase: str, *, rate: str = "", eta_s: float | None = None
    ) -> None:
        return

    def metric(self, name: str, values: Mapping[str, float | int | str | None]) -> None:
        return

    def note(self, sentence: str, *, level: str = "info") -> None:
        return

    def partial(self, name: str, value: object) -> None:
        return
