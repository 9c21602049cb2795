"""Which features of an SAE stay the same in another format of its model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PySide6.QtCore import Slot
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QWidget

from mistudio.core.comparison_configs import SurvivalConfig
from mistudio.core.survival_figures import survival_rows, survival_sentences
from mistudio.gui.dialog import Dialog
from mistudio.gui.services import Services
from mistudio.gui.tabs.library.one_job import OneJob
from mistudio.gui.tabs.models.formats import QUANTISED, format_name
from mistudio.gui.tabs.models.tables import FigureTable
from mistudio.gui.tabs.training.choices import Choices, read_choices
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label, row
from mistudio.gui.widgets.config_form import ConfigForm
from mistudio.gui.widgets.editors import ChoiceEditor
from mistudio.gui.widgets.histogram_plot import HistogramPlot
from mistudio.gui.widgets.library_choice import LibraryChoice
from mistudio.store.records import SaeRow

_MEANING = (
    "The SAE's hook is read on the same held-out tokens in two formats of the model. Correlation "
    "is Pearson's, of a feature's activations over all tokens, zeros included. Intervals of shares "
    "draw features again, the others documents."
)
_TITLES = ["", "Value", "95 % interval"]


class SurvivalDialog(Dialog):
    """Format, text and tokens, then the shares of features that survive; the newest is kept."""

    def __init__(self, services: Services, sae: SaeRow, parent: QWidget | None = None) -> None:
        super().__init__(f"Survival report: {sae.name}", parent, width=1024, height_share=0.9)
        self._services, self._sae = services, sae
        self.form: ConfigForm[SurvivalConfig] = ConfigForm(
            SurvivalConfig,
            ("format", "tokens", "min_firings", "dataset"),
            editors={
                "format": ChoiceEditor([(form, format_name(form)) for form in QUANTISED]),
                "dataset": LibraryChoice("The text that it was trained on"),
            },
            command="sae survival",
            positional=("sae",),
        )
        self.form.set_values({"sae": sae.id, "format": QUANTISED[0]})
        self.start_button = button(
            "Run report",
            self.start,
            variant="primary",
            icon="play",
            tip="Queue the report; it opens here when it is done",
        )
        self.job = OneJob(
            services,
            self.start_button,
            self,
            failure="The report failed.",
            cancel_tip="End this report",
        )
        self.job.done.connect(self.show_result)
        self.rests_on = label("", wrap=True, selectable=True)
        self.table = FigureTable(_TITLES, "Survival report", numeric=(1, 2), most=20)
        self.plot = HistogramPlot("Features by correlation", "Pearson correlation")
        self.plot.setMinimumHeight(appearance().px(220))
        self.copy_button = button("Copy as table", self.copy, icon="copy", tip="Copy every cell")
        self._build()
        services.query.ask(read_choices, self._on_choices)
        folder = services.studio.paths.absolute(sae.path)
        services.query.ask(lambda _db: newest_report(folder), self._on_stored)

    def _build(self) -> None:
        self.box.addWidget(label(_MEANING, "muted", wrap=True))
        self.box.addWidget(self.form)
        self.box.addLayout(row(self.start_button, self.job.cancel_button, self.job.state, None))
        self.box.addWidget(self.job.problem)
        shown = (self.rests_on, self.table, self.plot)
        for part in shown:
            self.box.addWidget(part)
            part.hide()
        self.box.addStretch(1)
        self.buttons.insertWidget(0, self.copy_button)
        self.add_close()
        self.copy_button.setEnabled(False)

    @Slot(object)
    def _on_choices(self, choices: Choices) -> None:
        editor = self.form.fields["dataset"].editor
        if isinstance(editor, LibraryChoice):
            editor.offer(choices.text_pairs(choices.model(self._sae.model_id or "")))

    @Slot(object)
    def _on_stored(self, found: Mapping[str, Any] | None) -> None:
        if found is not None:
            self.show_result(found)

    def start(self) -> None:
        """Queue the report, or show what is wrong."""
        config = self.form.checked()
        if config is None:
            return
        self.job.submit("survival", config)

    def copy(self) -> None:
        """Put the table on the clipboard, tab-separated."""
        QGuiApplication.clipboard().setText(self.table.as_text())

    @Slot(object)
    def show_result(self, found: Mapping[str, Any]) -> None:
        """Show a report."""
        self.rests_on.setText(" ".join(survival_sentences(found)))
        self.table.set_rows(survival_rows(found)[1:])
        self.plot.set_counts(found["correlation_histogram_edges"], found["correlation_histogram"])
        for part in (self.rests_on, self.table, self.plot):
            part.show()
        self.copy_button.setEnabled(True)


def newest_report(folder: Path) -> dict[str, Any] | None:
    """The report stored last with an SAE, None if there is none that can be read."""
    try:
        files = sorted(folder.glob("survival-*.json"), key=lambda file: file.stat().st_mtime)
        return json.loads(files[-1].read_text(encoding="utf-8")) if files else None
    except (OSError, ValueError):
        return None
