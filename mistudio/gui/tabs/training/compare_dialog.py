"""Two SAEs side by side on the same held-out documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PySide6.QtCore import Slot
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QHBoxLayout, QWidget

from mistudio.core.comparison_configs import CompareSaesConfig
from mistudio.core.errors import StudioError
from mistudio.core.sae_figures import overlap_sentence
from mistudio.gui.dialog import Dialog
from mistudio.gui.reporting import Drained
from mistudio.gui.services import Services
from mistudio.gui.tabs.library.jobs import JobWatch
from mistudio.gui.tabs.models.tables import FigureTable
from mistudio.gui.tabs.training.choices import Choices, read_choices
from mistudio.gui.tabs.training.figures import comparison_rows
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label, row
from mistudio.gui.widgets.config_form import ConfigForm
from mistudio.gui.widgets.library_choice import LibraryChoice
from mistudio.gui.widgets.plots import HistogramPlot
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
        self._job = ""
        self.names = label(f"A: {first.name}\nB: {second.name}", "card", wrap=True)
        self.form: ConfigForm[CompareSaesConfig] = ConfigForm(
            CompareSaesConfig,
            ("dataset", "tokens"),
            editors={"dataset": LibraryChoice("The text that A was trained on, else B's")},
            command="sae compare",
            positional=("sae", "other"),
        )
        self.form.set_values(CompareSaesConfig(sae=first.id, other=second.id))
        self.start_button = button("Compare", self.start, variant="primary", icon="curve")
        self.cancel_button = button("Cancel", self.cancel, icon="close", tip="End this comparison")
        self.state = label("", "muted", wrap=True)
        self.problem = label("", "error", wrap=True, selectable=True)
        self.rests_on = label("", "muted", wrap=True)
        self.table = FigureTable(_TITLES, "Comparison", numeric=(1, 2, 3, 4), most=40)
        self.overlap = label("", wrap=True, selectable=True)
        self.plots = [
            HistogramPlot(f"{name}'s features by largest decoder cosine", "decoder cosine")
            for name in ("A", "B")
        ]
        self.copy_button = button("Copy as table", self.copy, icon="copy", tip="Copy every cell")
        self._build()
        self._watch = JobWatch(services, self)
        self._watch.ended.connect(self._on_ended)
        services.lanes.drained.connect(self._on_drained)
        services.query.ask(read_choices, self._on_choices)

    def _build(self) -> None:
        self.box.addWidget(self.names)
        self.box.addWidget(label(_MEANING, "muted", wrap=True))
        self.box.addWidget(self.form)
        self.box.addLayout(row(self.start_button, self.cancel_button, self.state, None))
        for part in (self.problem, self.rests_on, self.table, self.overlap):
            self.box.addWidget(part)
        beside = QHBoxLayout()
        beside.setSpacing(appearance().px(16))
        for plot in self.plots:
            plot.setMinimumHeight(appearance().px(220))
            beside.addWidget(plot)
        self.box.addLayout(beside)
        self.box.addStretch(1)
        self.buttons.insertWidget(0, self.copy_button)
        self.add_close()
        self.copy_button.setEnabled(False)
        self.cancel_button.hide()
        for part in (self.problem, self.rests_on, self.table, self.overlap, *self.plots):
            part.hide()

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
        try:
            self._job = self._watch.submit("compare_saes", config)
        except StudioError as error:
            self._say(error.sentence)
            return
        self._say("")
        self._wait(True)

    def cancel(self) -> None:
        """End the job under way."""
        self.state.setText("Cancelling…")
        self._services.lanes.request(self._job, "cancel")

    def copy(self) -> None:
        """Put the table on the clipboard, tab-separated."""
        QGuiApplication.clipboard().setText(self.table.as_text())

    @Slot(str, object)
    def _on_drained(self, job_id: str, drained: Drained) -> None:
        if job_id == self._job and drained.progress is not None:
            told = drained.progress
            parts = (f"{100 * told.fraction:.0f} %", told.phase, told.rate)
            self.state.setText(" · ".join(part for part in parts if part))

    @Slot(object)
    def _on_ended(self, job: Any) -> None:
        if job.id != self._job:
            return
        self._wait(False)
        if job.status == "completed" and job.result:
            self.show_result(job.result)
        elif job.status == "failed":
            self._say(job.error_message or "The comparison failed.")

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
        for part in (self.rests_on, self.table, self.overlap, *self.plots):
            part.show()
        self.copy_button.setEnabled(True)

    def _wait(self, waiting: bool) -> None:
        self.start_button.setDisabled(waiting)
        self.cancel_button.setVisible(waiting)
        self.state.setText("Waits for its turn" if waiting else "")

    def _say(self, sentence: str) -> None:
        self.problem.setText(sentence)
        self.problem.setVisible(bool(sentence))
