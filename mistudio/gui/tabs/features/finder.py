"""Searching features by the text in which they fire, or by meaning: what was found, and how."""

from __future__ import annotations

from typing import Any, NamedTuple

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QCheckBox, QVBoxLayout, QWidget

from mistudio.core.config import Config
from mistudio.core.errors import StudioError
from mistudio.core.feature_search_configs import EmbedFeaturesConfig, IndexContextsConfig
from mistudio.gui.services import Services
from mistudio.gui.tabs.features.job_line import JobLine
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label, row
from mistudio.jobs import context_search, feature_pages, lookup, meaning_search
from mistudio.jobs.context_search import TextMatches
from mistudio.jobs.meaning_search import MeaningMatches
from mistudio.store.tables import JOBS

LABELS, TEXTS, MEANING = range(3)
MODES = ("Labels", "Texts", "Meaning")
PLACEHOLDERS = (
    "Search label, note, tokens or #id",
    'Text in which features fire: words, "a phrase", begin*',
    "What the features are about, in your own words",
)
SCORE = (
    "Match: mean over the occurrences of the largest activation on the occurrence's tokens, as a "
    "share of the feature's maximum"
)
RARE = ", times log(tokens / tokens on which it fires)"


class Ranking(NamedTuple):
    """Features that answer a search, best first, and how well."""

    features: list[int]
    scores: list[float]


class Finder(QWidget):
    """Answers a search of another kind than that of labels; `ranked(Ranking or None)`."""

    ranked = Signal(object)

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._services = services
        self._sae_id, self._mode, self._text = "", LABELS, ""
        self._was = ("", LABELS, "")
        self._refused: set[tuple[str, int]] = set()  # jobs that ended without what they make
        self.told = label("", "small", wrap=True)
        self.rare = QCheckBox("Favour rare features")
        self.rare.setToolTip(
            "Multiplies each score by log(N / n): tokens read by tokens it fires on"
        )
        self.rare.toggled.connect(self._search)
        self.examples = QCheckBox("With examples")
        self.examples.setToolTip("Twenty hits to the page with three examples each, or the table")
        self.examples.setChecked(True)
        self.again = button("Try again", self._on_again, icon="retry", tip="Search once more")
        self.job = JobLine(services, working="running")
        line = row(self.told, self.rare, self.examples, self.again)
        line.setStretch(0, 1)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(appearance().px(4))
        box.addWidget(self.job)
        box.addLayout(line)
        services.lanes.finished.connect(self._on_finished)
        self.again.hide()
        self.hide()

    def ask(self, sae_id: str, mode: int, text: str) -> None:
        """Search, or list all again for a search of labels or an empty one."""
        now = sae_id, mode, text
        before, self._was = self._was, now
        self._sae_id, self._mode, self._text = now
        if now != before:
            self._search()

    def shows_examples(self) -> bool:
        """Whether hits are to be shown with examples: of a search by meaning, unless unchecked."""
        return self._mode == MEANING and self.examples.isChecked()

    def _search(self) -> None:
        self.setVisible(self._mode != LABELS)
        self.rare.setVisible(self._mode == TEXTS)
        self.examples.setVisible(self._mode == MEANING)
        self.again.hide()
        if self._mode == LABELS or not self._text:
            self.told.setText("" if self._mode == LABELS else "Write what to search for.")
            self.ranked.emit(None)
            return
        studio, sae_id, text, rare = (
            self._services.studio,
            self._sae_id,
            self._text,
            self.rare.isChecked(),
        )
        self.told.setText("Searching…")
        if self._mode == TEXTS:
            self._services.query.ask(
                lambda _: _by_text(studio, sae_id, text, rare),
                self._show_texts,
                on_error=self._on_error,
                key="find",
            )
        else:
            # in a thread of its own: an encoder takes seconds to load
            self._services.network.ask(
                lambda _: meaning_search.search(studio, lookup.sae(studio, sae_id), text),
                self._show_meaning,
                on_error=self._on_error,
                key="find",
            )

    def _show_texts(self, found: TextMatches | None) -> None:
        if self._mode != TEXTS:
            return
        if found is None:
            self._start("index_contexts", IndexContextsConfig(sae=self._sae_id))
            return
        read = f", {found.used:,} of them read (drawn by hash)" if found.used < found.hits else ""
        how = SCORE + (RARE if self.rare.isChecked() else "") + "."
        self.told.setText(f"{found.hits:,} occurrences{read}. {how}")
        self.ranked.emit(Ranking(found.features, found.scores))

    def _show_meaning(self, found: MeaningMatches) -> None:
        if self._mode != MEANING:
            return
        if found.stale:
            self._start("embed_features", EmbedFeaturesConfig(sae=self._sae_id))
            return
        if found.encoder:
            how = (
                f"Match: cosine of the sentence vectors of {found.encoder}, of label or top tokens."
            )
        else:
            how = (
                "There is no sentence encoder on this machine: these share words with your text. "
                "Match: BM25 over label, note, top and promoted tokens."
            )
        self.told.setText(how)
        self.ranked.emit(Ranking(found.features, found.scores))

    def _start(self, kind: str, config: Config) -> None:
        """Make what the search needs, once; then search."""
        if (self._sae_id, self._mode) in self._refused:
            self.told.setText("This search needs an index of this feature set, which is not made.")
            self.again.show()
            self.ranked.emit(Ranking([], []))
            return
        running = JOBS.select(
            self._services.studio.db(), "kind = ? AND status IN ('queued', 'running')", [kind]
        )
        mine = [job for job in running if job.config.get("sae") == self._sae_id]
        try:
            job_id = mine[0].id if mine else self._services.submit(kind, config)
        except StudioError as error:
            self._on_error(error.sentence, error.details)
            return
        self.told.setText("Made once for this feature set; the search goes on when it is there.")
        self.job.show_job(JOBS.find(self._services.studio.db(), job_id))

    def _on_finished(self, job_id: str, state: str) -> None:
        if job_id != self.job.job_id:
            return
        self.job.show_job(None)
        if state != "completed":
            self._refused.add((self._sae_id, self._mode))
        self._search()

    def _on_again(self) -> None:
        self._refused.clear()
        self._search()

    def _on_error(self, sentence: str, details: str) -> None:
        self.told.setText(sentence)
        self.told.setToolTip(details)
        self.ranked.emit(Ranking([], []))


def _by_text(studio: Any, sae_id: str, text: str, rare: bool) -> TextMatches | None:
    """What is found; None if the text has to be indexed first."""
    sae = lookup.sae(studio, sae_id)
    if not context_search.is_indexed(studio, feature_pages.feature_set(studio, sae)):
        return None
    return context_search.search(studio, sae, text, rare=rare)
