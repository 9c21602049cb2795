"""Adding vectors of a file as an activation set."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Slot
from PySide6.QtWidgets import QWidget

from mistudio.core.errors import StudioError
from mistudio.core.model_configs import EXTRACTION_HOOKS, ImportActivationsConfig
from mistudio.gui.dialog import Dialog
from mistudio.gui.services import Services
from mistudio.gui.tabs.models.layer_grid import HOOK_TEXTS
from mistudio.gui.widgets.cards import button, label
from mistudio.gui.widgets.config_form import ConfigForm
from mistudio.gui.widgets.editors import ChoiceEditor, NumberEditor, PathEditor
from mistudio.gui.widgets.library_choice import LibraryChoice
from mistudio.store.tables import MODELS

_FILES = "Vectors (*.npy *.safetensors)"
_HOOKS = [("", "Not known"), *((hook, HOOK_TEXTS[hook][0]) for hook in EXTRACTION_HOOKS)]
_ABOUT = (
    "One row per vector, [rows, width], of any model, also of one that is not here. What you know "
    "of their origin is kept with the SAEs that are trained on them."
)


class ImportVectorsDialog(Dialog):
    """Chooses a file, says where its vectors come from, and queues the import."""

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__("Import vectors", parent, width=640, height_share=0.72)
        self._services = services
        self.model = LibraryChoice("None of the library")
        layer = NumberEditor(whole=True, minimum=-1, automatic=-1)
        layer.box.lineEdit().setPlaceholderText("Not known")
        self.form = ConfigForm(
            ImportActivationsConfig,
            editors={
                "path": PathEditor("file", _FILES),
                "model": self.model,
                "layer": layer,
                "hook": ChoiceEditor(_HOOKS),
            },
            columns=2,
            spans={"path": 2},
            command="activations import",
            positional=("path",),
        )
        self.problem = label("", "error", wrap=True, selectable=True)
        self.problem.hide()
        self.box.addWidget(label(_ABOUT, "muted", wrap=True))
        self.box.addWidget(self.form)
        self.box.addWidget(self.problem)
        self.box.addStretch(1)
        self.button = button("Import", self.submit, variant="primary", icon="download")
        self.button.setToolTip("Copy the vectors into the data folder; the file stays as it is")
        self.buttons.addWidget(self.button)
        self.add_close("Cancel")
        services.query.ask(_model_names, self._on_models)

    @Slot(object)
    def _on_models(self, pairs: list[tuple[str, str]]) -> None:
        self.model.offer(pairs)

    def submit(self) -> None:
        """Queue the import and close, or show what is wrong."""
        config = self.form.checked()
        if config is None:
            return
        try:
            self._services.submit("import_activations", config)
        except StudioError as error:
            self.problem.setText(error.sentence)
            self.problem.show()
        else:
            self._services.banner(
                "Queued: the import of vectors. The Jobs panel shows it (Ctrl+J)."
            )
            self.accept()


def _model_names(db: Any) -> list[tuple[str, str]]:
    return [(row.id, row.name) for row in MODELS.select(db, "status = 'ready'")]
