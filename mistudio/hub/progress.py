"""What a download reports: share, bytes, rate and time left, a few times a second."""

from __future__ import annotations

import time
from collections import deque

from mistudio.core.events import Reporter
from mistudio.core.units import format_bytes

_PERIOD_S = 0.25
_WINDOW_S = 10.0


class Progress:
    """Adds up the bytes of all files of one download."""

    def __init__(self, report: Reporter, total_bytes: int, cached: dict[str, int]) -> None:
        """`cached` has what is there of each file, in the order of the download."""
        self.total_bytes = total_bytes
        self._report = report
        self._cached = dict(cached)
        self._numbers = {path: number for number, path in enumerate(cached, 1)}
        self._done = sum(cached.values())
        self._current = ""
        self._told_at = 0.0
        self._window: deque[tuple[float, int]] = deque()

    @property
    def done_text(self) -> str:
        """ "3.1 of 8.0 GB", as a sentence has it."""
        done, total = format_bytes(self._done), format_bytes(self.total_bytes)
        same_unit = done.split()[-1] == total.split()[-1]
        return f"{done.split()[0] if same_unit else done} of {total}"

    def at(self, path: str, position: int) -> None:
        """So many bytes of a file are here now."""
        self._current = path
        self._done += position - self._cached[path]
        self._cached[path] = position
        now = time.monotonic()
        if now - self._told_at >= _PERIOD_S or self._done >= self.total_bytes:
            self._told_at = now
            self._window.append((now, self._done))
            while now - self._window[0][0] > _WINDOW_S:
                self._window.popleft()
            self._tell(now)

    def still(self) -> None:
        """The connection is closed: earlier bytes say nothing of the rate to come."""
        self._window.clear()

    def phase(self, words: str) -> None:
        """Show other words than the file's name, such as what is waited for."""
        self._report.progress(self._fraction, words)

    @property
    def _fraction(self) -> float:
        return self._done / self.total_bytes if self.total_bytes else 0.0

    def _tell(self, now: float) -> None:
        name = self._current.rsplit("/", 1)[-1]
        words = f"{self.done_text} · {name}"
        if len(self._numbers) > 1:
            words += f" ({self._numbers[self._current]} of {len(self._numbers)})"
        then, before = self._window[0]
        gained, seconds = self._done - before, now - then
        if gained <= 0 or seconds < 0.2:
            self._report.progress(self._fraction, words)
            return
        rate = gained / seconds
        left = (self.total_bytes - self._done) / rate
        self._report.progress(self._fraction, words, rate=f"{format_bytes(rate)}/s", eta_s=left)
