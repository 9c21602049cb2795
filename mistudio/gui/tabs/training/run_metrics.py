"""The curves of a run: its stored rows, then what the running job reports."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Slot
from PySide6.QtWidgets import QWidget

from mistudio.gui.services import Services
from mistudio.gui.tabs.training.metrics_pane import MetricsPane
from mistudio.gui.tabs.training.reads import Run, read_metrics

LATE = 20  # steps: less than that may still be on its way from a job of this window


class RunMetricsPane(MetricsPane):
    """Reads a run's stored rows; live ones come through `add`."""

    def __init__(self, run: Run, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(int(run.training.config.get("width") or 1), parent)
        self._services = services
        self._id = run.training.id
        self._read()

    def show_run(self, run: Run) -> None:
        """Catch up with rows that another process has written."""
        if run.training.current_step > self.series.last_step() + LATE:
            self._read()

    def _read(self) -> None:
        training_id, after = self._id, self.series.last_step()
        self._services.query.ask(
            lambda db: (after, read_metrics(db, training_id, after)), self._on_rows, key="metrics"
        )

    @Slot(object)
    def _on_rows(self, found: tuple[int, list[dict[str, Any]]]) -> None:
        after, rows = found
        self.set_history(rows, after)
