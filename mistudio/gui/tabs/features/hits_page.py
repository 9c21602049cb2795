"""Features that answer a search by meaning: twenty to the page, each with three examples."""

from __future__ import annotations

from typing import Any

import numpy as np
from PySide6.QtCore import Signal
from PySide6.QtWidgets import QVBoxLayout, QWidget

from mistudio.core.units import format_decimal
from mistudio.gui.services import Services
from mistudio.gui.tabs.features.columns import label_text
from mistudio.gui.tabs.features.finder import Ranking
from mistudio.gui.tabs.features.scrolling import scrolling
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import Card, button, label, row
from mistudio.gui.widgets.token_layout import TokenPiece
from mistudio.gui.widgets.token_text import TokenText
from mistudio.jobs import feature_hits
from mistudio.jobs.feature_hits import EXAMPLES, PAGE, Hit
from mistudio.store.records import FeatureSetRow


class HitCard(Card):
    """One feature: number, label, match, and its examples."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("nested", parent, padding=10)
        self.box.setSpacing(appearance().px(4))
        self.index = -1
        self.open_button = button("", variant="link", tip="Open this feature")
        self.match = label("", "mono")
        self.box.addLayout(row(self.open_button, None, self.match))
        self.examples = [TokenText() for _ in range(EXAMPLES)]
        for text in self.examples:
            self.box.addWidget(text)

    def show_hit(self, hit: Hit) -> None:
        """Show another feature."""
        self.index = hit.row.index
        self.open_button.setText(f"#{hit.row.index}  {label_text(hit.row)}".replace("&", "&&"))
        self.match.setText(f"match {format_decimal(hit.score, 3)}")
        for place, text in enumerate(self.examples):
            text.setVisible(place < len(hit.examples))
            if place < len(hit.examples):
                example = hit.examples[place]
                pieces = [TokenPiece(p.text, p.value, p.masked) for p in example.pieces]
                text.set_tokens(pieces, hit.row.max, example.peak)


class HitsPage(QWidget):
    """The hits of a ranking in the order of the table; `opened(index)` asks for one."""

    opened = Signal(int)

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._services = services
        self._set: FeatureSetRow | None = None
        self._features: list[int] = []
        self._scores: list[float] = []
        self.page = 1
        self.cards: list[HitCard] = []
        self.place = label("", "muted")
        self.before = button("Better", self.go_back, icon="chevron_left", tip="20 hits back")
        self.after = button("More", self.go_on, icon="chevron_right", tip="20 hits on")
        self._scroll, self._list = scrolling()
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(appearance().px(6))
        box.addWidget(self._scroll, 1)
        box.addLayout(row(self.place, None, self.before, self.after))

    def show_hits(self, found: FeatureSetRow, ids: np.ndarray, ranking: Ranking) -> None:
        """List these features, with the scores that a ranking gives them, from the first page."""
        scores = dict(zip(ranking.features, ranking.scores, strict=True))
        self._set, self._features = found, ids.tolist()
        self._scores = [scores[feature] for feature in self._features]
        self._go(1)

    def go_back(self) -> None:
        """The page before."""
        self._go(self.page - 1)

    def go_on(self) -> None:
        """The next page."""
        self._go(self.page + 1)

    def _go(self, page: int) -> None:
        found, studio = self._set, self._services.studio
        features, scores = self._features, self._scores
        if found is None:
            return
        last = feature_hits.pages(len(features))
        self.page = min(max(page, 1), last)
        self.before.setEnabled(self.page > 1)
        self.after.setEnabled(self.page < last)
        first = (self.page - 1) * PAGE + 1
        end = min(self.page * PAGE, len(features))
        self.place.setText(f"Hits {first:,}–{end:,} of {len(features):,}" if features else "")
        wanted = self.page
        self._services.query.ask(
            lambda _db: feature_hits.hits(studio, found, features, scores, page=wanted),
            self._show,
            on_error=self._on_error,
            key="hits",
        )

    def _show(self, hits: list[Hit]) -> None:
        while len(self.cards) < len(hits):
            card = HitCard()
            card.open_button.clicked.connect(self._on_open)
            self._list.insertWidget(len(self.cards), card)
            self.cards.append(card)
        for place, card in enumerate(self.cards):
            card.setVisible(place < len(hits))
            if place < len(hits):
                card.show_hit(hits[place])
        self._scroll.verticalScrollBar().setValue(0)

    def _on_open(self) -> None:
        pressed: Any = self.sender()
        self.opened.emit(next(card.index for card in self.cards if card.open_button is pressed))

    def _on_error(self, sentence: str, details: str) -> None:
        self.place.setText(sentence)
        self.place.setToolTip(details)
