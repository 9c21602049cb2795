"""The card that gets a dataset from the Hub: search, preview, how much of it, download."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QSizePolicy, QWidget

from mistudio.core.control import JobControl
from mistudio.core.dataset_configs import DownloadDatasetConfig
from mistudio.core.errors import Cancelled, StudioError
from mistudio.core.repositories import repository_problem
from mistudio.core.units import format_bytes
from mistudio.gui.dialog import confirm
from mistudio.gui.services import Services
from mistudio.gui.tabs.datasets.columns_editor import ColumnsEditor
from mistudio.gui.tabs.library.access_token import AccessTokenField
from mistudio.gui.tabs.library.hub_search import RepositoryEditor
from mistudio.gui.tabs.library.jobs import JobWatch
from mistudio.gui.widgets.cards import Card, button, label
from mistudio.gui.widgets.config_form import ConfigForm
from mistudio.gui.widgets.editors import ChoiceEditor

if TYPE_CHECKING:
    from mistudio.gui.tabs.datasets.hub_preview import HubPreview
    from mistudio.jobs.dataset_preview import DatasetPreview
    from mistudio.jobs.runner import Studio
    from mistudio.store.records import JobRow

LARGE_BYTES = 100_000_000_000  # from here "everything" is confirmed twice
_FIELDS = ("repo", "config", "split", "text_column", "amount", "count", "name", "revision")
_AMOUNTS = (("everything", "Everything"), ("rows", "First N rows"), ("tokens", "First N tokens"))
_DEFAULT_CONFIG, _ALL_SPLITS = ("", "Default config"), ("", "All splits")
_KEPT = ("amount", "count")  # settings that are kept for the next download
_SIGN_IN = ("needs_token", "gated")


class _Place(NamedTuple):
    """What a preview is of."""

    repo: str
    revision: str
    config: str
    split: str


class _Answer(NamedTuple):
    preview: DatasetPreview
    room: str


class DownloadCard(Card):
    """Queues downloads of datasets; the form clears once one is queued."""

    submitted = Signal(str)  # job id

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__("list", parent)
        self._services = services
        self._asked: _Place | None = None  # what is being or was previewed
        self._found: DatasetPreview | None = None
        self._control = JobControl()
        self.repository = RepositoryEditor(services, "dataset")
        self.configs, self.splits = ChoiceEditor([_DEFAULT_CONFIG]), ChoiceEditor([_ALL_SPLITS])
        self.columns = ColumnsEditor()
        self.form = ConfigForm(
            DownloadDatasetConfig,
            _FIELDS,
            editors={
                "repo": self.repository,
                "config": self.configs,
                "split": self.splits,
                "text_column": self.columns,
                "amount": ChoiceEditor(_AMOUNTS),
            },
            columns=3,
            settings=services.settings,
            remember="download_dataset",
            command="dataset import",
            positional=("repo",),
        )
        self.token = AccessTokenField(services)
        self.form.insert_row(self.token)
        self.preview_button = button(
            "Preview", self.preview, icon="eye", tip="Look at it; nothing is stored"
        )
        self.form.action_row.addWidget(self.preview_button)
        self.button = button("Download", self.submit, variant="primary", icon="download")
        self.button.setToolTip("Queue the download; it can be paused and resumed")
        self.button.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.problem = label("", "error", wrap=True, selectable=True)
        self.notice = label("", "muted", wrap=True)
        self._shown: HubPreview | None = None  # made with the first preview
        self.box.addWidget(label("Download a dataset from the Hub", "card"))
        for part in (self.form, self.problem, self.notice, self.button):
            self.box.addWidget(part)
        for part in (self.problem, self.notice):
            part.hide()
        self._watch = JobWatch(services, self)
        self._watch.ended.connect(self._on_ended)
        self.repository.revision_found.connect(self._on_revision)
        self.repository.picked.connect(self._on_picked)
        self.form.changed.connect(self._on_edited)
        self._on_edited()

    @property
    def shown(self) -> HubPreview:
        """What a repository holds, below the form."""
        if self._shown is None:
            from mistudio.gui.tabs.datasets.hub_preview import HubPreview

            self._shown = HubPreview()
            self._shown.hide()
            self.box.insertWidget(self.box.indexOf(self.button), self._shown)
        return self._shown

    def choose(self, repo: str, revision: str) -> None:
        """Fill in a repository at a revision and preview it."""
        self.form.set_values({"repo": repo, "revision": revision})
        self.preview()

    # Preview.

    def preview(self) -> None:
        """Ask the Hub what the repository holds."""
        repo = self._place().repo
        if problem := repository_problem(repo):
            self._say(problem)
            return
        if not self.token.hand_over(repo):
            return
        self._control.cancel()
        place, token, control = self._place(), self.token.token(), JobControl()
        self._asked, self._control = place, control
        studio = self._services.studio

        def ask(_: object) -> _Answer | None:
            from mistudio.jobs import dataset_preview

            try:
                found = dataset_preview.preview(
                    studio, repo, place.config, place.split, place.revision, token, control=control
                )
            except Cancelled:
                return None
            return _Answer(found, _room(studio, found))

        self._say("")
        self._wait("Asking the Hub; nothing is stored.")
        self._services.network.ask(
            ask, self._on_preview, on_error=self._on_preview_error, key="preview"
        )

    def _on_preview(self, answer: _Answer | None) -> None:
        if answer is None or self._asked is None or self._asked.repo != self._place().repo:
            return
        first = self._found is None
        found = self._found = answer.preview
        self._wait("")
        default = f"Default ({found.configs[0]})" if found.configs else _DEFAULT_CONFIG[1]
        if not self._asked.config and found.config:
            default = f"Default ({found.config})"
        self.configs.set_choices([("", default), *((name, name) for name in found.configs)])
        self.splits.set_choices(
            [_ALL_SPLITS, *((split.name, split.name) for split in found.splits)]
        )
        self.columns.offer(found.columns, found.text_column)
        if first and found.suggests_tokens:
            self.form.set_values({"amount": "tokens"})
        self.shown.show_preview(found, answer.room)
        self.shown.show()

    def _on_preview_error(self, sentence: str, details: str) -> None:
        if self._asked is None:
            return  # the form is about something else by now
        self._wait("")
        self._asked = None
        self._say(sentence)
        if "access token" in sentence:
            self.token.line.setFocus()

    def _place(self) -> _Place:
        names = ("repo", "revision", "config", "split")
        repo, revision, config, split = (self.form.fields[name].editor.value() for name in names)
        return _Place(repo, revision or "main", config, split)

    def _forget_preview(self) -> None:
        self._control.cancel()
        self._asked = self._found = None
        self._wait("")
        if self._shown is not None:
            self._shown.hide()
        self.configs.set_choices([_DEFAULT_CONFIG])
        self.splits.set_choices([_ALL_SPLITS])
        self.columns.forget()

    def _on_edited(self) -> None:
        place = self._place()
        self.button.setEnabled(not repository_problem(place.repo))
        self.preview_button.setEnabled(self.button.isEnabled())
        if self._asked is None or place == self._asked:
            return
        if place[:2] != self._asked[:2]:
            self._forget_preview()
        elif self._found is not None:
            self.preview()  # of another config or split

    def _on_revision(self, revision: str) -> None:
        self.form.set_values({"revision": revision})
        self.form.advanced.set_open(True)

    def _on_picked(self, repo: str) -> None:
        self._say("")
        self.preview_button.setFocus()

    # Download.

    def submit(self) -> None:
        """Queue the download, or show what is wrong."""
        self.form.set_values({"accept_large": False})
        config = self.form.checked()
        if config is None or not self.token.hand_over(config.repo):
            return
        if config.amount == "everything" and self._is_large():
            if not self._confirmed_twice():
                return
            self.form.set_values({"accept_large": True})
            config = self.form.values()
        self._say("")
        try:
            job = self._watch.submit("download_dataset", config)
        except StudioError as error:
            self._say(error.sentence)
            return
        self.clear()
        self.submitted.emit(job)

    def clear(self) -> None:
        """Empty the form but for what the next download will use as well."""
        kept = {name: self.form.fields[name].editor.value() for name in _KEPT}
        self._forget_preview()
        self.form.reset()
        self.form.set_values({**kept, "accept_large": False})
        self.token.clear()
        self._services.settings.remember("download_dataset", kept)

    def _is_large(self) -> bool:
        size = self._found.size_bytes if self._found is not None else None
        return size is not None and size >= LARGE_BYTES

    def _confirmed_twice(self) -> bool:
        size = format_bytes(self._found.size_bytes if self._found is not None else None)
        first = confirm(
            self,
            f"Download all {size}?",
            "The first rows or tokens of so large a dataset usually do, and are streamed without "
            "keeping the rest.",
            "Download everything",
            danger=False,
        )
        return first and confirm(
            self,
            "Really everything?",
            f"{size} will be downloaded, and a prepared copy is written beside it.",
            f"Download {size}",
        )

    def _on_ended(self, job: JobRow) -> None:
        if job.status != "failed" or job.error_code not in _SIGN_IN or self._place().repo:
            return
        self.form.set_values(job.config)
        self._say(job.error_message or "")
        self.token.line.setFocus()

    def _say(self, sentence: str) -> None:
        self.problem.setText(sentence)
        self.problem.setVisible(bool(sentence))

    def _wait(self, sentence: str) -> None:
        self.notice.setText(sentence)
        self.notice.setVisible(bool(sentence))


def _room(studio: Studio, found: DatasetPreview) -> str:
    """How much of the disk everything takes, "" if its size is unknown."""
    from mistudio.jobs import hub_pages

    if found.size_bytes is None:
        return ""
    needed = found.missing_bytes + found.prepared_bytes
    _, free, reserved = hub_pages.download_room(studio, needed)
    got = (
        f"{format_bytes(found.missing_bytes)} to download"
        if found.missing_bytes
        else "all files are in your Hugging Face cache already"
    )
    return (
        f"everything needs about {format_bytes(needed)} ({got}, "
        f"{format_bytes(found.prepared_bytes)} for the prepared copy); "
        f"{format_bytes(max(0, free - reserved))} are free"
    )
