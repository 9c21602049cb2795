"""Finding features to steer: a search field whose results open below it, each to be added."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, NamedTuple

from PySide6.QtCore import QEvent, QObject, Qt, Signal
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QListWidget, QListWidgetItem, QVBoxLayout, QWidget

from mistudio.core.steering_spec import Direction, Feature, Source
from mistudio.gui.services import Services
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label, row
from mistudio.gui.widgets.layout import SearchField
from mistudio.store.features import FeatureFilter, FeatureRow, feature_ids, feature_rows
from mistudio.store.records import FeatureSetRow, SaeRow
from mistudio.store.tables import STEERING_VECTORS

LIMIT = 50
FEATURES = "Add a feature: label, token, #id or @vector"
VECTORS = "Add a vector by its name"
NO_VECTOR = (
    "This model has no vector yet: Vectors… below makes one from two lists of prompts or imports "
    "one. An SAE, trained or imported, brings features."
)
_ODD = re.compile(r"[@=?>:/\s]")  # what a name in the short form of an edit cannot hold


class Offer(NamedTuple):
    """A source that can be added, and how the list names it."""

    source: Source
    words: str


def what_it_is(found: FeatureRow) -> str:
    """The label of a feature, else its top tokens."""
    return found.label or found.top_tokens or "no label"


class FeatureSearch(QWidget):
    """Offers features of one SAE by label, token or number, and vectors; `added(Source)`."""

    added = Signal(object)

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._services = services
        self._sae: SaeRow | None = None
        self._set: FeatureSetRow | None = None
        self._model = ""
        self._taken: set[Source] = set()
        self._found: list[Offer] = []
        px = appearance().px
        self.field = SearchField(FEATURES)
        self.field.searched.connect(self._on_searched)
        self.field.installEventFilter(self)
        self.results = QListWidget()
        self.results.setAccessibleName("Features found")
        self.results.setMinimumHeight(px(152))
        self.results.itemActivated.connect(self._on_activated)
        self.hint = label("", "small", wrap=True)
        self.add_button = button(
            "Add", self.add_current, icon="plus", tip="Add the chosen feature as a card (Return)"
        )
        self.close_button = button(
            "Close", self.close_results, variant="ghost", tip="Hide what was found (Esc)"
        )
        self.popup = QWidget()
        inner = QVBoxLayout(self.popup)
        inner.setContentsMargins(0, 0, 0, 0)
        inner.setSpacing(px(4))
        inner.addWidget(self.results)
        inner.addWidget(self.hint)
        inner.addLayout(row(self.add_button, self.close_button, None))
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(px(4))
        box.addWidget(self.field)
        box.addWidget(self.popup)
        self.popup.hide()

    def set_source(
        self, sae: SaeRow | None, feature_set: FeatureSetRow | None, model_id: str = ""
    ) -> None:
        """Search the features of another SAE; without one, the vectors of a model alone."""
        self._sae, self._set = sae, feature_set
        self._model = model_id if sae is None else sae.model_id or ""
        self.field.setPlaceholderText(FEATURES if sae is not None else VECTORS)
        self.setEnabled(sae is not None or bool(model_id))
        self.refresh()

    def refresh(self) -> None:
        """Look again if the list is open."""
        if self.popup.isVisible():
            self._ask()

    def set_taken(self, sources: set[Source]) -> None:
        """What is steered already is not offered."""
        if sources != self._taken:
            self._taken = set(sources)
            self._fill()

    def open_results(self) -> None:
        """Show the list; without a text the most frequent features."""
        self.popup.show()
        self._ask()

    def close_results(self) -> None:
        """Take the list away."""
        self.popup.hide()

    def add_current(self) -> None:
        """Add the feature that is chosen in the list, the first one by default."""
        at = max(0, self.results.currentRow())
        if at < len(self._shown()):
            self.added.emit(self._shown()[at].source)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() == QEvent.Type.FocusIn and not self.popup.isVisible():
            self.open_results()
        elif event.type() == QEvent.Type.KeyPress and isinstance(event, QKeyEvent):
            return self._on_key(event)
        return False

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() == Qt.Key.Key_Escape and self.popup.isVisible():
            self.close_results()
        else:
            super().keyPressEvent(event)

    def _on_key(self, event: QKeyEvent) -> bool:
        key = Qt.Key
        if event.key() == key.Key_Down and self.popup.isVisible():
            self.results.setFocus()
            self.results.setCurrentRow(max(0, self.results.currentRow()))
            return True
        if event.key() == key.Key_Escape and not self.field.text():
            self.close_results()
            return True
        return False

    def _on_searched(self, text: str) -> None:
        self.open_results()

    def _on_activated(self, item: QListWidgetItem) -> None:
        self.add_current()

    def _ask(self) -> None:
        found, sae, text = self._set, self._sae, self.field.text().strip()
        model_id = self._model

        def search(db: Any) -> list[Offer]:
            offers = vector_offers(db, model_id, text)
            if text.startswith("@") or sae is None:
                return offers
            if found is None:
                return [*_by_number(sae, text), *offers]
            wanted = FeatureFilter(text=text)
            rows = feature_rows(db, found, feature_ids(db, found, wanted, limit=LIMIT))
            mine = [Offer(Feature(r.index, sae.id), f"#{r.index}   {what_it_is(r)}") for r in rows]
            return [*offers, *mine] if text else [*mine, *offers]

        self._services.query.ask(search, self._show, key="search")

    def _show(self, found: list[Offer]) -> None:
        self._found = found
        self._fill()

    def _shown(self) -> list[Offer]:
        return [found for found in self._found if found.source not in self._taken]

    def _fill(self) -> None:
        self.results.clear()
        shown = self._shown()
        for found in shown:
            self.results.addItem(found.words)
        self.add_button.setEnabled(bool(shown))
        if self._sae is None:
            nothing = "No vector has this name." if self.field.text().strip() else NO_VECTOR
        else:
            nothing = "Nothing found." if self._set else "Type the number of a latent."
        self.hint.setText("Return adds it." if shown else nothing)


def _by_number(sae: SaeRow, text: str) -> list[Offer]:
    number = text.lstrip("#")
    if not number.isdigit() or int(number) >= sae.n_latents:
        return []
    return [Offer(Feature(int(number), sae.id), f"#{int(number)}   no label")]


def vector_offers(db: Any, model_id: str | None, text: str) -> list[Offer]:
    """Vectors of a model whose names hold a text, the newest first."""
    words = text.lstrip("@").casefold()
    known = STEERING_VECTORS.select(db)
    names = Counter(vector.name for vector in known)
    offers: list[Offer] = []
    for vector in known:
        if vector.model_id == model_id and words in vector.name.casefold():
            plain = names[vector.name] == 1 and not _ODD.search(vector.name)
            source = Direction(vector.name if plain else vector.id)
            words_of = f"@{vector.name}   layer {vector.layer} · {vector.hook}"
            offers.append(Offer(source, words_of))
    return offers[:LIMIT]
