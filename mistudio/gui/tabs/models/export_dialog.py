"""Writing one layer and hook of an activation set as a .npy file."""

from __future__ import annotations

from PySide6.QtWidgets import QFileDialog, QWidget

from mistudio.core.errors import StudioError
from mistudio.core.model_configs import ExportActivationsConfig
from mistudio.core.units import format_bytes
from mistudio.gui.dialog import Dialog
from mistudio.gui.services import Services
from mistudio.gui.tabs.library.jobs import JobWatch
from mistudio.gui.tabs.models.layer_grid import HOOK_TEXTS
from mistudio.gui.widgets.cards import button, label
from mistudio.gui.widgets.config_form import ConfigForm
from mistudio.gui.widgets.editors import ChoiceEditor, PathEditor
from mistudio.store.records import ActivationSetRow, JobRow


class NewFileEditor(PathEditor):
    """The path of a file that is to be made."""

    def _pick_file(self) -> None:
        chosen, _ = QFileDialog.getSaveFileName(
            self, "Write the activations to", self.value(), "NumPy arrays (*.npy)"
        )
        if chosen:
            self.set_value(chosen)


class ExportDialog(Dialog):
    """Chooses layer, hook and file, and queues the export."""

    def __init__(
        self, services: Services, row_: ActivationSetRow, parent: QWidget | None = None
    ) -> None:
        super().__init__(f"Export {row_.name}", parent, width=640, height_share=0.62)
        self._services = services
        layers = [(layer, f"Layer {layer}") for layer in (row_.layers or "").split(",")]
        hooks = [
            (hook, HOOK_TEXTS.get(hook, (hook, ""))[0]) for hook in (row_.hooks or "").split(",")
        ]
        self.form = ConfigForm(
            ExportActivationsConfig,
            ("layer", "hook", "out"),
            editors={
                "layer": ChoiceEditor(layers),
                "hook": ChoiceEditor(hooks),
                "out": NewFileEditor("file"),
            },
            columns=1,
            command="activations export",
        )
        self.form.set_values({"activations": row_.id})
        self.problem = label("", "error", wrap=True, selectable=True)
        self.problem.hide()
        self.box.addWidget(
            label("One row per token, one column per dimension; read it with numpy.load.", "muted")
        )
        self.box.addWidget(self.form)
        self.box.addWidget(self.problem)
        self.box.addStretch(1)
        self.button = button("Export", self.submit, variant="primary", icon="upload")
        self.button.setToolTip("Write the file; the set stays as it is")
        self.buttons.addWidget(self.button)
        self.add_close()
        self._watch = JobWatch(services, self)
        self._watch.ended.connect(self._on_ended)

    def submit(self) -> None:
        """Queue the export, or show what is wrong."""
        config = self.form.checked()
        if config is None:
            return
        try:
            self._watch.submit("export_activations", config)
        except StudioError as error:
            self._say(error.sentence)
            return
        self._say("")
        self.button.setEnabled(False)

    def _on_ended(self, job: JobRow) -> None:
        self.button.setEnabled(True)
        if job.status == "completed" and job.result:
            size = format_bytes(job.result["bytes"])
            self._services.banner(f"{job.result['path']} is written, {size}.")
            self.accept()
        elif job.status == "failed":
            self._say(job.error_message or "The export failed.")

    def _say(self, sentence: str) -> None:
        self.problem.setText(sentence)
        self.problem.setVisible(bool(sentence))
