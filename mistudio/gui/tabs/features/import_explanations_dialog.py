"""Labels from another program's files: what they would do is counted before they are taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PySide6.QtCore import Slot
from PySide6.QtWidgets import QPushButton, QWidget

from mistudio.core.feature_export_configs import ImportExplanationsConfig
from mistudio.gui.services import Services
from mistudio.gui.tabs.features.sae_import_dialog import SaeImportDialog
from mistudio.gui.widgets.cards import button
from mistudio.gui.widgets.config_form import ConfigForm
from mistudio.gui.widgets.editors import PathEditor
from mistudio.jobs import import_explanations
from mistudio.store.records import SaeRow

_MEANING = (
    "Takes the explanations of a Neuronpedia export (batch-N.jsonl.gz, or the folder of them) as "
    "labels with the source “imported”. Labels that you wrote stay; others are kept beside them."
)


class ImportExplanationsDialog(SaeImportDialog[ImportExplanationsConfig]):
    """A place, Count, and Import once it is known what would happen."""

    title = "Import explanations"
    meaning = _MEANING
    tip = "Add the explanations as labels; yours stay"
    cancel_tip = "End this import; no label is taken"

    def __init__(self, services: Services, sae: SaeRow, parent: QWidget | None = None) -> None:
        self._counted: ImportExplanationsConfig | None = None
        super().__init__(services, sae, parent)
        self.form.changed.connect(self._on_edited)
        self._on_edited()

    def make_form(self) -> ConfigForm[ImportExplanationsConfig]:
        return ConfigForm(
            ImportExplanationsConfig,
            ("path", "layer"),
            editors={"path": PathEditor("either", "Explanations (*.jsonl *.jsonl.gz)")},
            columns=1,
            command="features import-explanations",
            positional=("path", "sae"),
        )

    def first_buttons(self) -> tuple[QPushButton, ...]:
        self.count_button = button("Count", self.count, icon="search", tip="Read, store nothing")
        return (self.count_button,)

    def _on_edited(self) -> None:
        """What was counted holds for the settings it was counted with."""
        self._counted = None
        self.found.setText("")
        self.start_button.setEnabled(False)

    def count(self) -> None:
        """Ask what the files hold for this SAE."""
        config = self.form.checked()
        if config is None:
            return
        self.job.say("")
        self.found.setText("Reading…")
        self._counted, sae = config, self._sae
        self._services.query.ask(
            lambda db: import_explanations.preview(db, sae, config),
            self._on_counted,
            on_error=self._on_error,
            key="count",
        )

    @Slot(object)
    def _on_counted(self, found: import_explanations.Found) -> None:
        self.found.setText(import_explanations.sentence(found))
        self.start_button.setEnabled(found.features > 0)

    @Slot(str, str)
    def _on_error(self, sentence: str, details: str) -> None:
        self._counted = None
        self.found.setText("")
        self.job.say(sentence)

    def start(self) -> None:
        """Queue the import that was counted."""
        if self._counted is not None:
            self.job.submit("import_explanations", self._counted)

    def tell(self, result: Mapping[str, Any]) -> None:
        repeated = f", {result['repeated']:,} were there already" if result["repeated"] else ""
        self.found.setText(
            f"{result['shown']:,} features show an imported label; {result['beside']:,} labels are "
            f"kept beside others{repeated}."
        )
        self._services.publisher.publish("features", self._sae.id)
