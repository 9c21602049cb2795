"""The form that tokenises a dataset for one of the models."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QWidget

from mistudio.core.dataset_configs import TokenizeConfig
from mistudio.core.errors import StudioError
from mistudio.gui.services import Services
from mistudio.gui.tabs.library.jobs import JobWatch
from mistudio.gui.widgets.cards import Card, button, label, row
from mistudio.gui.widgets.config_form import ConfigForm
from mistudio.gui.widgets.editors import ChoiceEditor
from mistudio.jobs import library_pages
from mistudio.store.records import DatasetRow, JobRow, ModelRow

_FIELDS = ("model", "context", "arrangement", "start_token")
_ARRANGEMENTS = (("packed", "Packed rows"), ("document", "One document per row"))
_START_TOKENS = (("model", "As the model does"), ("on", "Always"), ("off", "Never"))


class TokenizeForm(Card):
    """Settings of a tokenisation, a button, and the sentence if it fails."""

    finished = Signal(str)  # id of the tokenisation, new or already there

    def __init__(
        self, services: Services, dataset: DatasetRow, parent: QWidget | None = None
    ) -> None:
        super().__init__("list", parent, padding=16)
        self._services = services
        self.models = ChoiceEditor()
        self.form = ConfigForm(
            TokenizeConfig,
            _FIELDS,
            editors={
                "model": self.models,
                "arrangement": ChoiceEditor(_ARRANGEMENTS),
                "start_token": ChoiceEditor(_START_TOKENS),
            },
            columns=4,
            settings=services.settings,
            remember="tokenize",
            command="dataset tokenize",
            positional=("dataset",),
        )
        self.form.set_values({"dataset": dataset.id})
        self.box.addWidget(label("New tokenisation", "card"))
        self.box.addWidget(self.form)
        self.problem = label("", "error", wrap=True, selectable=True)
        self.problem.hide()
        self.box.addWidget(self.problem)
        self.hint = label("A tokenisation needs a model's tokenizer.", "muted")
        self.to_models = button("Go to Models", self._go_to_models, variant="link")
        self.button = button("Tokenise", self.submit, variant="primary", icon="table")
        self.form.action_row.addWidget(self.button)
        self.box.addLayout(row(self.hint, self.to_models, None))
        self._watch = JobWatch(services, self)
        self._watch.ended.connect(self._on_ended)
        self.read_models()

    def read_models(self) -> None:
        """Offer the models there are now."""
        studio = self._services.studio
        self._services.query.ask(
            lambda _: library_pages.ready_models(studio), self._on_models, key="models"
        )

    def _on_models(self, models: list[ModelRow]) -> None:
        first = not self.models.value()
        self.models.set_choices([(model.id, model.name) for model in models])
        if first:
            kept = self._services.settings.recall("tokenize", {})
            self.models.set_value(kept.get("model", ""))
        for part in (self.hint, self.to_models):
            part.setVisible(not models)
        self.button.setEnabled(bool(models))

    def submit(self) -> None:
        """Queue the tokenisation, or show what is wrong."""
        config = self.form.checked()
        if config is None:
            return
        self._say("")
        try:
            self._watch.submit("tokenize", config)
        except StudioError as error:
            self._say(error.sentence)

    def _on_ended(self, job: JobRow) -> None:
        if job.status == "failed":
            self._say(job.error_message or f"{job.title} failed.")
        elif job.status == "completed" and job.result:
            self.finished.emit(str(job.result.get("tokenization", "")))

    def _say(self, sentence: str) -> None:
        self.problem.setText(sentence)
        self.problem.setVisible(bool(sentence))

    def _go_to_models(self) -> None:
        self._services.open_tab("Models")
