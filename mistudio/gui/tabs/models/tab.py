"""The Models tab: import a folder or GGUF file, the models there are, their architecture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PySide6.QtWidgets import QWidget

from mistudio.core.model_configs import ImportModelConfig
from mistudio.core.units import format_bytes, format_short
from mistudio.gui.services import Services
from mistudio.gui.tabs.library.cards import ObjectCard
from mistudio.gui.tabs.library.importing import ImportCard
from mistudio.gui.tabs.library.tab import LibraryTab
from mistudio.gui.tabs.models.viewer import ArchitectureViewer
from mistudio.gui.widgets.cards import button
from mistudio.gui.widgets.editors import CheckEditor, PathEditor
from mistudio.jobs import library_pages
from mistudio.jobs.deletion import delete_model
from mistudio.jobs.dependants import of_model
from mistudio.jobs.library_pages import ModelList
from mistudio.store.records import JobRow, ModelRow

_GGUF = "GGUF models (*.gguf);;All files (*)"


class ModelCard(ObjectCard):
    """A model with an Unload button while it is in memory."""

    def __init__(self, services: Services, model_id: str) -> None:
        super().__init__(model_id, "chip", "purple")
        self._services = services
        self.unload = button(
            "Unload", self._unload, icon="unload", tip="Give the model's memory back"
        )
        self.unload.hide()
        self.side.insertWidget(1, self.unload)

    def show_model(self, row: ModelRow, *, loaded: bool) -> None:
        """Show the row, and whether this process holds the model."""
        extra = f"{row.architecture or 'Unknown architecture'}, {row.origin}"
        if not row.logit_lens_ready:
            extra += ", no logit lens"
        state = "loaded" if loaded and row.status == "ready" else row.status
        self.show_object(row.name, facts_of(row), state, extra=extra)
        self.unload.setVisible(loaded)
        self.unload.setAccessibleName(f"Unload {row.name}")

    def _unload(self) -> None:
        if self._services.studio.models.unload():
            self._services.publisher.publish("models", self.object_id)
        else:
            self._services.banner("The model is being loaded; it can be unloaded after that.")


class ModelsTab(LibraryTab):
    """Every model of the data folder; a click opens the architecture viewer."""

    kinds = ("models",)
    noun = "model"
    icon = "chip"
    color = "purple"
    columns = 1

    def __init__(self, services: Services) -> None:
        self._loaded = ""
        importer = ImportCard(
            services,
            "import_model",
            ImportModelConfig,
            title="Import a model",
            hint="A Hugging Face folder with safetensors weights, or one GGUF file; drop it here "
            "or choose it. It is loaded once to find its blocks and hook points.",
            editors={
                "path": PathEditor("either", _GGUF),
                "copy": CheckEditor("Copy the files into the data folder"),
            },
            command="model import",
            columns=2,
        )
        super().__init__(
            services,
            importer,
            of_model,
            delete_model,
            title="Models",
            subtitle="Language models to look into, from this machine.",
        )
        self.empty.sentence.setText(
            "No models yet. Import one above, or let the bundled sample show the whole way: "
            "its small model, its text, a trained SAE and its features."
        )

    def load(self, db: Any) -> ModelList:
        return library_pages.models(self.services.studio)

    def take(self, answer: ModelList) -> tuple[Sequence[ModelRow], Sequence[JobRow]]:
        self._loaded = answer.loaded
        return answer.models, answer.jobs

    def work_row(self, entry: ModelRow) -> ModelRow:
        return entry

    def make_card(self, object_id: str) -> ModelCard:
        return ModelCard(self.services, object_id)

    def fill_card(self, card: ObjectCard, entry: ModelRow) -> None:
        if isinstance(card, ModelCard):
            card.show_model(entry, loaded=entry.name == self._loaded)

    def words(self, entry: ModelRow) -> str:
        return f"{entry.name} {entry.architecture} {entry.format} {entry.origin}"

    def open_dialog(self, entry: ModelRow) -> QWidget:
        return ArchitectureViewer(entry, self.services.studio.paths.absolute(entry.path), self)

    def select(self, **selection: Any) -> None:
        if selection.get("model"):
            self.show_object(str(selection["model"]))


def facts_of(row: ModelRow) -> str:
    """ "135.0M parameters · float32 · 538.0 MB in memory · 91.7 MB on disk"."""
    return " · ".join(
        (
            f"{format_short(row.params_count)} parameters",
            row.format or "unknown format",
            f"{format_bytes(row.memory_bytes)} in memory",
            f"{format_bytes(row.size_bytes)} on disk",
        )
    )
