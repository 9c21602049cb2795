"""How long threads of this process stood ready while the kernel let other programs run.

Linux tells it per thread (`/proc/self/task/ID/schedstat`: nanoseconds on a processor, nanoseconds
ready without one, turns); elsewhere nothing is known and every wait is 0.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_TASKS = Path("/proc/self/task")


class Turns(NamedTuple):
    """Of the time since the last look, in seconds."""

    worked: float
    """that the first thread was on a processor"""
    waited: float
    """that the thread which waited longest was ready without a processor"""


def threads_named(names: Iterable[str]) -> list[int]:
    """The kernel's ids of this process's threads by their names (of 15 letters at most)."""
    wanted = set(names)
    try:
        return [
            int(task.name)
            for task in _TASKS.iterdir()
            if (task / "comm").read_text("utf-8").strip() in wanted
        ]
    except OSError:  # no such system, or a thread ended meanwhile
        return []


class ProcessorTurns:
    """Watches a few threads, the first of which is the one of interest."""

    def __init__(self, threads: Iterable[int]) -> None:
        self._files: list[int] = []
        for thread in threads:
            try:
                self._files.append(os.open(_TASKS / str(thread) / "schedstat", os.O_RDONLY))
            except OSError:
                continue
        self._before = [self._read(file) for file in self._files]

    def take(self) -> Turns:
        """What happened since the last call."""
        now = [self._read(file) for file in self._files]
        before, self._before = self._before, now
        if not now:
            return Turns(0.0, 0.0)
        waited = max(new[1] - old[1] for new, old in zip(now, before, strict=True))
        return Turns((now[0][0] - before[0][0]) / 1e9, waited / 1e9)

    def close(self) -> None:
        """Let the files go."""
        for file in self._files:
            os.close(file)
        self._files.clear()
        self._before.clear()

    @staticmethod
    def _read(file: int) -> tuple[int, int]:
        try:
            worked, waited, _ = os.pread(file, 100, 0).split()
        except (OSError, ValueError):  # the thread has ended
            return 0, 0
        return int(worked), int(waited)
