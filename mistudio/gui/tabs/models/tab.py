"""The Models tab: ways to get one, the models there are, and what can be done with each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from PySide6.QtGui import QDropEvent
from PySide6.QtWidgets import QVBoxLayout, QWidget
from shiboken6 import isValid

from mistudio.core import memory
from mistudio.core.errors import StudioError
from mistudio.core.model_configs import CheckModelConfig, DownloadModelConfig, ImportModelConfig
from mistudio.gui.dialog import Dialog, confirm
from mistudio.gui.services import Services
from mistudio.gui.tabs.library.cached_card import CachedRepositories
from mistudio.gui.tabs.library.cards import ObjectCard
from mistudio.gui.tabs.library.importing import ImportCard
from mistudio.gui.tabs.library.jobs import JobWatch
from mistudio.gui.tabs.library.source_switch import SourceSwitch
from mistudio.gui.tabs.library.tab import LibraryTab
from mistudio.gui.tabs.models.card import ModelCard, origin_of
from mistudio.gui.tabs.models.download_card import CODE_WARNING, DownloadModelCard
from mistudio.gui.tabs.models.export_dialog import ExportDialog
from mistudio.gui.tabs.models.extract_dialog import ExtractDialog
from mistudio.gui.tabs.models.format_dialog import FormatDialog
from mistudio.gui.tabs.models.formats import FormatEditor, format_name
from mistudio.gui.tabs.models.lens_dialog import PromptLensDialog
from mistudio.gui.tabs.models.report_dialog import ReportDialog
from mistudio.gui.tabs.models.set_dialog import ActivationSetDialog
from mistudio.gui.tabs.models.sets_card import ActivationSets
from mistudio.gui.tabs.models.viewer import ArchitectureViewer
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.editors import CheckEditor, PathEditor
from mistudio.jobs import activation_pages, library_pages, model_pages
from mistudio.jobs.activation_pages import SetPage
from mistudio.jobs.dependants import of_model
from mistudio.jobs.library_pages import ModelList
from mistudio.store.records import JobRow, ModelRow

_GGUF = "GGUF models (*.gguf);;All files (*)"
_SEEN = ("ready", "incompatible")  # states whose architecture can be looked at
_DIALOGS: dict[str, Callable[[Services, ModelRow, QWidget], Dialog]] = {
    "extract": ExtractDialog,
    "lens": PromptLensDialog,
    "format": FormatDialog,
    "report": ReportDialog,
}


class ModelsTab(LibraryTab):
    """Every model of the data folder; a click opens the architecture viewer."""

    kinds = ("models",)
    noun = "model"
    icon = "chip"
    color = "purple"
    columns = 1

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        self.download = DownloadModelCard(services)
        self.cached = CachedRepositories(
            services, "model", "Add", "Add this model; nothing is fetched"
        )
        self.sets = ActivationSets(services)
        self.sources = SourceSwitch(services.settings, "get_models")
        self.sources.add("hub", "Download from the Hub", "download", self._hub_page())
        self.sources.add(
            "files", "Import from this machine", "upload", lambda: import_card(services)
        )
        self.sources.add("sets", "Activation sets", "curve", self.sets)
        super().__init__(
            services,
            lambda: cast(ImportCard, self.sources.made("files")),
            of_model,
            title="Models",
            subtitle="Language models to look into, from the Hub or from this machine.",
            getter=self.sources,
            parent=parent,
            every="All architectures",
        )
        self.sources.restore()
        self.empty.sentence.setText(
            "No models yet. Get one above, or let the bundled sample show the whole way: "
            "its small model, its text, a trained SAE and its features."
        )
        self.cached.add_asked.connect(self._add_cached)
        self.sets.opened.connect(self._read_set)
        self.sets.export_asked.connect(self._export_set)
        self._watch = JobWatch(services, self)
        self._watch.ended.connect(self._on_checked)
        self._offer: CheckModelConfig | None = None
        self.cached.read()

    def _hub_page(self) -> QWidget:
        page = QWidget()
        box = QVBoxLayout(page)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(appearance().px(8))
        box.addWidget(self.download)
        box.addWidget(self.cached)
        return page

    # The list.

    def load(self, db: Any) -> ModelList:
        return library_pages.models(self.services.studio)

    def take(self, answer: ModelList) -> tuple[Sequence[ModelRow], Sequence[JobRow]]:
        self.cached.leave_out(answer.models)
        return answer.models, answer.jobs

    def work_row(self, entry: ModelRow) -> ModelRow:
        return entry

    def make_card(self, object_id: str) -> ModelCard:
        card = ModelCard(self.services, object_id)
        card.asked.connect(self.act_on)
        return card

    def fill_card(self, card: ObjectCard, entry: ModelRow) -> None:
        if isinstance(card, ModelCard):
            card.show_model(entry, loaded=entry.id == self.services.studio.models.model_id)

    def words(self, entry: ModelRow) -> str:
        parts = (entry.name, entry.architecture, format_name(entry.format), origin_of(entry))
        return " ".join(part or "" for part in parts)

    def further(self, entry: ModelRow) -> str:
        return entry.architecture or ""

    def _entry_passes(self, entry: ModelRow) -> bool:
        """The card of a job stands for the model that it works on; all others are shown."""
        if entry.status not in _SEEN and any(job.target_id == entry.id for job in self._jobs):
            return False
        if entry.status in ("downloading", "checking", "importing", "queued"):
            return super()._entry_passes(entry)
        state = "ready" if entry.status == "ready" else "failed"
        return self.filters.passes(self.words(entry), state, self.further(entry))

    def _job_card(self, job: JobRow) -> ObjectCard:
        card = super()._job_card(job)
        if job.status == "running":
            card.bar.set_color("purple")
        return card

    # The dialogs.

    def open(self, object_id: str) -> None:
        """Show the architecture of a model, also of one that can only be looked at."""
        entry = self._by_id.get(object_id)
        if entry is not None and entry.status in _SEEN:
            self._show_dialog(object_id, self.open_dialog, entry)

    def open_dialog(self, entry: ModelRow) -> QWidget:
        studio = self.services.studio
        found = model_pages.architecture(studio, entry)
        return ArchitectureViewer(entry, found, studio.paths.absolute(entry.path), self)

    def act_on(self, model_id: str, what: str) -> None:
        """Do what a button of a model's card asks for."""
        entry = self._by_id.get(model_id)
        if entry is None:
            return
        if what in _DIALOGS:
            self._show_dialog(f"{what} {model_id}", self._work_dialog, entry, what)
        else:
            self._check(entry, what == "allow")

    def _work_dialog(self, entry: ModelRow, what: str) -> QWidget:
        made = _DIALOGS[what](self.services, entry, self)
        if isinstance(made, FormatDialog):
            made.report_asked.connect(self.act_on)
        elif isinstance(made, ExtractDialog):
            made.queued.connect(self._on_extraction)
        return made

    def _show_dialog(self, key: str, make: Callable[..., QWidget], *of: Any) -> None:
        found = self._dialogs.get(key)
        if found is None or not isValid(found):
            self._dialogs[key] = found = make(*of)
            found.show()
        found.raise_()
        found.activateWindow()

    def _check(self, entry: ModelRow, allow_code: bool) -> None:
        """Load a model and check it again; its own code runs only after a yes."""
        if allow_code and not confirm(
            self, f"Allow the code of “{entry.name}”?", CODE_WARNING, "Allow it"
        ):
            return
        self._submit("check_model", CheckModelConfig(model=entry.id, allow_code=allow_code))

    def _on_checked(self, job: JobRow) -> None:
        """Tell why a model could not be loaded; after running out of memory offer less."""
        if job.status != "failed" or job.kind != "check_model":
            return
        said = job.error_message or f"{job.title} failed."
        model = self._by_id.get(str(job.config.get("model")))
        form = str(job.config.get("format") or (model.format if model else "") or "")
        smaller = memory.next_smaller(form) if job.error_code == "out_of_memory" else ""
        if model is None or not smaller:
            self.services.banner(said, level="error", details=job.error_details or "")
            return
        self._offer = CheckModelConfig(model=model.id, format=smaller)
        self.services.banner(
            said, level="error", action=f"Use {format_name(smaller)}", clicked=self._use_smaller
        )

    def _use_smaller(self) -> None:
        if self._offer is not None:
            self._submit("check_model", self._offer)

    def _add_cached(self, repo: str, revision: str) -> None:
        form = str(self.download.formats.value())
        self._submit(
            "download_model", DownloadModelConfig(repo=repo, revision=revision, format=form)
        )

    def _submit(self, kind: str, config: Any) -> None:
        try:
            self._watch.submit(kind, config)
        except StudioError as error:
            self.services.banner(error.sentence, level="warning", details=error.details)

    # Activation sets.

    def _on_extraction(self, job_id: str) -> None:
        self.sources.open("sets")
        self.sets.choose_of(job_id)
        self.page.ensureWidgetVisible(self.sets)

    def _read_set(self, set_id: str) -> None:
        studio = self.services.studio
        self.services.query.ask(
            lambda _: activation_pages.set_page(studio, set_id), self._open_set, key="set"
        )

    def _open_set(self, found: SetPage) -> None:
        self._show_dialog(f"set {found.row.id}", self._set_dialog, found)

    def _set_dialog(self, found: SetPage) -> QWidget:
        return ActivationSetDialog(self.services, found, self)

    def _export_set(self, set_id: str) -> None:
        row_ = self.sets.chosen()
        if row_ is not None:
            ExportDialog(self.services, row_, self).show()

    # What the window calls.

    def select(self, **selection: Any) -> None:
        if selection.get("model"):
            self.show_object(str(selection["model"]))
        if selection.get("activations"):
            self._on_extraction("")
            self._read_set(str(selection["activations"]))
        if selection.get("import_model"):
            self.sources.open("files")
            self.importer.form.fields["path"].editor.setFocus()

    def run_primary(self) -> None:
        if self.sources.current() == "hub":
            self.download.submit()
        elif self.sources.current() == "files":
            self.importer.submit()

    def dropEvent(self, event: QDropEvent) -> None:
        self.sources.open("files")
        super().dropEvent(event)


def import_card(services: Services) -> ImportCard:
    """The card that registers a folder or GGUF file of this machine."""
    return ImportCard(
        services,
        "import_model",
        ImportModelConfig,
        title="Import from this machine",
        hint="A Hugging Face folder with safetensors weights, or one GGUF file; drop it here or "
        "choose it. It is loaded once to find its blocks and hook points.",
        editors={
            "path": PathEditor("either", _GGUF),
            "format": FormatEditor(),
            "copy": CheckEditor("Copy the files into the data folder"),
        },
        command="model import",
        columns=2,
    )
