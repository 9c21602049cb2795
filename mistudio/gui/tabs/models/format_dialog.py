"""The dialog that changes a model's format: memory estimates, and what it was measured to take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PySide6.QtCore import Signal
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QWidget

from mistudio.core import memory
from mistudio.core.errors import StudioError
from mistudio.core.model_configs import CheckModelConfig
from mistudio.core.units import format_bytes
from mistudio.gui.dialog import Dialog
from mistudio.gui.services import Services
from mistudio.gui.tabs.library.jobs import JobWatch
from mistudio.gui.tabs.models.formats import FormatList, format_name
from mistudio.gui.widgets.cards import Card, button, label
from mistudio.jobs import model_pages
from mistudio.jobs.job_commands import command_of
from mistudio.jobs.model_pages import DeviceMemory, FormatChoice
from mistudio.store.records import JobRow, ModelRow

_DEVICES = {"cpu": "this machine's memory", "cuda": "the GPU's memory"}


class _Found(NamedTuple):
    choices: Sequence[FormatChoice]
    room: DeviceMemory


class FormatDialog(Dialog):
    """Loads the model once in the chosen format; only if that works the choice is kept."""

    report_asked = Signal(str, str)  # model id, what

    def __init__(self, services: Services, model: ModelRow, parent: QWidget | None = None) -> None:
        super().__init__(f"Format: {model.name}", parent, width=720, height_share=0.8)
        self._services, self._model = services, model
        self._job = ""
        self.now = label(now_text(model), "label", wrap=True)
        self.room = label("Reading the memory of this machine…", "muted", wrap=True)
        self.formats = FormatList()
        self.state = label("", "muted", wrap=True)
        self.problem = label("", "error", wrap=True, selectable=True)
        self.problem.hide()
        card = Card("list", padding=16)
        card.box.addWidget(self.formats)
        for part in (self.now, self.room, card, self.state, self.problem):
            self.box.addWidget(part)
        self.box.addWidget(
            label(
                "The model is loaded and checked in the new format at once; if that fails, it "
                "stays as it is. The format is recorded in all that is made with the model.",
                "muted",
                wrap=True,
            )
        )
        self.box.addStretch(1)
        self.report = button(
            "Quantisation report",
            self._ask_report,
            icon="curve",
            tip="Measure what a quantised form costs on a text",
        )
        self.buttons.insertWidget(0, self.report)
        self.button = button("Use this format", self.submit, variant="primary", icon="check")
        self.button.setToolTip("Load the model in the marked format and keep it if that works")
        self.command_button = button(
            "Copy as command",
            self.copy_command,
            variant="ghost",
            tip="Copy the line that does the same in a terminal",
        )
        self.buttons.insertWidget(1, self.command_button)
        self.buttons.addWidget(self.button)
        self.add_close()
        self.button.setEnabled(False)
        self.formats.changed.connect(self._on_picked)
        self._watch = JobWatch(services, self)
        self._watch.ended.connect(self._on_ended)
        studio = services.studio
        services.network.ask(
            lambda _: _Found(
                model_pages.choices_of(studio, model), model_pages.device_memory(studio)
            ),
            self._on_found,
            on_error=self._on_error,
        )

    def config(self) -> CheckModelConfig:
        """What would be run."""
        return CheckModelConfig(model=self._model.id, format=self.formats.value())

    def copy_command(self) -> None:
        """Put the command that changes to the marked format on the clipboard."""
        QGuiApplication.clipboard().setText(command_of("check_model", self.config()))

    def submit(self) -> None:
        """Queue the change, or show what is wrong."""
        config = self.config()
        try:
            self._job = self._watch.submit("check_model", config)
        except StudioError as error:
            self._say(error.sentence)
            return
        self._say("")
        self.state.setText(f"Loading it in {format_name(config.format)} and checking…")
        self.button.setEnabled(False)

    def _on_found(self, found: _Found) -> None:
        place = _DEVICES.get(found.room.device, found.room.device)
        self.room.setText(
            f"{format_bytes(found.room.free)} of {format_bytes(found.room.total)} of {place} can "
            "be used. Estimates: weights × 1.2 + 0.5 GB; below half of it fits well, above three "
            "quarters is too large."
        )
        self.formats.show_choices(found.choices, self._model.format or "")
        self._on_picked()

    def _on_error(self, sentence: str, details: str) -> None:
        self.room.hide()
        self._say(sentence)

    def _on_picked(self) -> None:
        chosen = self.formats.value()
        self.button.setEnabled(bool(chosen) and chosen != self._model.format and not self._job)

    def _on_ended(self, job: JobRow) -> None:
        if job.id != self._job:
            return
        self._job = ""
        self.state.setText("")
        if job.status == "failed":
            self._say(job.error_message or "The format could not be changed.")
            self._propose(job)
        elif job.status == "completed" and job.result:
            self._take(job.result)
        self._on_picked()

    def _propose(self, job: JobRow) -> None:
        """After running out of memory mark the next smaller format; nothing switches by itself."""
        smaller = memory.next_smaller(str(job.config.get("format") or ""))
        if job.error_code == "out_of_memory" and smaller in self.formats.buttons:
            self.formats.buttons[smaller].setChecked(True)
            self.state.setText(f"{format_name(smaller)} takes less and is marked now.")

    def _take(self, result: dict[str, object]) -> None:
        from dataclasses import replace

        got = str(result.get("format") or self._model.format)
        size = result.get("memory_bytes")
        asked = self.formats.value()
        measured = size if isinstance(size, int) else None
        self._model = replace(self._model, format=got, memory_bytes=measured)
        self.now.setText(now_text(self._model))
        if got == asked:
            self.state.setText(f"The model is loaded in {format_name(got)}.")
        else:
            self.state.setText(
                f"{format_name(asked)} does not work on this device; {format_name(got)} is used."
            )

    def _ask_report(self) -> None:
        self.report_asked.emit(self._model.id, "report")

    def _say(self, sentence: str) -> None:
        self.problem.setText(sentence)
        self.problem.setVisible(bool(sentence))


def now_text(model: ModelRow) -> str:
    """ "Now in FP32; measured: 538.0 MB in memory." """
    return (
        f"Now in {format_name(model.format)}; measured after loading: "
        f"{format_bytes(model.memory_bytes)} in memory."
    )
