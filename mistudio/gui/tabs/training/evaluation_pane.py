"""What an SAE was measured to do on held-out documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QBoxLayout, QVBoxLayout, QWidget

from mistudio.core.configs import EvaluateConfig
from mistudio.core.errors import StudioError
from mistudio.core.sae_figures import NO_MODEL
from mistudio.core.sae_readings import is_cross_layer
from mistudio.gui.services import Services
from mistudio.gui.tabs.training.figures import figure_rows
from mistudio.gui.tabs.training.reads import Run
from mistudio.gui.tabs.training.sae_forms import evaluate_form, reads_text
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label, row
from mistudio.gui.widgets.facts_table import FactsTable
from mistudio.gui.widgets.histogram_plot import HistogramPlot
from mistudio.jobs import lookup
from mistudio.store.records import SaeRow

BESIDE = 960  # px at a 16-px font from which figures and histogram stand side by side


class EvaluationPane(QWidget):
    """The figures of one SAE with their intervals, and how often its latents fire."""

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._services = services
        self.sae: SaeRow | None = None
        self._figures: Mapping[str, Any] | None = None  # as shown
        self.table = FactsTable(
            ["Metric", "Value", "95 % interval", "Tokens (n)"], "Evaluation", most=13, stretch=0
        )
        self.histogram = HistogramPlot("Latents by firing rate", "log10(firing rate)")
        self.histogram.setMinimumHeight(appearance().px(220))
        self.empty = label("", "muted", wrap=True)
        self.evaluate_button = button(
            "Evaluate now",
            self.evaluate,
            icon="curve",
            tip="Measure again on held-out documents of the text it was trained on",
        )
        self.other_button = button(
            "Other text", self.other_text, icon="text", tip="Choose the text and how much of it"
        )
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        self._shown = QBoxLayout(QBoxLayout.Direction.LeftToRight)
        self._shown.setSpacing(appearance().px(16))
        self._shown.addWidget(self.table, 2)
        self._shown.addWidget(self.histogram, 1)
        box.addLayout(self._shown)
        box.addLayout(row(self.evaluate_button, self.other_button, self.empty, None))

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Beside each other only where the names of the measures are not cut."""
        super().resizeEvent(event)
        narrow = self.width() < appearance().px(BESIDE)
        ways = QBoxLayout.Direction
        self._shown.setDirection(ways.TopToBottom if narrow else ways.LeftToRight)

    def show_sae(self, sae: SaeRow | None) -> None:
        """Show an SAE's stored figures; None: there is no SAE yet."""
        figures = (sae.evaluation if sae else None) or {}
        self.sae = sae
        of_vectors = sae is not None and lookup.reads_vectors(sae)
        measured = sae is not None and not is_cross_layer(sae.config)
        self.evaluate_button.setVisible(measured)
        self.other_button.setVisible(sae is not None and measured and reads_text(sae))
        lacking = NO_MODEL if of_vectors and not figures.get("ce_n") else ""
        self.empty.setText(lacking if figures else _nothing(sae))
        self._show_figures(figures)

    def _show_figures(self, figures: Mapping[str, Any]) -> None:
        if figures == self._figures:
            return
        self._figures = figures
        rows = figure_rows(figures)
        self.table.setVisible(bool(rows.texts))
        self.table.set_rows(rows.texts, rows.tips)
        self.table.head(rows.headings)
        self._show_densities(figures)

    def _show_densities(self, figures: Mapping[str, Any]) -> None:
        edges, counts = figures.get("density_histogram_edges"), figures.get("density_histogram")
        self.histogram.setVisible(bool(counts and edges))
        if counts and edges:
            self.histogram.set_counts(edges, counts)

    def evaluate(self) -> None:
        """Queue a measurement on the text the SAE was trained on."""
        if self.sae is None:
            return
        try:
            self._services.submit("evaluate", EvaluateConfig(sae=self.sae.id))
            self._services.banner(f"Queued: evaluation of {self.sae.name}.")
        except StudioError as error:
            self._services.banner(error.sentence, level="error", details=error.details)

    def other_text(self) -> None:
        """Ask for the text to measure on."""
        if self.sae is not None:
            evaluate_form(self._services, self.sae, self).show()


class RunEvaluationPane(EvaluationPane):
    """The evaluation of the SAE that a run made; before, what was last measured in the run."""

    def __init__(self, run: Run, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(services, parent)
        self.show_run(run)

    def show_run(self, run: Run) -> None:
        """Show the figures of the run's SAE, or of its newest step that was measured."""
        if run.sae is not None or run.looked is None:
            self.show_sae(run.sae)
            return
        self.sae = None
        self.evaluate_button.hide()
        self.other_button.hide()
        self.empty.setText(
            f"Step {run.looked['step']:,}, as the run was followed. {_nothing(None)}"
        )
        self._show_figures(run.held_out)


def _nothing(sae: SaeRow | None) -> str:
    if sae is None:
        return "The SAE is measured on held-out documents when the run has finished."
    if is_cross_layer(sae.config):
        return "It writes into several layers; there is no output to measure its sum against."
    return "This SAE has not been measured yet."
