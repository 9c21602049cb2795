"""A reporter that remembers how far a job was, so that phases of waiting do not move its bar."""

from __future__ import annotations

from collections.abc import Mapping

from mistudio.core.errors import StudioError
from mistudio.core.events import Reporter


class LastProgress:
    """Passes events on and remembers how far the job was, for phases of waiting."""

    def __init__(self, inner: Reporter) -> None:
        self._inner = inner
        self._fraction = 0.0
        self._told = ""

    def progress(
        self, fraction: float, phase: str, *, rate: str = "", eta_s: float | None = None
    ) -> None:
        self._fraction = fraction
        self._told = ""
        self._inner.progress(fraction, phase, rate=rate, eta_s=eta_s)

    def metric(self, name: str, values: Mapping[str, float | int | str | None]) -> None:
        self._inner.metric(name, values)

    def note(self, sentence: str, *, level: str = "info") -> None:
        self._inner.note(sentence, level=level)

    def partial(self, name: str, value: object) -> None:
        self._inner.partial(name, value)

    def waiting(self, error: StudioError, left: float) -> None:
        """Say that the Hub is asked again in `left` seconds, and once why."""
        if self._told != error.sentence:
            self._told = error.sentence
            self._inner.note(f"{error.sentence} It is asked again.", level="warning")
        self._inner.progress(self._fraction, f"Waiting {left:.0f} s to try again")
