"""The curves of a run: its stored rows, then what the running job reports."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Slot
from PySide6.QtWidgets import QWidget

from mistudio.gui.services import Services
from mistudio.gui.tabs.training.metrics_pane import MetricsPane
from mistudio.gui.tabs.training.reads import Run, read_metrics


class RunMetricsPane(MetricsPane):
    """Reads a run's rows once; live rows come through `add`."""

    def __init__(self, run: Run, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(int(run.training.config.get("width") or 1), parent)
        self._services = services
        self._id = run.training.id
        self._read()

    def show_run(self, run: Run) -> None:
        """Catch up with rows that another process has written."""
        if run.training.current_step > self.series.last_step() + 100:
            self._read()

    def _read(self) -> None:
        training_id = self._id
        self._services.query.ask(
            lambda db: read_metrics(db, training_id), self._on_rows, key="metrics"
        )

    @Slot(object)
    def _on_rows(self, rows: list[dict[str, Any]]) -> None:
        self.set_history(rows)
