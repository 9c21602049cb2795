"""The quantisation report: how far a quantised form is from the 16-bit form, on a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QWidget

from mistudio.core.model_configs import ReportModelConfig
from mistudio.core.units import format_count, format_decimal, format_percent
from mistudio.gui.dialog import Dialog
from mistudio.gui.services import Services
from mistudio.gui.tabs.library.one_job import OneJob
from mistudio.gui.tabs.models.formats import QUANTISED, format_name
from mistudio.gui.tabs.models.tables import FigureTable
from mistudio.gui.tabs.models.texts import all_texts
from mistudio.gui.widgets.cards import Card, MetricTile, button, label, row
from mistudio.gui.widgets.config_form import ConfigForm
from mistudio.gui.widgets.editors import ChoiceEditor
from mistudio.gui.widgets.library_choice import LibraryChoice
from mistudio.gui.widgets.progress import ProgressBar
from mistudio.store.records import ModelRow
from mistudio.store.tables import MODELS

_HEADINGS = (
    "Format",
    "Against",
    "Agreement",
    "KL (nats)",
    "Perplexity",
    "In 16 bit",
    "Tokens",
)
_MEANING = (
    "Agreement: how often both forms hold the same token for the likeliest next one. KL: mean "
    "divergence of the quantised form's distribution from the 16-bit one's, per token; 0 is equal. "
    "Perplexity: of both on the same text; lower is better."
)


class ReportDialog(Dialog):
    """Runs the comparison and shows every one that is stored with the model."""

    def __init__(self, services: Services, model: ModelRow, parent: QWidget | None = None) -> None:
        super().__init__(f"Quantisation report: {model.name}", parent, width=900, height_share=0.9)
        self._services, self._model = services, model
        self.texts = LibraryChoice("Choose a text")
        self.form = ConfigForm(
            ReportModelConfig,
            ("format", "tokens", "dataset"),
            editors={
                "dataset": self.texts,
                "format": ChoiceEditor([(form, format_name(form)) for form in QUANTISED]),
            },
            columns=3,
            settings=services.settings,
            remember="report_model",
            command="model report",
        )
        first = model.format if model.format in QUANTISED else ""
        kept = {"format": first} if first else {}
        self.form.set_values({"model": model.id, **kept})
        self.button = button("Run report", self.submit, variant="primary", icon="play")
        self.button.setToolTip("Load both forms, one after the other, and compare them")
        self.form.action_row.addWidget(self.button)
        self.bar = ProgressBar("purple")
        self.job = OneJob(
            services,
            self.button,
            self,
            failure="The report failed.",
            cancel="Cancel the run",
            cancel_tip="End it; stored reports stay",
            bar=self.bar,
        )
        self.job.done.connect(self._on_done)
        self._tiles()
        self.table = FigureTable(_HEADINGS, "Stored reports", numeric=range(2, len(_HEADINGS)))
        self.none = label("No report is stored yet.", "muted")
        self._build()
        services.query.ask(lambda db: all_texts(db, model), self._on_texts)
        self.show_reports(model.report or {}, first)

    def _tiles(self) -> None:
        self.agreement = MetricTile("Next-token agreement", color="emerald")
        self.kl = MetricTile("KL divergence, nats per token", color="blue")
        self.perplexity = MetricTile("Perplexity", color="purple")
        self.reference = MetricTile("Perplexity in 16 bit", color="yellow")
        self.tiles = QWidget()
        tiles = (self.agreement, self.kl, self.perplexity, self.reference)
        self.tiles.setLayout(row(*tiles, spacing=12))

    def _build(self) -> None:
        card = Card("list", padding=16)
        for part in (self.form, self.job.state, self.bar, self.job.problem):
            card.box.addWidget(part)
        self.box.addWidget(label(_MEANING, "muted", wrap=True))
        self.box.addWidget(card)
        self.box.addWidget(self.tiles)
        self.box.addWidget(label("Stored reports", "card"))
        self.box.addWidget(self.none)
        self.box.addWidget(self.table)
        self.box.addStretch(1)
        self.copy_button = button(
            "Copy as table", self.copy, icon="copy", tip="Copy every stored report"
        )
        self.buttons.insertWidget(0, self.copy_button)
        self.buttons.insertWidget(1, self.job.cancel_button)
        self.add_close()

    def _on_texts(self, pairs: list[tuple[str, str]]) -> None:
        self.texts.offer(pairs, pairs[0][0] if len(pairs) == 1 else "")
        if not pairs:
            self.job.say("There is no text yet; get a dataset on the Datasets tab first.")

    # Running.

    def submit(self) -> None:
        """Queue the comparison, or show what is wrong."""
        config = self.form.checked()
        if config is None:
            return
        self.job.submit("report_model", config)

    def _on_done(self, result: Mapping[str, Any]) -> None:
        newest, model_id = str(result["format"]), self._model.id
        self._services.query.ask(
            lambda db: (MODELS.get(db, model_id).report or {}, newest), self._on_stored
        )

    def _on_stored(self, found: tuple[Mapping[str, Any], str]) -> None:
        self.show_reports(*found)

    # Showing.

    def show_reports(self, reports: Mapping[str, Any], newest: str = "") -> None:
        """List what is stored; the tiles show `newest`, else the last one."""
        lines = [report_cells(values) for values in reports.values()]
        self.table.set_rows(lines)
        self.table.setVisible(bool(lines))
        self.copy_button.setEnabled(bool(lines))
        self.none.setVisible(not lines)
        self.tiles.setVisible(bool(lines))
        if lines:
            self._show_tiles(reports.get(newest) or list(reports.values())[-1])

    def _show_tiles(self, values: Mapping[str, Any]) -> None:
        form = format_name(values["format"])
        counted = f"{form}, n = {format_count(values['tokens'])}"
        self.agreement.set_value(format_percent(values["agreement"], 2), counted)
        self.kl.set_value(format_decimal(values["kl"]), counted)
        self.perplexity.set_value(format_decimal(values["perplexity"], 2), counted)
        reference = f"{format_name(values['reference'])}, n = {format_count(values['tokens'])}"
        self.reference.set_value(format_decimal(values["reference_perplexity"], 2), reference)

    def copy(self) -> None:
        """Put the table on the clipboard, tab-separated."""
        QGuiApplication.clipboard().setText(self.table.as_text())


def report_cells(values: Mapping[str, Any]) -> list[str]:
    """A stored report as a line of the table."""
    return [
        format_name(values["format"]),
        format_name(values["reference"]),
        format_percent(values["agreement"], 2),
        format_decimal(values["kl"]),
        format_decimal(values["perplexity"], 2),
        format_decimal(values["reference_perplexity"], 2),
        format_count(values["tokens"]),
    ]
