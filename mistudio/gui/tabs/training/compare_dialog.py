"""Two SAEs side by side on the same held-out documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PySide6.QtCore import Slot
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QHBoxLayout, QTabWidget, QVBoxLayout, QWidget

from mistudio.core.comparison_configs import CompareSaesConfig
from mistudio.core.sae_figures import overlap_sentence
from mistudio.gui.dialog import Dialog
from mistudio.gui.services import Services
from mistudio.gui.tabs.library.one_job import OneJob
from mistudio.gui.tabs.models.tables import FigureTable
from mistudio.gui.tabs.training.choices import Choices, read_choices
from mistudio.gui.tabs.training.figures import comparison_rows
from mistudio.gui.tabs.training.matches_page import MatchesPage
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label, row
from mistudio.gui.widgets.config_form import ConfigForm
from mistudio.gui.widgets.histogram_plot import HistogramPlot
from mistudio.gui.widgets.library_choice import LibraryChoice
from mistudio.store.records import SaeRow

_MEANING = (
    "Both SAEs read the same held-out documents. The interval is that of the difference B − A, "
    "with the same documents drawn for both; ● marks a difference whose interval leaves 0 out."
)
_TITLES = ["Metric", "A", "B", "B − A", "95 % interval", ""]


class CompareDialog(Dialog):
    """Text and tokens, Compare, then the table and how the features overlap."""

    def __init__(
        self, services: Services, first: SaeRow, second: SaeRow, parent: QWidget | None = None
    ) -> None:
        super().__init__("Compare two SAEs", parent, width=1152, height_share=0.9)
        self._services, self._pair = services, (first, second)
        self.names = label(f"A: {first.name}\nB: {second.name}", "card", wrap=True)
        self.form: ConfigForm[CompareSaesConfig] = ConfigForm(
            CompareSaesConfig,
            ("dataset", "tokens"),
            editors={"dataset": LibraryChoice("The text that A was trained on, else B's")},
            command="sae compare",
            positional=("sae", "other"),
        )
        self.form.set_values(CompareSaesConfig(sae=first.id, other=second.id))
        self.start_button = button(
            "Compare",
            self.start,
            variant="primary",
            icon="curve",
            tip="Measure both on the same held-out text",
        )
        self.job = OneJob(
            services,
            self.start_button,
            self,
            failure="The comparison failed.",
            cancel_tip="End this comparison",
        )
        self.job.done.connect(self.show_result)
        self.rests_on = label("", "muted", wrap=True)
        self.table = FigureTable(_TITLES, "Comparison", numeric=(1, 2, 3, 4), most=40)
        self.overlap = label("", wrap=True, selectable=True)
        self.plots = [
            HistogramPlot(f"{name}'s features by largest decoder cosine", "decoder cosine")
            for name in ("A", "B")
        ]
        self.matches = MatchesPage(services, (first, second))
        self.matches.opened.connect(self._on_feature)
        self.pages = QTabWidget()
        self.copy_button = button("Copy as table", self.copy, icon="copy", tip="Copy every cell")
        self._build()
        services.query.ask(read_choices, self._on_choices)

    def _build(self) -> None:
        self.box.addWidget(self.names)
        self.box.addWidget(label(_MEANING, "muted", wrap=True))
        self.box.addWidget(self.form)
        self.box.addLayout(row(self.start_button, self.job.cancel_button, self.job.state, None))
        self.box.addWidget(self.job.problem)
        figures = QWidget()
        inside = QVBoxLayout(figures)
        inside.setContentsMargins(0, appearance().px(8), 0, 0)
        for part in (self.rests_on, self.table, self.overlap):
            inside.addWidget(part)
        beside = QHBoxLayout()
        beside.setSpacing(appearance().px(16))
        for plot in self.plots:
            plot.setMinimumHeight(appearance().px(220))
            beside.addWidget(plot)
        inside.addLayout(beside)
        inside.addStretch(1)
        self.pages.addTab(figures, "Figures")
        self.pages.addTab(self.matches, "Features")
        self.box.addWidget(self.pages, 1)
        self.box.addStretch(1)
        self.buttons.insertWidget(0, self.copy_button)
        self.add_close()
        self.copy_button.setEnabled(False)
        self.pages.hide()

    @Slot(object)
    def _on_choices(self, choices: Choices) -> None:
        editor = self.form.fields["dataset"].editor
        if isinstance(editor, LibraryChoice):
            model = choices.model(self._pair[0].model_id or "")
            editor.offer(choices.text_pairs(model))

    def start(self) -> None:
        """Queue the comparison, or show what is wrong."""
        config = self.form.checked()
        if config is None:
            return
        self.job.submit("compare_saes", config)

    @Slot(str, int)
    def _on_feature(self, sae_id: str, feature: int) -> None:
        self._services.open_tab("Features", sae=sae_id, feature=feature)

    def copy(self) -> None:
        """Put the table on the clipboard, tab-separated."""
        QGuiApplication.clipboard().setText(self.table.as_text())

    @Slot(object)
    def show_result(self, found: Mapping[str, Any]) -> None:
        """Show what a comparison found."""
        rows = comparison_rows(found)
        self.rests_on.setText(
            f"{found['n']:,} tokens of {found['documents']:,} documents; the model's loss on "
            f"{found['ce_n']:,} tokens of {found['ce_documents']:,}."
        )
        self.table.set_rows(rows.texts, rows.tips)
        self.table.head(rows.headings)
        overlap = found["overlap"]
        self.overlap.setText(overlap_sentence(overlap))
        for plot, name in zip(self.plots, ("a", "b"), strict=True):
            plot.set_counts(overlap["edges"], overlap[f"histogram_{name}"])
        self.pages.setTabVisible(1, "matches" in found)
        if "matches" in found:
            self.matches.show_matches(found["matches"])
        self.pages.show()
        self.copy_button.setEnabled(True)
