"""The settings that a run was started with."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Signal
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QVBoxLayout, QWidget

from mistudio.core.config import command_line, from_dict, settings_of
from mistudio.core.training_configs import TrainConfig
from mistudio.gui.services import Services
from mistudio.gui.tabs.training.reads import Run
from mistudio.gui.widgets.cards import button, row
from mistudio.gui.widgets.facts_table import FactsTable


class SettingsPane(QWidget):
    """Label and value of every setting; `wanted(values)` asks for a form filled with them."""

    wanted = Signal(object)

    def __init__(self, run: Run, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._values = run.training.config
        self.table = FactsTable(["Setting", "Value", "Default"], "Settings", most=10)
        self.table.set_rows(_rows(run))
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(self.table)
        copy = button(
            "Copy as command",
            self.copy,
            icon="copy",
            tip="Copy the line that trains the same in a terminal",
        )
        use = button("Use for a new training", self._use, icon="edit")
        box.addLayout(row(use, copy, None))

    def show_run(self, run: Run) -> None:
        """The settings of a run never change."""

    def copy(self) -> None:
        """Put the command that starts such a run on the clipboard."""
        config = from_dict(TrainConfig, self._values)
        QGuiApplication.clipboard().setText(command_line("train", config))

    def _use(self) -> None:
        self.wanted.emit(self._values)


def _rows(run: Run) -> list[list[str]]:
    config = from_dict(TrainConfig, run.training.config)
    names = {"model": run.model, "dataset": run.dataset}
    return [
        [s.option.label, names.get(s.name) or _text(getattr(config, s.name)), _text(s.default)]
        for s in settings_of(TrainConfig)
    ]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)
