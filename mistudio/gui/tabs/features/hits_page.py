"""Features that answer a search by meaning: twenty to the page, each with three examples."""

from __future__ import annotations

from typing import Any

import numpy as np
from PySide6.QtCore import Signal
from PySide6.QtWidgets import QVBoxLayout, QWidget

from mistudio.core.units import format_decimal, format_percent
from mistudio.gui.services import Services
from mistudio.gui.tabs.features.columns import label_text, score_tip
from mistudio.gui.tabs.features.finder import Ranking
from mistudio.gui.tabs.features.scrolling import scrolling
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import Card, button, label, row
from mistudio.gui.widgets.elided import Elided
from mistudio.gui.widgets.token_layout import TokenPiece
from mistudio.gui.widgets.token_text import TokenText
from mistudio.jobs import feature_hits
from mistudio.jobs.feature_hits import EXAMPLES, PAGE, Hit
from mistudio.store.records import FeatureSetRow

ABOUT_WIDTH = 264  # of what is told beside the examples, before the user's scale


class HitCard(Card):
    """One feature: number, match, label and figures; beside them an example to the line."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("nested", parent, horizontal=True, padding=8, clickable=True)
        px = appearance().px
        self.index = -1
        self.open_button = button("", variant="link", tip="Open this feature")
        self.match = label("", "mono")
        self.name = Elided()
        self.figures = label("", "small")
        for line in (self.name, self.figures):  # as far in as the text of the link
            line.setContentsMargins(px(5), 0, 0, 0)
        about = QWidget()
        about.setFixedWidth(px(ABOUT_WIDTH))
        told = QVBoxLayout(about)
        told.setContentsMargins(0, 0, 0, 0)
        told.setSpacing(px(2))
        told.addLayout(row(self.open_button, None, self.match))
        told.addWidget(self.name)
        told.addWidget(self.figures)
        told.addStretch()
        self.box.setSpacing(px(16))
        self.box.addWidget(about)
        lines = QVBoxLayout()
        lines.setSpacing(px(4))
        self.examples = [TokenText() for _ in range(EXAMPLES)]
        for text in self.examples:
            text.set_line_breaks(False)
            lines.addWidget(text)
        lines.addStretch()
        self.box.addLayout(lines, 1)

    def show_hit(self, hit: Hit) -> None:
        """Show another feature."""
        found = hit.row
        self.index = found.index
        self.open_button.setText(f"#{found.index}")
        self.setAccessibleName(f"Feature {found.index}, {label_text(found)}")
        self.match.setText(f"match {format_decimal(hit.score, 3)}")
        self.name.set_text(label_text(found))
        score = f" · score {format_percent(found.label_score)}" if found.label_score else ""
        self.figures.setText(f"fires on {format_percent(found.frequency, 2)}{score}")
        self.figures.setToolTip(score_tip(found))
        for place, text in enumerate(self.examples):
            text.setVisible(place < len(hit.examples))
            if place < len(hit.examples):
                example = hit.examples[place]
                pieces = [TokenPiece(p.text, p.value, p.masked) for p in example.pieces]
                text.set_tokens(pieces, found.max, example.peak)


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
            card.open_button.clicked.connect(card.clicked)
            card.clicked.connect(self._on_open)
            self._list.insertWidget(len(self.cards), card)
            self.cards.append(card)
        for place, card in enumerate(self.cards):
            card.setVisible(place < len(hits))
            if place < len(hits):
                card.show_hit(hits[place])
        self._scroll.verticalScrollBar().setValue(0)

    def _on_open(self) -> None:
        card: Any = self.sender()
        self.opened.emit(card.index)

    def _on_error(self, sentence: str, details: str) -> None:
        self.place.setText(sentence)
        self.place.setToolTip(details)
