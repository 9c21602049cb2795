"""The Tokenization page of a dataset: its tokenisations, the form for more, the token view."""

from __future__ import annotations

from collections.abc import Mapping

from PySide6.QtWidgets import QFrame, QScrollArea, QVBoxLayout, QWidget

from mistudio.gui.services import Services
from mistudio.gui.tabs.datasets.titles import facts_of, title_of
from mistudio.gui.tabs.datasets.token_view import TokenView
from mistudio.gui.tabs.datasets.tokenize_form import TokenizeForm
from mistudio.gui.tabs.library.cards import JobCard, ObjectCard
from mistudio.gui.tabs.library.deleting import Deleter
from mistudio.gui.tabs.library.jobs import LiveProgress, act_on_job
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import label
from mistudio.jobs import library_pages
from mistudio.jobs.dependants import of_tokenization
from mistudio.jobs.library_pages import ListedDataset
from mistudio.store.records import DatasetRow, JobRow, TokenizationRow


class TokenizationPage(QScrollArea):
    """Cards of the tokenisations; a click shows its rows of tokens below."""

    def __init__(
        self, services: Services, dataset: DatasetRow, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._services, self._dataset = services, dataset
        self._rows: dict[str, TokenizationRow] = {}
        self._model_names: Mapping[str, str] = {}
        self._used_by: Mapping[str, list[str]] = {}
        self._jobs: dict[str, JobRow] = {}
        self._cards: dict[str, ObjectCard] = {}
        self._wanted = ""  # made just now, to be shown once it has been read
        self._live = LiveProgress(services, self)
        self._live.moved.connect(self._on_moved)
        self._deleter = Deleter(services, "tokenizations", of_tokenization, self)
        self.form = TokenizeForm(services, dataset)
        self.form.finished.connect(self.show_tokens)
        self.view = TokenView(services)
        self._build()

    def _build(self) -> None:
        px = appearance().px
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        content = QWidget()
        content.setObjectName("column")
        box = QVBoxLayout(content)
        box.setContentsMargins(0, px(16), px(8), 0)
        box.setSpacing(px(12))
        self.none = label("Not tokenised yet; the form below does it.", "muted")
        self._list = QVBoxLayout()
        self._list.setSpacing(px(8))
        box.addWidget(self.none)
        box.addLayout(self._list)
        box.addWidget(self.view)
        box.addWidget(self.form)
        box.addStretch(1)
        self.view.hide()
        self.setWidget(content)

    def show_dataset(self, listed: ListedDataset) -> None:
        """Take over the tokenisations, and ask for the jobs that make more."""
        self._used_by = listed.used_by
        self._rows = {row.id: row for row in listed.tokenizations}
        self._model_names = listed.model_names
        studio, dataset = self._services.studio, self._dataset
        self._services.query.ask(
            lambda _: library_pages.tokenize_jobs(studio, dataset), self._on_jobs, key="jobs"
        )
        self.form.show_dataset(listed.row)
        self.form.read_models()

    def _on_jobs(self, jobs: list[JobRow]) -> None:
        self._jobs = {job.id: job for job in jobs}
        for key in [k for k in self._cards if k not in self._rows and k not in self._jobs]:
            self._cards.pop(key).deleteLater()
        for job in jobs:
            self._job_card(job)
        for row in self._rows.values():
            self._card(row)
        self.none.setVisible(not self._rows and not jobs)
        if self.view.tokenization_id() not in self._rows:
            self.view.clear()
        if self._wanted in self._rows:
            self.show_tokens(self._wanted)

    def _job_card(self, job: JobRow) -> None:
        card = self._cards.get(job.id)
        if not isinstance(card, JobCard):
            card = JobCard(job.id, "table", "blue")
            card.asked.connect(self._act)
            self._cards[job.id] = card
            self._list.insertWidget(0, card)
        card.show_job(job, self._live.of(job.id))

    def _card(self, row: TokenizationRow) -> None:
        card = self._cards.get(row.id)
        if card is None:
            card = ObjectCard(row.id, "table", "blue")
            card.setToolTip("Show its tokens")
            card.opened.connect(self.show_tokens)
            card.delete_asked.connect(self._deleter.ask)
            self._cards[row.id] = card
            self._list.addWidget(card)
        # while one is being made, its job's card stands for it
        card.setVisible(row.status == "ready" or not self._jobs)
        users = ", ".join(self._used_by.get(row.id, []))
        extra = f"Used by {users}" if users else ""
        card.show_object(title_of(row, self._model_names), facts_of(row), row.status, extra=extra)

    def _on_moved(self, job_id: str) -> None:
        if job_id in self._jobs and job_id in self._cards:
            self._job_card(self._jobs[job_id])

    def _act(self, job_id: str, verb: str) -> None:
        act_on_job(self._services, job_id, verb)

    def show_tokens(self, tokenization_id: str) -> None:
        """Show the rows of a tokenisation as tokens."""
        row = self._rows.get(tokenization_id)
        ready = row is not None and row.status == "ready"
        self._wanted = "" if ready else tokenization_id
        if row is not None and ready:
            self.view.show_tokenization(row, title_of(row, self._model_names))
