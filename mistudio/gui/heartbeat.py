"""Measures how long the event loop keeps a due timer waiting: the gaps a user would feel."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from PySide6.QtCore import QObject, Qt, QTimer, Slot

from mistudio.core.atomic import write_json

INTERVAL_MS = 10


class Heartbeat(QObject):
    """Ticks every 10 ms and keeps by how much each tick was late, in milliseconds."""

    def __init__(self, parent: QObject | None = None, *, file: Path | None = None) -> None:
        """`file`: where `summary` is written every ten seconds and at the end."""
        super().__init__(parent)
        self._file = file
        self._late_ms: list[float] = []
        self._last = time.perf_counter()
        self._written = self._last
        self._timer = QTimer(self)
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.setInterval(INTERVAL_MS)
        self._timer.timeout.connect(self._tick)

    def start(self) -> None:
        """Begin a fresh measurement."""
        self._late_ms.clear()
        self._last = time.perf_counter()
        self._timer.start()

    def stop(self) -> None:
        """End the measurement and write the file, if any."""
        self._timer.stop()
        self._write()

    def summary(self) -> dict[str, float]:
        """ticks, p50_ms, p99_ms, max_ms of the gaps."""
        gaps = np.asarray(self._late_ms or [0.0])
        return {
            "ticks": len(self._late_ms),
            "p50_ms": round(float(np.percentile(gaps, 50)), 3),
            "p99_ms": round(float(np.percentile(gaps, 99)), 3),
            "max_ms": round(float(gaps.max()), 3),
        }

    @Slot()
    def _tick(self) -> None:
        now = time.perf_counter()
        self._late_ms.append(max(0.0, 1000 * (now - self._last) - INTERVAL_MS))
        self._last = now
        if now - self._written > 10.0:
            self._write()
            self._written = self._last = time.perf_counter()  # its own work is no gap

    def _write(self) -> None:
        if self._file is not None:
            write_json(self._file, self.summary())
