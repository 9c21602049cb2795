"""The prompt lens: what a model would say after each layer, at each position of a prompt."""

from __future__ import annotations

from PySide6.QtCore import QModelIndex, Qt
from PySide6.QtGui import QGuiApplication, QKeyEvent
from PySide6.QtWidgets import QPlainTextEdit, QWidget

from mistudio.core.config import violations
from mistudio.core.model_configs import PromptLensConfig
from mistudio.gui.dialog import Dialog
from mistudio.gui.services import Services
from mistudio.gui.style import mono_font
from mistudio.gui.tabs.library.one_job import OneJob
from mistudio.gui.tabs.models.lens_grid import LensGrid, LensModel
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import Card, button, label, row
from mistudio.jobs.job_commands import command_of
from mistudio.store.records import ModelRow

_MEANING = (
    "Each cell is the token that the model would say next if it ended after that layer, read with "
    "its own final norm and output matrix. The stronger the colour, the more probable; the top row "
    "is the model's own prediction."
)
_EXAMPLE = "The capital of France is"


class PromptBox(QPlainTextEdit):
    """A prompt of a few lines; Ctrl+Return runs it, Tab leaves it."""

    def __init__(self, run: object, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._run = run
        self.setTabChangesFocus(True)
        self.setFont(mono_font())
        self.setAccessibleName("Prompt")
        self.setToolTip("The text that the model reads; Ctrl+Return runs it")
        self.setFixedHeight(appearance().px(60))

    def keyPressEvent(self, event: QKeyEvent) -> None:
        control = event.modifiers() & Qt.KeyboardModifier.ControlModifier
        if control and event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self._run()  # type: ignore[operator]
        else:
            super().keyPressEvent(event)


class PromptLensDialog(Dialog):
    """A prompt, Run, and the grid; the current cell is spelled out below it."""

    def __init__(self, services: Services, model: ModelRow, parent: QWidget | None = None) -> None:
        super().__init__(
            f"Prompt lens: {model.name}", parent, width=1152, height_share=0.9, scroll=False
        )
        self._services, self._model = services, model
        self._grid_model: LensModel | None = None
        self.prompt = PromptBox(self.run)
        self.prompt.setPlainText(str(services.settings.recall("prompt_lens", _EXAMPLE)))
        self.run_button = button("Run", self.run, variant="primary", icon="play", tip="Ctrl+Return")
        self.job = OneJob(services, self.run_button, self, failure="The prompt lens failed.")
        self.job.done.connect(self._show)
        self.grid = LensGrid()
        self.details = label("", "mono", wrap=True, selectable=True)
        self.copy_button = button("Copy as table", self.copy, icon="copy", tip="Copy every cell")
        self.command_button = button(
            "Copy as command",
            self.copy_command,
            variant="ghost",
            tip="Copy the line that does the same in a terminal",
        )
        self._build()
        self.prompt.setFocus()

    def _build(self) -> None:
        self.box.setSpacing(appearance().px(10))
        self.meaning = label(_MEANING, "muted", wrap=True)
        self.box.addWidget(self.meaning)
        self.box.addWidget(self.prompt)
        self.box.addLayout(
            row(self.run_button, self.command_button, self.job.cancel_button, self.job.state, None)
        )
        self.box.addWidget(self.job.problem)
        self.box.addWidget(self.grid, 1)
        self.below = Card("nested", padding=12)
        self.below.box.addWidget(self.details)
        self.box.addWidget(self.below)
        self.buttons.insertWidget(0, self.copy_button)
        self.add_close()
        for part in (self.grid, self.below):
            part.hide()
        self.box.addStretch(0)
        self.copy_button.setEnabled(False)

    def config(self) -> PromptLensConfig:
        """What would be run."""
        return PromptLensConfig(model=self._model.id, prompt=self.prompt.toPlainText())

    def copy_command(self) -> None:
        """Put the command that reads the same prompt on the clipboard."""
        QGuiApplication.clipboard().setText(command_of("prompt_lens", self.config()))

    def run(self) -> None:
        """Queue the prompt, or show what is wrong."""
        config = self.config()
        if found := violations(config):
            self.job.say(" ".join(violation.sentence for violation in found))
            return
        if self.job.submit("prompt_lens", config):
            self._services.settings.remember("prompt_lens", config.prompt)

    def copy(self) -> None:
        """Put the grid on the clipboard, tab-separated."""
        if self._grid_model is not None:
            QGuiApplication.clipboard().setText(self._grid_model.as_text())

    def _show(self, result: dict[str, object]) -> None:
        self.meaning.hide()  # the grid needs the room
        self.grid.setToolTip(_MEANING)
        self.grid.show()
        self.below.show()
        self._grid_model = self.grid.show_result(result)
        self.grid.selectionModel().currentChanged.connect(self._on_current)
        self._on_current(self.grid.currentIndex())
        self.copy_button.setEnabled(True)
        self.grid.setFocus()

    def _on_current(self, current: QModelIndex, previous: QModelIndex | None = None) -> None:
        if self._grid_model is not None and current.isValid():
            lines = self._grid_model.describe(current).splitlines()
            self.details.setText(lines[0] + ":   " + "    ".join(x.strip() for x in lines[1:]))
