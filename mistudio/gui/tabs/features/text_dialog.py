"""Own text to features that fire on it: one forward pass, a list to open features from."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Signal
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QWidget

from mistudio.core.analysis_configs import OwnTextConfig
from mistudio.core.units import format_percent
from mistudio.gui.dialog import Dialog
from mistudio.gui.services import Services
from mistudio.gui.tabs.features.example_card import marked
from mistudio.gui.tabs.features.text_box import OwnText
from mistudio.gui.tabs.features.try_page import REMEMBERED
from mistudio.gui.tabs.library.one_job import OneJob
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label
from mistudio.gui.widgets.config_form import ConfigForm
from mistudio.gui.widgets.facts_table import FactsTable
from mistudio.store.records import SaeRow

COLUMNS = ("Feature", "Largest", "Sum", "Tokens", "At", "Density", "Label or top tokens")


class TextDialog(Dialog):
    """A text, its settings, and the features that fire on it; `opened` asks for one of them."""

    opened = Signal(int)

    def __init__(self, services: Services, sae: SaeRow, parent: QWidget | None = None) -> None:
        super().__init__(
            f"Features that fire on your text: {sae.name}",
            parent,
            width=1000,
            height_share=0.9,
            scroll=False,
        )
        self._services, self._sae = services, sae
        self.found: dict[str, Any] | None = None
        self.text = OwnText(self.run)
        self.text.setPlainText(str(services.settings.recall(REMEMBERED, "")))
        self.form = ConfigForm(
            OwnTextConfig,
            ("sort", "limit", "least_density", "most_density"),
            columns=4,
            settings=services.settings,
            remember="own_text",
            command="features test",
        )
        self.run_button = button(
            "Read", self.run, variant="primary", icon="play", tip="Ctrl+Return"
        )
        self.form.action_row.addWidget(self.run_button)
        self.job = OneJob(services, self.run_button, self, failure="The text could not be read.")
        self.job.done.connect(self._on_done)
        self.count = label("", "muted", wrap=True)
        self.table = FactsTable(COLUMNS, "Features that fire on the text", most=1000, stretch=6)
        self.table.cellDoubleClicked.connect(self._on_row)
        self.table.cellActivated.connect(self._on_row)
        self._build()

    def _build(self) -> None:
        self.box.setSpacing(appearance().px(10))
        for part in (self.text, self.form, self.job.state, self.job.problem, self.count):
            self.box.addWidget(part)
        self.box.addWidget(self.table, 1)
        self.box.addStretch(0)
        self.table.hide()
        self.copy_button = button("Copy as table", self.copy, icon="copy", tip="Copy every line")
        self.copy_button.setEnabled(False)
        self.buttons.insertWidget(0, self.copy_button)
        self.buttons.insertWidget(1, self.job.cancel_button)
        self.add_close()
        self.text.setFocus()

    def run(self) -> None:
        """Read the text, or show what is wrong."""
        self.form.set_values({"sae": self._sae.id, "text": self.text.toPlainText()})
        config = self.form.checked()
        if isinstance(config, OwnTextConfig) and self.job.submit("own_text", config):
            self._services.settings.remember(REMEMBERED, config.text)

    def _on_done(self, result: dict[str, Any]) -> None:
        self.found = result
        listed = len(result["features"])
        self.count.setText(
            f"{result['fired']:,} features fire on {result['tokens']:,} tokens; {listed:,} listed. "
            "The start token and tokens of extreme norm are left out. Double-click to open one."
        )
        self.table.set_rows([cells(line) for line in result["features"]])
        self.table.setMinimumHeight(0)
        self.table.setMaximumHeight(16_777_215)
        self.table.setVisible(bool(listed))
        self.copy_button.setEnabled(bool(listed))

    def _on_row(self, line: int, _column: int) -> None:
        if self.found is not None:
            self.opened.emit(int(self.found["features"][line]["feature"]))

    def copy(self) -> None:
        """Put the list on the clipboard, tab-separated."""
        lines = ["\t".join(COLUMNS), *("\t".join(line) for line in self.table.texts())]
        QGuiApplication.clipboard().setText("\n".join(lines))


def cells(line: dict[str, Any]) -> list[str]:
    """A feature as a line of the table."""
    return [
        f"#{line['feature']}",
        f"{line['max']:.3f}",
        f"{line['sum']:.3f}",
        f"{line['tokens']:,}",
        marked(line["at"]),
        format_percent(line["frequency"], 2),
        str(line["label"] or line["top_tokens"]),
    ]
