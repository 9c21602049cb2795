"""Adding the vectors of a file of another program to the vectors that can be steered along."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Slot
from PySide6.QtWidgets import QWidget

from mistudio.core.vector_configs import ImportVectorsConfig
from mistudio.gui.dialog import Dialog
from mistudio.gui.services import Services
from mistudio.gui.tabs.library.one_job import OneJob
from mistudio.gui.widgets.cards import button, label
from mistudio.gui.widgets.config_form import ConfigForm
from mistudio.gui.widgets.editors import NumberEditor, PathEditor
from mistudio.gui.widgets.library_choice import LibraryChoice
from mistudio.store.tables import MODELS

_FILES = "Vectors (*.safetensors *.npy *.gguf *.json *.jsonl *.gz);;All files (*)"
_ABOUT = (
    "A control vector of llama.cpp or repeng (.gguf), a vector of Neuronpedia (.json), "
    ".safetensors or .npy. Several layers become several vectors of one name."
)


def model_names(db: Any) -> list[tuple[str, str]]:
    """Id and name of each model that is ready."""
    return [(one.id, one.name) for one in MODELS.select(db, "status = 'ready'")]


class ImportVectorsDialog(Dialog):
    """Chooses file and model; closes when the vectors are in."""

    def __init__(self, services: Services, parent: QWidget | None = None, model: str = "") -> None:
        super().__init__("Import vectors", parent, width=640, height_share=0.72)
        self._services, self._wanted = services, model
        self.model = LibraryChoice("Choose a model")
        layer = NumberEditor(whole=True, minimum=-1, automatic=-1)
        layer.box.lineEdit().setPlaceholderText("As the file says")
        self.form: ConfigForm[ImportVectorsConfig] = ConfigForm(
            ImportVectorsConfig,
            editors={
                "path": PathEditor("file", _FILES),
                "model": self.model,
                "layer": layer,
            },
            columns=2,
            spans={"path": 2},
            command="vectors import",
            positional=("path",),
        )
        self.button = button(
            "Import",
            self.submit,
            variant="primary",
            icon="download",
            tip="Add the vectors of this file",
        )
        self.job = OneJob(services, self.button, self, failure="The import failed.")
        self.job.done.connect(self._on_done)
        self.box.addWidget(label(_ABOUT, "muted", wrap=True))
        self.box.addWidget(self.form)
        self.box.addWidget(self.job.problem)
        self.box.addStretch(1)
        self.buttons.addWidget(self.button)
        self.add_close("Cancel")
        services.query.ask(model_names, self._on_models)

    def submit(self) -> None:
        """Queue the import, or show what is wrong beside the fields."""
        config = self.form.checked()
        if config is not None:
            self.job.submit("import_vectors", config)

    @Slot(object)
    def _on_models(self, pairs: list[tuple[str, str]]) -> None:
        self.model.offer(pairs, self._wanted)

    @Slot(object)
    def _on_done(self, result: dict[str, Any]) -> None:
        layers = ", ".join(str(layer) for layer in result["layers"])
        self._services.banner(f"{result['name']} is imported, layer {layers}.")
        self._services.publisher.publish("steering_vectors", "")
        self.accept()
