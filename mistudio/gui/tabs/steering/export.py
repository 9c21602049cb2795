"""Writing a steering for use outside, as code or as vectors, by one job; and its menu entries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from PySide6.QtCore import Signal
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QFileDialog, QMenu, QPushButton, QWidget

from mistudio.core.errors import StudioError
from mistudio.core.steering_export_configs import (
    ENDINGS,
    STEERING_FORMATS,
    TEXT,
    ExportSteeringConfig,
)
from mistudio.core.steering_settings import variants_of
from mistudio.core.steering_shown import title_of
from mistudio.gui import ask
from mistudio.gui.services import Services
from mistudio.gui.tabs.library.jobs import JobWatch
from mistudio.jobs import steer_export
from mistudio.jobs.steering_report import FORMATS
from mistudio.store.records import JobRow

COPY = "Copy as transformers code"
SAVE = {
    "python": "Save as Python…",
    "gguf": "Save as control vector (GGUF)…",
    "safetensors": "Save as safetensors…",
}
TIPS = {
    "python": "A script of torch and transformers that writes the same greedy text",
    "gguf": "What is added, for llama.cpp --control-vector",
    "safetensors": "What is added, one vector per layer",
}
Wanted = Callable[[], ExportSteeringConfig]


class OutsideExport(QWidget):
    """Invisible; what goes wrong and what was written is told by the banner, `told` while it
    works."""

    told = Signal(str)

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.hide()
        self._services = services
        self._watch = JobWatch(services, self)
        self._watch.ended.connect(self._on_ended)

    def add_to(self, menu: QMenu, wanted: Wanted) -> None:
        """Add the entries; `wanted` says what is exported or raises `StudioError`."""
        menu.setToolTipsVisible(True)
        copy = menu.addAction(COPY)
        copy.setToolTip(TIPS["python"])
        copy.triggered.connect(lambda *_: self.ask("python", wanted, is_copy=True))
        for kind, name in SAVE.items():
            entry = menu.addAction(name)
            entry.setToolTip(TIPS[kind])
            entry.triggered.connect(lambda *_, kind=kind: self.ask(kind, wanted))

    def make_menu(
        self,
        button: QPushButton,
        wanted: Wanted,
        report: Callable[[str], object] | None = None,
    ) -> None:
        """Give a button the entries; with `report` (format) also those of the run's reports."""
        menu = QMenu(button)
        self.add_to(menu, wanted)
        if report is not None:
            menu.addSeparator()
            for ending, name in FORMATS.items():
                entry = menu.addAction(f"Save as {name}…")
                entry.triggered.connect(lambda *_, ending=ending: report(ending))
        button.setMenu(menu)

    def ask(self, kind: str, wanted: Wanted, *, is_copy: bool = False) -> None:
        """Ask for the file, and the variant if there are several, and begin."""
        try:
            config = replace(wanted(), format=kind, out=TEXT if is_copy else "")
            run = steer_export.settings_of(self._services.studio, config)
            names = list(variants_of(run))
        except StudioError as error:
            self._services.banner(error.sentence, level="error")
            return
        if len(names) > 1 and not config.variant:
            titles = [title_of(name) for name in names]
            about = "Which of them is exported"
            title, given = ask.choice(self, "Export", about, titles)
            if not given:
                return
            config = replace(config, variant=names[titles.index(title)])
        if not is_copy:
            ending = ENDINGS[kind]
            name = f"{steer_export.file_stem(run.prompt)}.{ending}"
            filters = f"{STEERING_FORMATS[kind]} (*.{ending})"
            out, _ = QFileDialog.getSaveFileName(self, "Export", name, filters)
            if not out:
                return
            config = replace(config, out=out)
        self.start(config)

    def start(self, config: ExportSteeringConfig) -> None:
        """Begin an export whose file is known."""
        try:
            self._watch.submit("steer_export", config)
        except StudioError as error:
            self._services.banner(error.sentence, level="error")
            return
        self.told.emit("Writing what is steered…")

    def _on_ended(self, job: JobRow) -> None:
        self.told.emit("")
        if job.status == "completed" and job.result:
            self._show(job.result)
        elif job.status == "failed":
            self._services.banner(job.error_message or "The export failed.", level="error")

    def _show(self, result: Mapping[str, Any]) -> None:
        if "script" in result:
            QGuiApplication.clipboard().setText(str(result["script"]))
            self._services.banner("The script is on the clipboard.")
            return
        names = " and ".join(Path(file).name for file in result["files"])
        verb = "is" if len(result["files"]) == 1 else "are"
        notes = " ".join(result.get("notes", ()))
        self._services.banner(f"{names} {verb} written. {notes}".rstrip())
