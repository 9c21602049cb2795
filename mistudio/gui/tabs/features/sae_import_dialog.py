"""What the dialogs have in common that take another program's files over for one SAE."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from PySide6.QtCore import Slot
from PySide6.QtWidgets import QPushButton, QWidget

from mistudio.core.config import Config
from mistudio.gui.dialog import Dialog
from mistudio.gui.services import Services
from mistudio.gui.tabs.library.one_job import OneJob
from mistudio.gui.widgets.cards import button, label
from mistudio.gui.widgets.config_form import ConfigForm
from mistudio.gui.widgets.progress import ProgressBar
from mistudio.store.records import SaeRow

ConfigT = TypeVar("ConfigT", bound=Config)


class SaeImportDialog(Dialog, Generic[ConfigT]):
    """The SAE's name, what it means, a form, what was found, and the job that Import starts."""

    title: str
    meaning: str
    tip: str
    cancel_tip: str

    def __init__(self, services: Services, sae: SaeRow, parent: QWidget | None = None) -> None:
        super().__init__(self.title, parent, width=768, height_share=0.66)
        self._services, self._sae = services, sae
        self.form = self.make_form()
        self.form.set_values({"sae": sae.id})
        self.found = label("", wrap=True, selectable=True)
        self.start_button = button(
            "Import", self.start, variant="primary", icon="download", tip=self.tip
        )
        self.bar = ProgressBar("yellow")
        self.job = OneJob(
            services,
            self.start_button,
            self,
            failure="The import failed.",
            cancel_tip=self.cancel_tip,
            bar=self.bar,
        )
        self.job.done.connect(self._on_done)
        self.box.addWidget(label(f"For {sae.name}", "card", wrap=True))
        self.box.addWidget(label(self.meaning, "muted", wrap=True))
        for part in (self.form, self.found, self.bar, self.job.state, self.job.problem):
            self.box.addWidget(part)
        self.box.addStretch(1)
        for part in (*self.first_buttons(), self.job.cancel_button, self.start_button):
            self.buttons.addWidget(part)
        self.add_close()

    @abstractmethod
    def make_form(self) -> ConfigForm[ConfigT]:
        """The settings that are asked for."""

    @abstractmethod
    def start(self) -> None:
        """Queue the import, or show what is wrong."""

    @abstractmethod
    def tell(self, result: Mapping[str, Any]) -> None:
        """Show what came of the import."""

    def first_buttons(self) -> tuple[QPushButton, ...]:
        """Buttons that stand before Cancel and Import."""
        return ()

    @Slot(object)
    def _on_done(self, result: Mapping[str, Any]) -> None:
        self.tell(result)
