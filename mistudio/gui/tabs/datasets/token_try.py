"""A box to try a tokeniser in: a text, its tokens as chips, and what the dataset would take."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QPlainTextEdit, QWidget

from mistudio.core.dataset_configs import TokenizeConfig
from mistudio.core.errors import StudioError
from mistudio.core.units import format_bytes, format_count
from mistudio.gui.services import Services
from mistudio.gui.tabs.datasets.token_chips import TokenChips
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import Card, button, label, row
from mistudio.jobs import dataset_pages, tokenize_preview
from mistudio.jobs.tokenize_preview import TokenEstimate, TokenPreview
from mistudio.store.records import DatasetRow

_WAIT_MS = 150
_FIRST = 240  # characters of the dataset that the box begins with
_MOST = 20_000  # characters that are tried
_LINES = 3
_GET = "tokenizer_not_here"


class _Tried(NamedTuple):
    preview: TokenPreview | None
    sentence: str
    code: str


class TokenTry(Card):
    """Follows a form's settings by `show_config`; None shows that they are not complete."""

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__("nested", parent, padding=12)
        self._services = services
        self._config: TokenizeConfig | None = None
        px = appearance().px
        self.box.setSpacing(px(8))
        self.text = QPlainTextEdit()
        self.text.setAccessibleName("Text to try")
        self.text.setToolTip("Type here to see how it is cut into tokens; nothing is stored")
        self.text.setPlaceholderText("Text to try the settings on")
        self.text.setTabChangesFocus(True)
        height = _LINES * self.text.fontMetrics().lineSpacing() + px(24)
        self.text.setFixedHeight(height)
        self.text.textChanged.connect(self._later)
        self.count = label("", "muted", wrap=True)
        self.get = button("Get the tokenizer", self._fetch, icon="download")
        self.get.hide()
        self.chips = TokenChips()
        self.estimate = label("", "label", wrap=True)
        self.box.addWidget(label("Try it", "label"))
        self.box.addWidget(self.text)
        self.box.addWidget(self.chips)
        line = row(self.count, self.get)
        line.setStretch(0, 1)
        self.box.addLayout(line)
        self.box.addWidget(self.estimate)
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(_WAIT_MS)
        self._soon.timeout.connect(self.try_it)

    def begin_with(self, dataset: DatasetRow) -> None:
        """Begin with the first document of a dataset."""
        studio = self._services.studio
        self._services.query.ask(
            lambda _: dataset_pages.samples(studio, dataset, 0, 1),
            self._on_first,
            on_error=self._on_error,
            key="first",
        )

    def show_config(self, config: TokenizeConfig | None) -> None:
        """Try other settings."""
        if config != self._config:
            self._config = config
            self.estimate.setText("")
            self._later()
            self._ask_estimate()

    def try_it(self) -> None:
        """Cut the text into tokens."""
        config, text = self._config, self.text.toPlainText()[:_MOST]
        self.get.hide()
        if config is None or not text:
            self.chips.set_chips([])
            self.count.setText("")
            return
        studio = self._services.studio
        self._services.network.ask(
            lambda _: _try(lambda: tokenize_preview.preview(studio, config, text)),
            self._on_tried,
            on_error=self._on_error,
            key="try",
        )

    def _later(self) -> None:
        self._soon.start()

    def _ask_estimate(self) -> None:
        config, studio = self._config, self._services.studio
        if config is not None:
            self._services.network.ask(
                lambda _: tokenize_preview.estimate(studio, config),
                self._on_estimate,
                on_error=self._on_no_estimate,
                key="estimate",
            )

    def _on_first(self, texts: list[str]) -> None:
        if texts and not self.text.toPlainText():
            self.text.setPlainText(texts[0][:_FIRST])

    def _on_tried(self, tried: _Tried) -> None:
        found = tried.preview
        self.chips.set_chips(found.chips if found else [])
        self.count.setText(count_line(found) if found else tried.sentence)
        self.get.setVisible(tried.code == _GET)

    def _on_estimate(self, found: TokenEstimate) -> None:
        self.estimate.setText(estimate_line(found))

    def _on_no_estimate(self, sentence: str, details: str) -> None:
        self.estimate.setText("")

    def _on_error(self, sentence: str, details: str) -> None:
        self.count.setText(sentence)

    def _fetch(self) -> None:
        config, studio = self._config, self._services.studio
        if config is None:
            return
        self.get.hide()
        self.count.setText("Getting the tokenizer…")
        self._services.network.ask(
            lambda _: tokenize_preview.fetch_tokenizer(studio, config),
            self._on_fetched,
            on_error=self._on_error,
            key="fetch",
        )

    def _on_fetched(self, _: object) -> None:
        self.try_it()
        self._ask_estimate()


def _try(work: Callable[[], TokenPreview]) -> _Tried:
    """What a preview gave: a result, or why there is none."""
    try:
        return _Tried(work(), "", "")
    except StudioError as error:
        return _Tried(None, error.sentence, error.code)


def count_line(found: TokenPreview) -> str:
    """ "12 tokens, 1 row; point at a chip to see its id."."""
    tokens = "1 token" if found.count == 1 else f"{format_count(found.count)} tokens"
    if not found.rows:
        return f"{tokens}; a document of this length would be left out."
    rows = "1 row" if found.rows == 1 else f"{format_count(found.rows)} rows"
    unknown = f", {format_count(found.unknown)} unknown to the vocabulary" if found.unknown else ""
    return f"{tokens}, {rows}{unknown}; point at a chip to see its id."


def estimate_line(found: TokenEstimate) -> str:
    """What the whole dataset would take, named an estimate."""
    return (
        f"Estimate from {format_count(found.sampled_documents)} samples: "
        f"about {format_count(found.rows)} rows, {format_count(found.tokens)} tokens, "
        f"{format_bytes(found.bytes)} on disk."
    )
