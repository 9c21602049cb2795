"""Hands what running jobs tell to the runs they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PySide6.QtCore import QObject, QTimer, Signal, Slot

from mistudio.gui.lanes import Lanes
from mistudio.gui.reporting import Drained

Rows = list[Mapping[str, Any]]


class LiveRuns(QObject):
    """`told(training id, metric rows, Drained)` for a run that works in this window.

    `moved(training id)` follows at most once a second while it works, and when it starts or ends:
    its stored row has changed.
    """

    told = Signal(str, object, object)
    moved = Signal(str)

    def __init__(self, lanes: Lanes, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._runs_of: dict[str, set[str]] = {}  # job id -> training ids
        self._moving: set[str] = set()
        self._timer = QTimer(self)
        self._timer.setInterval(1000)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._on_second)
        lanes.drained.connect(self._on_drained)
        lanes.finished.connect(self._on_finished)

    def know(self, job_id: str, training_id: str) -> None:
        """Learn whose job this is; metric rows tell it by themselves."""
        self._runs_of.setdefault(job_id, set()).add(training_id)

    def job_of(self, training_id: str) -> str | None:
        """The job that works on a run in this window, if one has told something."""
        return next((job for job, runs in self._runs_of.items() if training_id in runs), None)

    @Slot(str, object)
    def _on_drained(self, job_id: str, drained: Drained) -> None:
        told = by_run(drained)
        for training_id, rows in told.items():
            self.know(job_id, training_id)
            self.told.emit(training_id, rows, drained)
            self._touch(training_id)
        if not told:
            for training_id in self._runs_of.get(job_id, ()):
                self.told.emit(training_id, [], drained)
                self._touch(training_id)

    def _touch(self, training_id: str) -> None:
        self._moving.add(training_id)
        if not self._timer.isActive():
            self._timer.start()

    @Slot()
    def _on_second(self) -> None:
        moving, self._moving = self._moving, set()
        for training_id in moving:
            self.moved.emit(training_id)

    @Slot(str, str)
    def _on_finished(self, job_id: str, state: str) -> None:
        for training_id in self._runs_of.pop(job_id, set()):
            self.moved.emit(training_id)


def by_run(drained: Drained) -> dict[str, Rows]:
    """The metric rows of a drain per run, those of held-out figures among them."""
    found: dict[str, Rows] = {}
    for name, values in drained.metrics:
        if name in ("training", "held_out") and values.get("training_id"):
            found.setdefault(str(values["training_id"]), []).append(values)
    return found
