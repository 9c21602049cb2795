"""Finding features to steer: a search field whose results open below it, each to be added."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import QEvent, QObject, Qt, Signal
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QListWidget, QListWidgetItem, QVBoxLayout, QWidget

from mistudio.gui.services import Services
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label, row
from mistudio.gui.widgets.layout import SearchField
from mistudio.jobs.steering_cards import unknown_feature
from mistudio.store.features import FeatureFilter, FeatureRow, feature_ids, feature_rows
from mistudio.store.records import FeatureSetRow, SaeRow

LIMIT = 50


def what_it_is(found: FeatureRow) -> str:
    """The label of a feature, else its top tokens."""
    return found.label or found.top_tokens or "no label"


class FeatureSearch(QWidget):
    """Offers features of one SAE by label, token or number; `added(FeatureRow)`."""

    added = Signal(object)

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._services = services
        self._sae: SaeRow | None = None
        self._set: FeatureSetRow | None = None
        self._taken: set[int] = set()
        self._found: list[FeatureRow] = []
        px = appearance().px
        self.field = SearchField("Add a feature: label, token or #id")
        self.field.searched.connect(self._on_searched)
        self.field.installEventFilter(self)
        self.results = QListWidget()
        self.results.setAccessibleName("Features found")
        self.results.setMinimumHeight(px(152))
        self.results.itemActivated.connect(self._on_activated)
        self.hint = label("", "small", wrap=True)
        self.add_button = button("Add", self.add_current, icon="plus")
        self.close_button = button("Close", self.close_results, variant="ghost")
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

    def set_source(self, sae: SaeRow | None, feature_set: FeatureSetRow | None) -> None:
        """Search the features of another SAE."""
        self._sae, self._set = sae, feature_set
        self.setEnabled(sae is not None)

    def set_taken(self, indices: set[int]) -> None:
        """Features that are steered already are not offered."""
        if indices != self._taken:
            self._taken = set(indices)
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
            self.added.emit(self._shown()[at])

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
        found, text = self._set, self.field.text()
        if found is None:
            self._show(self._by_number(text))
            return

        def search(db: Any) -> list[FeatureRow]:
            wanted = FeatureFilter(text=text)
            return feature_rows(db, found, feature_ids(db, found, wanted, limit=LIMIT))

        self._services.query.ask(search, self._show, key="search")

    def _by_number(self, text: str) -> list[FeatureRow]:
        number = text.strip().lstrip("#")
        if self._sae is None or not number.isdigit() or int(number) >= self._sae.n_latents:
            return []
        return [unknown_feature(int(number))]

    def _show(self, rows: list[FeatureRow]) -> None:
        self._found = rows
        self._fill()

    def _shown(self) -> list[FeatureRow]:
        return [found for found in self._found if found.index not in self._taken]

    def _fill(self) -> None:
        self.results.clear()
        shown = self._shown()
        for found in shown:
            self.results.addItem(f"#{found.index}   {what_it_is(found)}")
        self.add_button.setEnabled(bool(shown))
        nothing = "Nothing found." if self._set else "Type the number of a latent."
        self.hint.setText("Return adds the feature." if shown else nothing)
