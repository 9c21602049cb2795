"""A feature set from a delphi cache: where it lies, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PySide6.QtCore import Slot
from PySide6.QtWidgets import QWidget

from mistudio.core.feature_export_configs import ImportCacheConfig
from mistudio.core.units import format_count
from mistudio.gui.dialog import Dialog
from mistudio.gui.services import Services
from mistudio.gui.tabs.library.one_job import OneJob
from mistudio.gui.widgets.cards import button, label
from mistudio.gui.widgets.config_form import ConfigForm
from mistudio.gui.widgets.editors import PathEditor
from mistudio.gui.widgets.progress import ProgressBar
from mistudio.store.records import SaeRow

_MEANING = (
    "Takes over every activation that delphi cached, with the tokens: the text is decoded into a "
    "dataset of its own, and statistics, examples, logit lens and labels are computed as for text "
    "that was read here. The model reads the first rows, to see whether the cache is of this SAE."
)


class ImportCacheDialog(Dialog):
    """A folder, a name for the text, and the job that takes it over."""

    def __init__(self, services: Services, sae: SaeRow, parent: QWidget | None = None) -> None:
        super().__init__("Import a delphi cache", parent, width=768, height_share=0.66)
        self._services, self._sae = services, sae
        self.form: ConfigForm[ImportCacheConfig] = ConfigForm(
            ImportCacheConfig,
            ("path", "name", "labels"),
            editors={"path": PathEditor("folder")},
            columns=1,
            command="features import-delphi",
            positional=("path", "sae"),
        )
        self.form.set_values({"sae": sae.id})
        self.found = label("", wrap=True, selectable=True)
        self.start_button = button(
            "Import",
            self.start,
            variant="primary",
            icon="download",
            tip="Compare the first rows with the model, then make the feature set",
        )
        self.bar = ProgressBar("yellow")
        self.job = OneJob(
            services,
            self.start_button,
            self,
            failure="The import failed.",
            cancel_tip="End this import; nothing is left of it",
            bar=self.bar,
        )
        self.job.done.connect(self._on_done)
        self.box.addWidget(label(f"For {sae.name}", "card", wrap=True))
        self.box.addWidget(label(_MEANING, "muted", wrap=True))
        for part in (self.form, self.found, self.bar, self.job.state, self.job.problem):
            self.box.addWidget(part)
        self.box.addStretch(1)
        for part in (self.job.cancel_button, self.start_button):
            self.buttons.addWidget(part)
        self.add_close()

    def start(self) -> None:
        """Queue the import, or show what is wrong."""
        config = self.form.checked()
        if config is not None:
            self.found.setText("")
            self.job.submit("import_cache", config)

    @Slot(object)
    def _on_done(self, result: Mapping[str, Any]) -> None:
        share = 100 * result["agreement"]["share"]
        self.found.setText(
            f"{format_count(result['live_features'])} of {format_count(result['features'])} "
            f"features fire on {format_count(result['tokens'])} tokens. On the first rows "
            f"{share:.1f} % of the activations that the cache or the SAE has are in both."
        )
