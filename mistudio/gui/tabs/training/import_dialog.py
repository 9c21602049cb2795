"""The window that adds an SAE: from files of this machine, or from a repository of the Hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PySide6.QtCore import Slot
from PySide6.QtWidgets import QVBoxLayout, QWidget

from mistudio.core.configs import DownloadSaeConfig, ImportSaeConfig
from mistudio.core.errors import StudioError
from mistudio.core.repositories import repository_problem
from mistudio.core.units import format_bytes
from mistudio.gui.dialog import Dialog
from mistudio.gui.services import Services
from mistudio.gui.tabs.library.access_token import AccessTokenField
from mistudio.gui.tabs.library.hub_search import RepositoryEditor
from mistudio.gui.tabs.library.source_switch import SourceSwitch
from mistudio.gui.tabs.training.choices import Choices, read_choices
from mistudio.gui.tabs.training.import_preview import PlacedForm, PreviewLines, lacking
from mistudio.gui.tabs.training.place_list import PlaceList
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.banner import BannerArea
from mistudio.gui.widgets.cards import button, label
from mistudio.gui.widgets.config_form import ConfigForm
from mistudio.gui.widgets.editors import PathEditor, TextEditor
from mistudio.gui.widgets.library_choice import LibraryChoice

if TYPE_CHECKING:
    from mistudio.jobs.sae_pages import SaeRepoPage
    from mistudio.jobs.sae_preview import SaePreview

_PLACED = ("name", "model", "layer", "hook", "hook_out", "measure")
_ABOUT = (
    "SAELens, dictionary_learning, sparsify, Gemma Scope 1 and 2, Llama Scope and circuit-tracer "
    "are told apart by their files. Name the model, layer or hook where the files do not."
)
LOCAL, HUB = "local", "hub"


class ImportSaeDialog(Dialog):
    """Two forms, one shown; the button queues the job of the one that is."""

    def __init__(self, services: Services, parent: QWidget) -> None:
        super().__init__("Import SAE", parent, width=720, height_share=0.85)
        self._services = services
        self._asked: tuple[str, str] | None = None
        self._starts_when_told = False
        self.banners = BannerArea()
        self.local = PlacedForm(
            ImportSaeConfig,
            ("path", *_PLACED),
            editors={"path": PathEditor("either"), "model": LibraryChoice("As the file says")},
            spans={"path": 2},
            command="sae import",
            positional=("path",),
        )
        self.preview = PreviewLines(services)
        self.local.insert_row(self.preview)
        self.repository, self.revision = RepositoryEditor(services, "model"), TextEditor("main")
        self.folder = TextEditor("empty if there is only one SAE")
        self.hub: ConfigForm[Any] = ConfigForm(
            DownloadSaeConfig,
            ("repo", "folder", "revision", *_PLACED),
            editors={
                "repo": self.repository,
                "folder": self.folder,
                "revision": self.revision,
                "model": LibraryChoice("As the file says"),
            },
            command="sae import",
            positional=("repo",),
        )
        self.token = AccessTokenField(services)
        self.places = PlaceList()
        self.facts = label("", "muted", wrap=True)
        self.problem = label("", "error", wrap=True, selectable=True)
        for part in (self.facts, self.problem, self.places):
            part.hide()
        found = QWidget()
        below = QVBoxLayout(found)
        below.setContentsMargins(0, 0, 0, 0)
        below.setSpacing(appearance().px(12))
        for part in (self.facts, self.problem, self.places, self.token):
            below.addWidget(part)
        self.hub.insert_row(found)
        self.sources = SourceSwitch(services.settings, "training.sae_source")
        self.sources.add(LOCAL, "From this machine", "folder", self.local)
        self.sources.add(HUB, "From the Hub", "download", self.hub)
        for part in (label(_ABOUT, "muted", wrap=True), self.banners, self.sources):
            self.box.addWidget(part)
        self.box.addStretch(1)
        self.start_button = button(
            "Import",
            self.start,
            variant="primary",
            icon="download",
            tip="Add the chosen SAE to the library",
        )
        self.without_button = button(
            "Import without them",
            self.start_without,
            tip="Leave open what the files do not say; such an SAE can only be looked at",
        )
        self.without_button.hide()
        self.buttons.addWidget(self.without_button)
        self.buttons.addWidget(self.start_button)
        self.add_close("Cancel")
        self._connect()
        self.sources.restore()
        services.query.ask(read_choices, self._on_choices)

    def _connect(self) -> None:
        self.sources.switched.connect(self._on_switched)
        self.repository.picked.connect(self._on_picked)
        self.repository.revision_found.connect(self.revision.set_value)
        self.repository.place_found.connect(self.folder.set_value)
        for line in (self.repository.line, self.revision.line, self.token.line):
            line.editingFinished.connect(self.look_up)
        self.folder.line.textEdited.connect(self.places.narrow)
        self.places.chosen.connect(self.folder.set_value)
        self.hub.changed.connect(self._on_edited)
        self.local.changed.connect(self._on_local)
        self.preview.told.connect(self._on_preview)
        self.finished.connect(self.preview.stop)

    @Slot(str)
    def _on_switched(self, shown: str) -> None:
        self.start_button.setEnabled(bool(shown))
        self._offer_without()

    # What the files of this machine are.

    def _on_local(self) -> None:
        self.preview.look_at(str(self.local.fields["path"].editor.value()))
        self._offer_without()

    @Slot(object)
    def _on_preview(self, found: SaePreview | None) -> None:
        self.local.ask_for(lacking(found))
        starts, self._starts_when_told = self._starts_when_told, False
        if starts and found is not None:
            self.start()

    def _offer_without(self) -> None:
        is_local = self.sources.current() == LOCAL
        self.without_button.setVisible(is_local and self.local.lacks())

    @Slot(object)
    def _on_choices(self, choices: Choices) -> None:
        for form in (self.local, self.hub):
            editor = form.fields["model"].editor
            if isinstance(editor, LibraryChoice):
                editor.offer(choices.model_pairs())

    # What the repository holds.

    def look_up(self) -> None:
        """Ask which SAEs the repository holds, unless that is known."""
        repo, revision = place = self._place()
        token, studio = self.token.token(), self._services.studio
        if repository_problem(repo) or not self.token.is_valid():
            return
        if place == self._asked and (not token or not self.places.is_empty()):
            return
        self._asked = place

        def ask(_: object) -> SaeRepoPage:
            from mistudio.jobs import sae_pages

            return sae_pages.repository(studio, repo, revision, token)

        self._say("Asking the Hub…")
        self._services.network.ask(ask, self._on_page, on_error=self._on_no_page, key="sae page")

    @Slot(object)
    def _on_page(self, page: SaeRepoPage) -> None:
        if self._place() != self._asked:
            return
        self.places.offer(page.saes, self.folder.value())
        if not page.saes:
            self._say("", "This repository holds no SAE that can be read.")
            return
        kinds = ", ".join(sorted({one.format for one in page.saes}))
        size = format_bytes(max(one.size_bytes for one in page.saes))
        count = "one SAE" if len(page.saes) == 1 else f"{len(page.saes):,} SAEs"
        each = size if len(page.saes) == 1 else f"up to {size} each"
        told = [f"{count} of {kinds}", each, f"licence {page.licence}" if page.licence else ""]
        self._say(" · ".join(part for part in told if part))

    def _on_no_page(self, sentence: str, details: str) -> None:
        if self._asked is not None and self._place() == self._asked:
            self._asked = None  # asked again when the field is left again
            self._say("", sentence)

    @Slot(str)
    def _on_picked(self, repo: str) -> None:
        self.look_up()

    def _on_edited(self) -> None:
        if self._asked is not None and self._place() != self._asked:
            self._asked = None
            self.places.offer([], "")
            self._say("")

    def _place(self) -> tuple[str, str]:
        return self.repository.value(), self.revision.value() or "main"

    def _say(self, told: str, problem: str = "") -> None:
        for part, text in ((self.facts, told), (self.problem, problem)):
            part.setText(text)
            part.setVisible(bool(text))

    # Import.

    def start_without(self) -> None:
        """Import although it stays open where the SAE reads."""
        self.local.waived = True
        self.start()
        self.local.waived = False

    def start(self) -> None:
        """Queue the job and close; stays open with the sentence if it is refused.

        Files that are still being read are waited for, as they may leave something to ask for.
        """
        from_hub = self.sources.current() == HUB
        if not from_hub and self.preview.is_reading:
            self._starts_when_told = True
            return
        config = (self.hub if from_hub else self.local).checked()
        if config is None or (from_hub and not self.token.hand_over(config.repo)):
            return
        try:
            self._services.submit("download_sae" if from_hub else "import_sae", config)
        except StudioError as error:
            self.banners.show_banner(error.sentence, level="error", details=error.details)
            return
        self._services.banner("Queued: Import SAE. The Jobs panel shows it (Ctrl+J).")
        self.accept()
