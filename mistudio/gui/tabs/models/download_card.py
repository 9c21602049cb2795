"""The card that gets a model from the Hub: search, what it takes in each format, download."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QLabel, QSizePolicy, QWidget

from mistudio.core.errors import StudioError
from mistudio.core.model_configs import DownloadModelConfig
from mistudio.core.repositories import repository_problem
from mistudio.core.units import format_bytes, format_count
from mistudio.gui.services import Services
from mistudio.gui.tabs.library.access_token import AccessTokenField
from mistudio.gui.tabs.library.hub_search import RepositoryEditor
from mistudio.gui.tabs.library.jobs import JobWatch
from mistudio.gui.tabs.models.formats import FormatEditor
from mistudio.gui.widgets.cards import Card, button, label
from mistudio.gui.widgets.config_form import ConfigForm
from mistudio.gui.widgets.editors import CheckEditor, ChoiceEditor, TextEditor
from mistudio.jobs.model_pages import FormatChoice
from mistudio.store.records import JobRow

if TYPE_CHECKING:
    from mistudio.jobs.hub_pages import ModelPage

LARGE_BYTES = 5_000_000_000
LITTLE_ROOM = 10_000_000_000
CODE_WARNING = (
    "The code of this repository will run with your rights: it can read, change and send anything "
    "that you can. Allow it only for authors you trust."
)
NEEDS_CODE = "This model runs its repository's code; without the tick below it cannot be used."
_FIELDS = ("repo", "format", "name", "revision", "file", "allow_code")
_NO_FILE = ("", "safetensors, or the only GGUF")
_KEPT = ("format",)  # settings that are kept for the next download


class _Place(NamedTuple):
    """What was looked up."""

    repo: str
    revision: str


class _Answer(NamedTuple):
    page: ModelPage
    formats: list[FormatChoice]
    free: int | None  # on the disk of the cache


class DownloadModelCard(Card):
    """Queues downloads of models; the form clears once one is queued."""

    submitted = Signal(str)  # job id

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__("list", parent)
        self._services = services
        self._asked: _Place | None = None
        self._page: ModelPage | None = None
        self._warnings: list[str] = []
        self.repository = RepositoryEditor(services, "model")
        self.formats, self.revision = FormatEditor(), TextEditor("main")
        self.files = ChoiceEditor([_NO_FILE])
        self.code = CheckEditor("Allow the repository's own code")
        self.form = ConfigForm(
            DownloadModelConfig,
            _FIELDS,
            editors={
                "repo": self.repository,
                "revision": self.revision,
                "format": self.formats,
                "file": self.files,
                "allow_code": self.code,
            },
            columns=3,
            settings=services.settings,
            remember="download_model",
            command="model import",
            positional=("repo",),
        )
        self.token = AccessTokenField(services)
        self.form.insert_row(self.token)
        self.facts = label("", "muted", wrap=True, selectable=True)
        self.warning = label("", "warning", wrap=True)
        self.problem = label("", "error", wrap=True, selectable=True)
        self.button = button("Download", self.submit, variant="primary", icon="download")
        self.button.setToolTip("Queue the download; it can be paused and resumed")
        self.button.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.box.addWidget(label("Download a model from the Hub", "card"))
        for part in (self.form, self.facts, self.warning, self.problem, self.button):
            self.box.addWidget(part)
        for part in (self.facts, self.warning, self.problem):
            part.hide()
        self._watch = JobWatch(services, self)
        self._watch.ended.connect(self._on_ended)
        self.repository.picked.connect(self._on_picked)
        self.repository.revision_found.connect(self._on_revision)
        for line in (self.repository.line, self.revision.line, self.token.line):
            line.editingFinished.connect(self.look_up)
        self.form.changed.connect(self._on_edited)
        self._on_edited()

    # What the repository holds.

    def look_up(self) -> None:
        """Ask the Hub what the repository holds, unless that is known."""
        place, token = self._place(), self.token.token()
        known = place == self._asked and (self._page is not None or not token)
        if repository_problem(place.repo) or known or not self.token.is_valid():
            return
        self._asked, studio = place, self._services.studio

        def ask(_: object) -> _Answer:
            from mistudio.jobs import hub_pages, model_pages

            page = hub_pages.model_page(studio, place.repo, place.revision, token)
            formats: list[FormatChoice] = []
            if page.linear_weights is not None:
                linear, others = page.linear_weights, page.other_weights or 0
                formats = model_pages.format_choices(studio, linear, others)
            missing = max(0, page.download_bytes - page.cached_bytes)
            return _Answer(page, formats, hub_pages.download_room(studio, missing)[1])

        self._say("", waiting="Asking the Hub…")
        self._services.network.ask(ask, self._on_page, on_error=self._on_no_page, key="model page")

    def _on_page(self, answer: _Answer) -> None:
        if self._place() != self._asked:
            return
        page = self._page = answer.page
        self.formats.offer(answer.formats)
        self.files.set_choices([_NO_FILE, *((name, name) for name in page.gguf_files)])
        if page.needs_code or len(page.gguf_files) > 1:
            self.form.advanced.set_open(True)
        self._say(page.problem, waiting=facts_line(page))
        self._warnings = warnings_of(page, answer.free)
        self._on_edited()

    def _on_no_page(self, sentence: str, details: str) -> None:
        if self._asked is None:
            return  # the form is about something else by now
        self._page = None
        self._say(sentence)
        if "access token" in sentence:
            self.token.line.setFocus()

    def _place(self) -> _Place:
        return _Place(self.repository.value(), self.revision.value() or "main")

    def _forget_page(self) -> None:
        self._asked = self._page = None
        self.formats.offer(())
        self.files.set_choices([_NO_FILE])
        self._warnings = []
        self._say("")

    def _on_picked(self, repo: str) -> None:
        self.look_up()

    def _on_revision(self, revision: str) -> None:
        self.form.set_values({"revision": revision})
        self.form.advanced.set_open(True)

    def _on_edited(self) -> None:
        if self._asked is not None and self._place() != self._asked:
            self._forget_page()
        page = self._page
        usable = page is None or not page.problem or (page.needs_code and self.code.value())
        self.button.setEnabled(not repository_problem(self._place().repo) and usable)
        lines = list(self._warnings)
        if self.code.value():
            lines.append(CODE_WARNING)
        elif page is not None and page.needs_code:
            lines.append(NEEDS_CODE)
        _show(self.warning, " ".join(lines))

    # Download.

    def submit(self) -> None:
        """Queue the download, or show what is wrong."""
        config = self.form.checked()
        if config is None or not self.token.hand_over(config.repo):
            return
        try:
            job = self._watch.submit("download_model", config)
        except StudioError as error:
            self._say(error.sentence)
            return
        self.clear()
        self.submitted.emit(job)

    def clear(self) -> None:
        """Empty the form but for what the next download will use as well."""
        kept = {name: self.form.fields[name].editor.value() for name in _KEPT}
        self.form.reset()
        self.form.set_values(kept)
        self.token.clear()
        self._forget_page()
        self._services.settings.remember("download_model", kept)

    def _on_ended(self, job: JobRow) -> None:
        if job.status != "failed" or self._place().repo:
            return
        if job.error_code in ("needs_token", "gated", "needs_code"):
            self.form.set_values(job.config)
            self._say(job.error_message or "")

    def _say(self, sentence: str, *, waiting: str = "") -> None:
        _show(self.problem, sentence)
        _show(self.facts, waiting)


def _show(part: QLabel, text: str) -> None:
    part.setText(text)
    part.setVisible(bool(text))


def facts_line(page: ModelPage) -> str:
    """What a repository holds, in one line."""
    missing = max(0, page.download_bytes - page.cached_bytes)
    parts = [page.architecture or "unknown architecture"]
    weights = (page.linear_weights or 0) + (page.other_weights or 0)
    if weights:
        parts.append(f"{format_count(weights)} parameters")
    if not missing and page.download_bytes:
        parts.append(f"all {format_bytes(page.download_bytes)} are in your Hugging Face cache")
    elif page.cached_bytes:
        parts.append(f"{format_bytes(missing)} of {format_bytes(page.download_bytes)} to download")
    else:
        parts.append(f"{format_bytes(page.download_bytes)} to download")
    if page.licence:
        parts.append(f"licence {page.licence}")
    if page.gated:
        parts.append("gated: its owner must grant access")
    if page.downloads is not None:
        parts.append(f"{format_count(page.downloads)} downloads")
    return " · ".join(parts)


def warnings_of(page: ModelPage, free: int | None) -> list[str]:
    """Sentences about a large download and a disk that it nearly fills."""
    missing = max(0, page.download_bytes - page.cached_bytes)
    found: list[str] = []
    if missing > LARGE_BYTES:
        found.append(f"This downloads {format_bytes(missing)}.")
    if free is not None and missing and free - missing < LITTLE_ROOM:
        left = max(0, free - missing)
        found.append(f"It leaves {format_bytes(left)} on the disk.")
    return found
