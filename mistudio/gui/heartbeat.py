"""Measures how long the event loop keeps a due timer waiting: the gaps a user would feel."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from PySide6.QtCore import QObject, Qt, QTimer, Slot

from mistudio.core.atomic import write_json
from mistudio.system.run_queue import ProcessorTurns

INTERVAL_MS = 10


class Heartbeat(QObject):
    """Ticks every 10 ms and keeps by how much each tick was late, in milliseconds."""

    def __init__(
        self,
        parent: QObject | None = None,
        *,
        file: Path | None = None,
        turns: ProcessorTurns | None = None,
    ) -> None:
        """`file`: where `summary` is written every ten seconds and at the end.

        `turns`, of which the first is the window's thread and the others those that it may wait
        for, tells which part of a gap the kernel gave to other programs.
        """
        super().__init__(parent)
        self._file = file
        self._turns = turns
        self._late_ms: list[float] = []
        self._own_ms: list[float] = []
        self._last = time.perf_counter()
        self._written = self._last
        self._timer = QTimer(self)
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.setInterval(INTERVAL_MS)
        self._timer.timeout.connect(self._tick)

    def start(self) -> None:
        """Begin a fresh measurement."""
        self._late_ms.clear()
        self._own_ms.clear()
        if self._turns is not None:
            self._turns.take()
        self._last = time.perf_counter()
        self._timer.start()

    def stop(self) -> None:
        """End the measurement and write the file, if any."""
        self._timer.stop()
        self._write()

    def summary(self) -> dict[str, float]:
        """ticks, p50_ms, p99_ms, max_ms of the gaps, and how many are above 50 and 100 ms.

        own_max_ms and own_over_100 are of the gaps less the longest time in which one of the
        threads stood ready while other programs ran: what stays on a machine that is left alone.
        """
        gaps, own = np.asarray(self._late_ms or [0.0]), np.asarray(self._own_ms or [0.0])
        return {
            "ticks": len(self._late_ms),
            "p50_ms": round(float(np.percentile(gaps, 50)), 3),
            "p99_ms": round(float(np.percentile(gaps, 99)), 3),
            "max_ms": round(float(gaps.max()), 3),
            "over_50": int((gaps > 50).sum()),
            "over_100": int((gaps > 100).sum()),
            "own_max_ms": round(float(own.max()), 3),
            "own_over_100": int((own > 100).sum()),
        }

    @Slot()
    def _tick(self) -> None:
        now = time.perf_counter()
        late = max(0.0, 1000 * (now - self._last) - INTERVAL_MS)
        self._late_ms.append(late)
        self._own_ms.append(self._own_part(late))
        self._last = now
        if now - self._written > 10.0:
            self._write()
            self._written = self._last = time.perf_counter()  # its own work is no gap

    def _own_part(self, late: float) -> float:
        if self._turns is None:
            return late
        worked, waited = (1000 * seconds for seconds in self._turns.take())
        return max(late - waited, min(late, worked), 0.0)

    def _write(self) -> None:
        if self._file is not None:
            write_json(self._file, self.summary())
