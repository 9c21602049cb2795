"""One job's progress out of several trainings that run side by side."""

from __future__ import annotations

from collections.abc import Mapping

from mistudio.core.events import Reporter


class SharedProgress:
    """Splits a job's reporter into one per training; the job's progress is their mean."""

    def __init__(self, inner: Reporter, count: int) -> None:
        self._inner = inner
        self._fractions = [0.0] * count

    def member(self, number: int) -> Reporter:
        """The reporter of one training."""
        return self._inner if len(self._fractions) == 1 else _Member(self, number)

    def progress(self, number: int, fraction: float, phase: str, rate: str) -> None:
        """Take in how far one training is."""
        self._fractions[number] = max(self._fractions[number], fraction)
        whole = sum(self._fractions) / len(self._fractions)
        told = f"SAE {number + 1} of {len(self._fractions)}: {phase}"
        self._inner.progress(whole, told, rate=rate)

    def pass_on(self) -> Reporter:
        """Where everything but progress goes."""
        return self._inner


class _Member:
    def __init__(self, shared: SharedProgress, number: int) -> None:
        self._shared, self._number = shared, number

    def progress(
        self, fraction: float, phase: str, *, rate: str = "", eta_s: float | None = None
    ) -> None:
        self._shared.progress(self._number, fraction, phase, rate)

    def metric(self, name: str, values: Mapping[str, float | int | str | None]) -> None:
        self._shared.pass_on().metric(name, values)

    def note(self, sentence: str, *, level: str = "info") -> None:
        self._shared.pass_on().note(f"SAE {self._number + 1}: {sentence}", level=level)

    def partial(self, name: str, value: object) -> None:
        self._shared.pass_on().partial(name, value)
