"""How much of a concept other features carry in place of one: two lists of prompts, who carries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QWidget

from mistudio.core.analysis_configs import AbsorptionConfig
from mistudio.core.config import violations
from mistudio.core.errors import StudioError
from mistudio.core.units import EM_DASH, format_percent
from mistudio.gui.dialog import Dialog
from mistudio.gui.services import Services
from mistudio.gui.tabs.library.one_job import OneJob
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label, row
from mistudio.gui.widgets.config_form import ConfigForm
from mistudio.gui.widgets.facts_table import FactsTable
from mistudio.gui.widgets.prompt_lists import PromptLists
from mistudio.jobs import measure_absorption
from mistudio.jobs.job_commands import command_of
from mistudio.store.records import SaeRow

ABSORBERS = ("Feature", "Prompts", "Carries", "Label")
PROMPTS = ("Prompt", "Fraction", "Probe", "Feature", "Others", "Carried by")
MEANING = (
    "A probe, the difference of the lists' means, tells what the end of each prompt holds of the "
    "concept: P. The feature carries M of it, at most three others that point the same way A. The "
    "absorption fraction is min(A, P − M) / (min(A, P − M) + M), 0 where A is less than 0.4 P. "
    "Each prompt is read with a probe that was fitted without it."
)


class AbsorptionDialog(Dialog):
    """Lists, what they measured, and the features that carry the concept; `opened` asks for one."""

    opened = Signal(int)

    def __init__(
        self, services: Services, sae: SaeRow, feature: int, parent: QWidget | None = None
    ) -> None:
        super().__init__(
            f"Absorption of feature #{feature}: {sae.name}",
            parent,
            width=1100,
            height_share=0.9,
            scroll=False,
        )
        self._services, self._sae, self._feature = services, sae, feature
        self.found: dict[str, Any] | None = None
        tip = "the end of a positive prompt holds the concept, that of a negative one does not"
        self.prompts = PromptLists(services.settings, "absorption", tip)
        self.form: ConfigForm[AbsorptionConfig] = ConfigForm(
            AbsorptionConfig, ("also", "read"), columns=2
        )
        self.run_button = button(
            "Measure",
            self.run,
            variant="primary",
            icon="play",
            tip="Read both lists with the model and see which features carry the concept",
        )
        self.command_button = button(
            "Copy as command",
            self.copy_command,
            variant="ghost",
            tip="Copy the line that does the same in a terminal (bash or zsh)",
        )
        self.job = OneJob(services, self.run_button, self, failure="Absorption was not measured.")
        self.job.done.connect(self._on_done)
        self.outcome = label(MEANING, "muted", wrap=True, selectable=True)
        self.absorbers = FactsTable(
            ABSORBERS, "Features that carry it instead", most=1000, stretch=3
        )
        self.absorbers.cellDoubleClicked.connect(self._on_row)
        self.absorbers.cellActivated.connect(self._on_row)
        self.lines = FactsTable(PROMPTS, "Positive prompts, one by one", most=1000, stretch=0)
        self.lines.setTextElideMode(Qt.TextElideMode.ElideLeft)  # their ends are what is read
        self.lines.setWordWrap(False)
        self._lay_out()

    def _lay_out(self) -> None:
        self.box.setSpacing(appearance().px(8))
        self.box.addWidget(self.prompts, 2)
        self.box.addWidget(self.form)
        for widget in (self.run_button, self.command_button, self.job.cancel_button):
            self.form.action_row.addWidget(widget)
        self.form.action_row.addWidget(self.job.state, 1)
        self.box.addWidget(self.job.problem)
        self.box.addWidget(self.outcome)
        tables = row(self.absorbers, self.lines, spacing=12)
        tables.setStretch(0, 1)
        tables.setStretch(1, 2)
        self.box.addLayout(tables, 3)
        for table in (self.absorbers, self.lines):
            self._fill(table, [])
        self.absorbers.hide()
        self.add_close()
        self.prompts.positive.setFocus()

    def config(self) -> AbsorptionConfig:
        """The settings with both lists; raises `InvalidInput` for a number that is none."""
        own = {"sae": self._sae.id, "feature": self._feature}
        self.form.set_values({**own, **self.prompts.lists()})
        return self.form.values()

    def copy_command(self) -> None:
        """Put the command that measures the same on the clipboard."""
        try:
            text = command_of("absorption", self.config())
        except StudioError as error:
            self.job.say(error.sentence)
        else:
            QGuiApplication.clipboard().setText(text)

    def run(self) -> None:
        """Queue the lists, or show what is wrong."""
        try:
            config = self.config()
        except StudioError as error:
            self.job.say(error.sentence)
            return
        if found := violations(config):
            self.job.say(" ".join(one.sentence for one in found))
        elif self.job.submit("absorption", config):
            self.prompts.remember()

    def _on_done(self, result: dict[str, Any]) -> None:
        self.found = result
        self.outcome.setText(measure_absorption.summary(result))
        self.outcome.setToolTip(MEANING)
        self._fill(
            self.absorbers,
            [
                [
                    f"#{line['feature']}",
                    f"{line['prompts']:,}",
                    format_percent(line["share"]),
                    str(line["called"]),
                ]
                for line in result["absorbers"]
            ],
        )
        self.absorbers.setVisible(bool(result["absorbers"]))
        self._fill(
            self.lines,
            [cells(line) for line in result["lines"]],
            [str(line["prompt"]) for line in result["lines"]],
        )

    def _fill(self, table: FactsTable, rows: list[list[str]], tips: Sequence[str] = ()) -> None:
        table.set_rows(rows, tips)
        table.setMinimumHeight(appearance().px(96))
        table.setMaximumHeight(16_777_215)  # as high as there is room, not as its rows

    def _on_row(self, line: int, _column: int) -> None:
        if self.found is not None:
            self.opened.emit(int(self.found["absorbers"][line]["feature"]))


def cells(line: dict[str, Any]) -> list[str]:
    """A prompt as a line of the table."""
    fraction = line["fraction"]
    return [
        str(line["prompt"]),
        EM_DASH if fraction is None else f"{fraction:.3f}",
        f"{line['projection']:.3f}",
        f"{line['main']:.3f}",
        f"{sum(line['absorbed']):.3f}",
        ", ".join(f"#{feature}" for feature in line["absorbers"]) or EM_DASH,
    ]
