"""The curves of a run: its stored rows, then what the running job reports."""

from __future__ import annotations

from PySide6.QtCore import Slot
from PySide6.QtWidgets import QWidget

from mistudio.gui.services import Services
from mistudio.gui.tabs.training.chart_export import ChartExport
from mistudio.gui.tabs.training.compare_runs import CompareRuns
from mistudio.gui.tabs.training.curves import FIRST_SHOWN
from mistudio.gui.tabs.training.metrics_pane import MetricsPane
from mistudio.gui.tabs.training.reads import Run, read_metrics
from mistudio.gui.tabs.training.series import Columns
from mistudio.gui.widgets.cards import button

LATE = 20  # steps: less than that may still be on its way from a job of this window
SHOWN = "training.charts"


class RunMetricsPane(MetricsPane):
    """Reads a run's stored rows; live ones come through `add`."""

    def __init__(self, run: Run, services: Services, parent: QWidget | None = None) -> None:
        self._services = services
        self._run = run
        self._id = run.training.id
        shown = services.settings.recall(SHOWN, list(FIRST_SHOWN))
        super().__init__(int(run.training.config.get("width") or 1), shown, parent)
        self.compare_button = button(
            "Compare", self.compare, icon="table", tip="Draw up to 8 runs in one chart"
        )
        self.export = ChartExport(services, self._name, self.charts, lambda: [self._id], self)
        self.tools.box.addWidget(self.compare_button)
        self.tools.box.addWidget(self.export.button)
        self._read()

    def show_run(self, run: Run) -> None:
        """Catch up with rows that another process has written."""
        self._run = run
        if run.training.current_step > self.series.last_step() + LATE:
            self._read()

    def compare(self) -> None:
        """Open the comparison with this run chosen."""
        CompareRuns(self._services, [self._id], self.window()).show()

    def _name(self) -> str:
        return self._run.training.name

    def _on_arranged(self) -> None:
        self._services.settings.remember(SHOWN, self.shown_charts())

    def _read(self) -> None:
        training_id, after = self._id, self.series.behind()
        self._services.query.ask(
            lambda db: (after, read_metrics(db, training_id, after)), self._on_rows, key="metrics"
        )

    @Slot(object)
    def _on_rows(self, found: tuple[int, Columns]) -> None:
        after, columns = found
        self.set_history(columns, after)
