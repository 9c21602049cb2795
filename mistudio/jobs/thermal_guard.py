"""Watches the temperature of a long run: warns when it is hot, pauses at the user's limit."""

from __future__ import annotations

import time
from collections.abc import Callable

from mistudio.core.control import ControlView, JobControl, Request
from mistudio.core.events import Reporter
from mistudio.core.paths import Paths
from mistudio.core.settings import SettingsFile
from mistudio.system.gpu import hottest

HOT_C = 80.0
COOLER_C = 5.0  # below a mark before it counts as crossed again
PERIOD_S = 10.0


class ThermalGuard(ControlView):
    """A job's control that also pauses it, as the user would, once the machine is too hot.

    The sensors are read at most every ten seconds, when the job looks for requests. A machine
    without sensors is never paused.
    """

    def __init__(
        self,
        inner: JobControl,
        report: Reporter,
        limit_c: float = 0.0,
        *,
        read: Callable[[], float | None] = hottest,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`limit_c` in °C, 0: only warn. `read` gives °C or None."""
        super().__init__(inner)
        self._report, self._limit = report, limit_c
        self._read, self._clock = read, clock
        self._next = float("-inf")
        self._warned = False

    def requested(self) -> Request:
        """The request in force, a pause for heat among them."""
        if self._clock() >= self._next:
            self._next = self._clock() + PERIOD_S
            self._look()
        return self._inner.requested()

    def check(self) -> None:
        """As that of the control within, after a look at the temperature."""
        self.requested()
        self._inner.check()

    def _look(self) -> None:
        heat = self._read()
        if heat is None:
            return
        if self._limit and heat >= self._limit:
            if self._inner.requested() is Request.NONE:
                self._report.note(
                    f"{heat:.0f} °C reaches the limit of {self._limit:.0f} °C; paused at a "
                    "checkpoint. Resume when it is cooler, or change the limit in the settings.",
                    level="warning",
                )
                self._inner.pause()
        elif heat > HOT_C and not self._warned:
            self._warned = True
            self._report.note(f"The machine is at {heat:.0f} °C.", level="warning")
        elif heat < HOT_C - COOLER_C:
            self._warned = False


def limit_of(paths: Paths) -> float:
    """The user's limit in °C, 0 if none is set."""
    return float(SettingsFile(paths.settings).values.pause_at_c)
