"""The form that tokenises a dataset, with a box to try its settings in."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QPushButton, QWidget

from mistudio.core.dataset_configs import TokenizeConfig
from mistudio.core.errors import StudioError
from mistudio.gui.services import Services
from mistudio.gui.tabs.datasets.token_try import TokenTry
from mistudio.gui.tabs.library.jobs import JobWatch
from mistudio.gui.widgets.cards import Card, button, label, row
from mistudio.gui.widgets.config_form import ConfigForm
from mistudio.gui.widgets.editors import ChoiceEditor, PathEditor
from mistudio.jobs import library_pages
from mistudio.store.records import DatasetRow, JobRow, ModelRow

_FIELDS = (
    "model", "tokenizer", "context", "arrangement", "truncation", "padding", "start_token",
    "special_tokens", "column", "split", "skip_bad",
)  # fmt: skip
_ARRANGEMENTS = (("packed", "Packed rows"), ("document", "One document per row"))
_START_TOKENS = (("model", "As the model does"), ("on", "Always"), ("off", "Never"))
_TRUNCATION = (
    ("longest_first", "Cut at the end"),
    ("split", "Split into rows"),
    ("do_not_truncate", "Leave out"),
)
_PADDING = (
    ("max_length", "Up to the context"),
    ("longest", "Up to the longest row"),
    ("do_not_pad", "None"),
)
_OTHER = ("", "Another tokenizer…")
_OF_ONE_DATASET = ("dataset", "column", "split")  # settings that are not kept for the next


class TokenizeForm(Card):
    """Settings of a tokenisation, a button, and the sentence if it fails."""

    finished = Signal(str)  # id of the tokenisation, new or already there

    def __init__(
        self, services: Services, dataset: DatasetRow, parent: QWidget | None = None
    ) -> None:
        super().__init__("list", parent, padding=16)
        self._services, self._dataset = services, dataset
        self._chose = False  # whether a model was proposed yet
        self.models = ChoiceEditor([_OTHER])
        self.columns, self.splits = ChoiceEditor(), ChoiceEditor()
        tokenizer = PathEditor("either", "Tokenizers (tokenizer.json);;All files (*)")
        for found in tokenizer.findChildren(QPushButton):  # the field needs the room
            found.setToolTip(found.text())
            found.setAccessibleName(f"Tokenizer {found.text()}")
            found.setText("")
        tokenizer.line.setPlaceholderText("gpt2, a folder or a tokenizer.json")
        self.form = ConfigForm(
            TokenizeConfig,
            _FIELDS,
            editors={
                "model": self.models,
                "tokenizer": tokenizer,
                "arrangement": ChoiceEditor(_ARRANGEMENTS),
                "truncation": ChoiceEditor(_TRUNCATION),
                "padding": ChoiceEditor(_PADDING),
                "start_token": ChoiceEditor(_START_TOKENS),
                "column": self.columns,
                "split": self.splits,
            },
            columns=3,
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
        self.hint = label("There is no model yet; its tokenizer would be offered here.", "muted")
        self.to_models = button("Go to Models", self._go_to_models, variant="link")
        self.button = button("Tokenise", self.submit, variant="primary", icon="table")
        self.button.setToolTip("Queue it; the same settings again lead to the same tokens")
        self.form.action_row.addWidget(self.button)
        self.box.addLayout(row(self.hint, self.to_models, None))
        self.trial = TokenTry(services)
        self.box.addWidget(self.trial)
        self._watch = JobWatch(services, self)
        self._watch.ended.connect(self._on_ended)
        self.form.changed.connect(self._on_edited)
        self.show_dataset(dataset)
        self.trial.begin_with(dataset)
        self.read_models()

    def show_dataset(self, dataset: DatasetRow) -> None:
        """Offer the columns and splits of the dataset as it is now."""
        found = dataset.statistics or {}
        text = dataset.text_column or "text"
        others = [name for name in found.get("columns", []) if name != text]
        self.columns.set_choices([("", f"The text ({text})"), *((n, n) for n in others)])
        self.splits.set_choices([("", "All splits"), *((n, n) for n in found.get("splits", {}))])

    def read_models(self) -> None:
        """Offer the models there are now."""
        studio = self._services.studio
        self._services.query.ask(
            lambda _: library_pages.ready_models(studio), self._on_models, key="models"
        )

    def _on_models(self, models: list[ModelRow]) -> None:
        self.models.set_choices([*((model.id, model.name) for model in models), _OTHER])
        if not self._chose:
            self._chose = bool(models)
            kept = self._services.settings.recall("tokenize", {}).get("model")
            offered = [model.id for model in models]
            self.models.set_value(kept if kept in ("", *offered) else (*offered, "")[0])
        for part in (self.hint, self.to_models):
            part.setVisible(not models)
        self._on_edited()

    def _on_edited(self) -> None:
        self.trial.show_config(self.form.values() if self.form.is_valid() else None)

    def submit(self) -> None:
        """Queue the tokenisation, or show what is wrong."""
        config = self.form.checked()
        if config is None:
            return
        kept = self._services.settings.recall("tokenize", {})
        kept = {name: value for name, value in kept.items() if name not in _OF_ONE_DATASET}
        self._services.settings.remember("tokenize", kept)
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
