"""Raw directions: made from two lists of prompts, imported, exported, renamed, deleted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PySide6.QtCore import Qt, Slot
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QHeaderView,
    QTableWidget,
    QTableWidgetItem,
    QWidget,
)

from mistudio.core.config import violations
from mistudio.core.errors import StudioError
from mistudio.core.units import EM_DASH
from mistudio.core.vector_configs import ContrastConfig, ExportVectorsConfig
from mistudio.gui import ask
from mistudio.gui.dialog import Dialog, confirm
from mistudio.gui.services import Services
from mistudio.gui.tabs.library.deleting import delete_undoably
from mistudio.gui.tabs.library.one_job import OneJob
from mistudio.gui.tabs.steering.vectors_import import ImportVectorsDialog, model_names
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label, row
from mistudio.gui.widgets.config_form import ConfigForm
from mistudio.gui.widgets.library_choice import LibraryChoice
from mistudio.gui.widgets.prompt_lists import PromptLists
from mistudio.jobs import vector_library
from mistudio.jobs.job_commands import command_of
from mistudio.jobs.set_aside import set_aside
from mistudio.store.records import SteeringVectorRow
from mistudio.store.tables import STEERING_VECTORS

FIELDS = ("model", "layer", "method", "read", "hook", "name")
TITLES = ("Name", "Model", "Layer", "Hook", "Made by", "Norm", "AUROC held out", "Notes")
NOTES = 7
FILTERS = {"gguf": "Control vector (*.gguf)", "safetensors": "safetensors (*.safetensors)"}
_MAKERS = {
    "mean": "difference of means",
    "pca": "PCA of differences",
    "pca-centred": "PCA of centred pairs",
    "feature-mean": "a feature's tokens",
    "import": "imported",
}


def result_text(result: dict[str, Any]) -> str:
    """What came out of two lists, in one line."""
    held, counts = result.get("auroc_held_out"), result.get("held_out") or (0, 0)
    parts = [f"Norm {result['norm']:.4g}", f"AUROC {result['auroc']:.3f} on the prompts themselves"]
    if held is None:
        parts.append("none held out (12 prompts of each list are needed)")
    else:
        parts.append(f"{held:.3f} on {counts[0]} + {counts[1]} held out")
    if result.get("explained") is not None:
        parts.append(f"first component {100 * result['explained']:.1f} % of the squares")
    if near := result.get("nearest"):
        best = near[0]
        parts.append(
            f"nearest feature #{best['feature']} of {best['sae_name']}, cosine {best['cosine']:.2f}"
        )
    return " · ".join(parts)


class VectorsDialog(Dialog):
    """Two lists of prompts above, the vectors there are below."""

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__("Vectors", parent, width=1120, height_share=0.94, scroll=False)
        self._services = services
        self._rows: list[SteeringVectorRow] = []
        tip = "the direction leads from the negative ones to the positive ones"
        self.prompts = PromptLists(services.settings, "steering", tip)
        self.model = LibraryChoice("Choose a model")
        self.form: ConfigForm[ContrastConfig] = ConfigForm(
            ContrastConfig,
            FIELDS,
            editors={"model": self.model},
            columns=3,
            settings=services.settings,
            remember="steering.contrast",
        )
        self.make_button = button(
            "Make vector",
            self.make,
            variant="primary",
            icon="play",
            tip="Read both lists with the model and keep the direction between them",
        )
        self.command_button = button(
            "Copy as command",
            self.copy_command,
            variant="ghost",
            tip="Copy the line that does the same in a terminal (bash or zsh)",
        )
        self.job = OneJob(services, self.make_button, self, failure="The vector was not made.")
        self.job.done.connect(self._on_made)
        self.outcome = label("", "muted", wrap=True, selectable=True)
        self.table = self._table()
        self.export_button = button(
            "Export…",
            self.export,
            icon="upload",
            tip="Write the chosen vectors for another program",
        )
        self.export_job = OneJob(services, self.export_button, self, failure="The export failed.")
        self.export_job.done.connect(self._on_exported)
        self._lay_out()
        self.table.itemSelectionChanged.connect(self._tell)
        self.table.itemChanged.connect(self._on_edited)
        services.publisher.changed.connect(self._on_changed)
        services.query.ask(model_names, self._on_models)
        self.read()

    def _table(self) -> QTableWidget:
        made = QTableWidget(0, len(TITLES))
        made.setTabKeyNavigation(False)  # Tab leaves it
        made.setHorizontalHeaderLabels(TITLES)
        made.setAccessibleName("Vectors")
        made.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        made.verticalHeader().hide()
        made.setShowGrid(False)
        made.setMinimumHeight(appearance().px(96))
        header = made.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        for column in (0, NOTES):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.Stretch)
        return made

    def _lay_out(self) -> None:
        self.box.setSpacing(appearance().px(8))
        self.box.addWidget(self.prompts, 2)
        self.box.addWidget(self.form)
        line = row(
            self.make_button,
            self.command_button,
            self.job.cancel_button,
            self.job.state,
            self.outcome,
        )
        line.setStretch(3, 1)
        self.box.addLayout(line)
        self.box.addWidget(self.job.problem)
        self.box.addWidget(self.table, 3)
        self.box.addWidget(self.export_job.problem)
        self.import_button = button(
            "Import…",
            self.open_import,
            icon="download",
            tip="Add vectors from a file of another program",
        )
        self.rename_button = button(
            "Rename…", self.rename, icon="edit", tip="Give the vector another name"
        )
        self.delete_button = button(
            "Delete…", self.delete, icon="trash", tip="Delete the chosen vectors"
        )
        for place, one in enumerate(
            (self.import_button, self.export_button, self.rename_button, self.delete_button)
        ):
            self.buttons.insertWidget(place, one)
        self.add_close()
        self._tell()

    def config(self) -> ContrastConfig:
        """The settings with both lists; raises `InvalidInput` for a number that is none."""
        self.form.set_values(self.prompts.lists())
        return self.form.values()

    def copy_command(self) -> None:
        """Put the command that makes the same vector on the clipboard."""
        try:
            text = command_of("contrast_vector", self.config())
        except StudioError as error:
            self.job.say(error.sentence)
        else:
            QGuiApplication.clipboard().setText(text)

    def make(self) -> None:
        """Queue the lists, or show what is wrong."""
        self.outcome.setText("")
        try:
            config = self.config()
        except StudioError as error:
            self.job.say(error.sentence)
            return
        if found := violations(config):
            self.job.say(" ".join(one.sentence for one in found))
        elif self.job.submit("contrast_vector", config):
            self.prompts.remember()

    def open_import(self) -> None:
        """Open the window for a file of vectors."""
        ImportVectorsDialog(self._services, self, model=self.model.value()).show()

    def export(self) -> None:
        """Write the selected vectors, those of one layer summed, to a file to be named."""
        chosen = self.chosen()
        if not chosen:
            return
        out, picked = QFileDialog.getSaveFileName(
            self, "Write the vectors to", f"{chosen[0].name}.gguf", ";;".join(FILTERS.values())
        )
        if out:
            plain = out.endswith(".safetensors") or (
                picked == FILTERS["safetensors"] and not out.endswith(".gguf")
            )
            kind = "safetensors" if plain else "gguf"
            ids = tuple(one.id for one in chosen)
            config = ExportVectorsConfig(vectors=ids, format=kind, out=out)
            self.export_job.submit("export_vectors", config)

    def rename(self) -> None:
        """Give the selected vector another name."""
        chosen = self.chosen()
        if len(chosen) == 1:
            vector_id, studio = chosen[0].id, self._services.studio
            name, given = ask.text(self, "Rename vector", "New name", chosen[0].name)
            if given:
                self._write(lambda _: vector_library.change(studio, vector_id, name=name))

    def delete(self) -> None:
        """Delete the selected vectors, after asking."""
        ids, studio = [one.id for one in self.chosen()], self._services.studio
        words = "1 vector" if len(ids) == 1 else f"{len(ids):,} vectors"
        said = "Runs that used them keep their texts; they cannot be done again."
        if ids and confirm(self, f"Delete {words}?", said):
            delete_undoably(
                self._services,
                lambda: [set_aside(studio, "steering_vectors", vector_id) for vector_id in ids],
                f"Deleted {words}.",
                "steering_vectors",
                self.read,
            )

    def chosen(self) -> list[SteeringVectorRow]:
        """The selected vectors."""
        places = {index.row() for index in self.table.selectionModel().selectedRows()}
        return [self._rows[place] for place in sorted(places)]

    def read(self) -> None:
        """Read the vectors again."""
        self._services.query.ask(STEERING_VECTORS.select, self._show, key="vectors")

    @Slot(object)
    def _show(self, rows: list[SteeringVectorRow]) -> None:
        self._rows = rows
        self.table.blockSignals(True)
        self.table.clearSelection()
        self.table.setRowCount(len(rows))
        for place, one in enumerate(rows):
            held = (one.report or {}).get("auroc_held_out")
            texts = (
                one.name,
                one.model_name,
                str(one.layer),
                one.hook,
                _MAKERS.get(one.method, one.method),
                f"{one.norm:.4g}",
                EM_DASH if held is None else f"{held:.3f}",
                one.notes or "",
            )
            for column, text in enumerate(texts):
                cell = QTableWidgetItem(text)
                cell.setToolTip(text)
                if column != NOTES:
                    cell.setFlags(cell.flags() & ~Qt.ItemFlag.ItemIsEditable)
                self.table.setItem(place, column, cell)
        self.table.blockSignals(False)
        self._tell()

    def _tell(self) -> None:
        count = len(self.chosen())
        self.export_button.setEnabled(count > 0)
        self.delete_button.setEnabled(count > 0)
        self.rename_button.setEnabled(count == 1)

    def _write(self, change: Callable[[Any], Any]) -> None:
        self.export_job.say("")
        self._services.query.ask(change, self._on_written, on_error=self._on_error)

    def _on_edited(self, cell: QTableWidgetItem) -> None:
        if cell.column() == NOTES:
            vector_id, text = self._rows[cell.row()].id, cell.text()
            studio = self._services.studio
            self._write(lambda _: vector_library.change(studio, vector_id, notes=text))

    def _on_written(self, _: Any) -> None:
        self._services.publisher.publish("steering_vectors", "")

    def _on_error(self, sentence: str, details: str) -> None:
        self.export_job.say(sentence)

    def _on_models(self, pairs: list[tuple[str, str]]) -> None:
        self.model.offer(pairs, pairs[0][0] if pairs else "")

    @Slot(object)
    def _on_made(self, result: dict[str, Any]) -> None:
        self.outcome.setText(result_text(result))
        self._on_written(None)

    @Slot(object)
    def _on_exported(self, result: dict[str, Any]) -> None:
        self._services.banner(f"{result['path']} is written: {', '.join(result['directions'])}.")

    def _on_changed(self, kind: str, object_id: str) -> None:
        if kind == "steering_vectors":
            self.read()
