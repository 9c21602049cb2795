"""The left side of the Steering tab: SAE, unit, search, and up to 20 cards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QComboBox, QVBoxLayout, QWidget

from mistudio.core.steering_spec import MAX_EDITS
from mistudio.gui.services import Services
from mistudio.gui.tabs.features.scrolling import scrolling
from mistudio.gui.tabs.features.sources import SaeCombo
from mistudio.gui.tabs.steering.card import CardState, FeatureCard
from mistudio.gui.tabs.steering.search import FeatureSearch, unknown_feature
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import label, row
from mistudio.store.features import FeatureRow, feature_rows, newest_set
from mistudio.store.records import FeatureSetRow, SaeRow

UNITS = (("max", "× max activation"), ("raw", "raw activation"))
REMEMBERED = "steering.cards"


class _Source(NamedTuple):
    sae: SaeRow
    feature_set: FeatureSetRow | None
    rows: list[FeatureRow]
    states: list[CardState]


def _read(db: Any, sae: SaeRow, states: list[CardState]) -> _Source:
    found = newest_set(db, sae.id)
    wanted = [state.feature for state in states if state.feature < sae.n_latents]
    rows = feature_rows(db, found, wanted) if found and wanted else []
    known = {row.index for row in rows}
    rows += [unknown_feature(index) for index in wanted if index not in known]
    return _Source(sae, found, rows, states)


class FeaturePanel(QWidget):
    """Holds the cards of one SAE; `changed` follows every edit."""

    changed = Signal()

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._services = services
        self.cards: list[FeatureCard] = []
        self._wanted: tuple[str, list[CardState]] | None = None
        self._shown_sae = ""
        self.source = SaeCombo(services, "steering.sae")
        self.source.chosen.connect(self._on_source)
        self.unit_combo = QComboBox()
        for value, shown in UNITS:
            self.unit_combo.addItem(shown, value)
        self.unit_combo.setAccessibleName("Unit of the strength")
        self.unit_combo.setToolTip(
            "× max: multiples of the feature's largest activation on the text read. "
            "raw: the activation itself."
        )
        self.unit_combo.currentIndexChanged.connect(self._on_unit)
        self.search = FeatureSearch(services)
        self.search.added.connect(self._on_added)
        self.count = label("", "muted")
        self.hint = label(
            "At strength 0 with Add the steered text is the baseline, token for token.",
            "small",
            wrap=True,
        )
        self._lay_out()
        self._recall()

    def _lay_out(self) -> None:
        px = appearance().px
        scroll, self._list = scrolling()
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(px(8))
        box.addWidget(self.source)
        box.addLayout(row(self.count, None, label("Unit", "label"), self.unit_combo))
        box.addWidget(self.search)
        box.addWidget(scroll, 1)
        box.addWidget(self.hint)
        self._tell()

    def _recall(self) -> None:
        stored = self._services.settings.recall(REMEMBERED)
        if not isinstance(stored, dict):
            return
        states = [CardState(*state) for state in stored.get("cards", ())]
        self.load(str(stored.get("sae", "")), states, str(stored.get("unit", "max")))

    def unit(self) -> str:
        return str(self.unit_combo.currentData())

    def load(self, sae_id: str, states: Sequence[CardState], unit: str) -> None:
        """Show these cards of an SAE in place of those there are."""
        self._wanted = (sae_id, list(states))
        self.unit_combo.blockSignals(True)
        self.unit_combo.setCurrentIndex(max(0, self.unit_combo.findData(unit)))
        self.unit_combo.blockSignals(False)
        self._choose(sae_id)

    def add(self, sae_id: str, feature: int) -> None:
        """Add a card, after changing to its SAE if need be."""
        kept = [card.state() for card in self.cards] if sae_id == self._shown_sae else []
        if all(state.feature != feature for state in kept):
            kept.append(CardState(feature))
        self._wanted = (sae_id, kept[:MAX_EDITS])
        self._choose(sae_id)

    def _choose(self, sae_id: str) -> None:
        current = self.source.sae()
        if current is not None and current.id == sae_id:
            self._ask(current)
        else:
            self.source.choose(sae_id)

    def states(self) -> list[CardState]:
        return [card.state() for card in self.cards]

    def written(self) -> tuple[str, ...]:
        """The edits of the cards that are on, in the form of the settings."""
        edits = [card.edit() for card in self.cards if card.is_on()]
        return tuple(edit.written() for edit in edits if edit is not None)

    def problem(self) -> str:
        """Why these cards cannot be used, "" if they can."""
        if self.source.sae() is None:
            return "There is no SAE yet."
        if any(card.is_on() and card.value() is None for card in self.cards):
            return "A strength is not a number."
        if not any(card.is_on() for card in self.cards):
            return "Add a feature to steer."
        return ""

    def _on_source(self, sae: SaeRow | None) -> None:
        if sae is None:
            self.search.set_source(None, None)
            self._tell()
        else:
            self._ask(sae)

    def _ask(self, sae: SaeRow) -> None:
        wanted = self._wanted
        if wanted is not None and wanted[0] == sae.id:
            states, self._wanted = wanted[1], None
        elif sae.id == self._shown_sae:
            states = self.states()
        else:
            states = []
        self._services.query.ask(lambda db: _read(db, sae, states), self._show, key="source")

    def _show(self, source: _Source) -> None:
        self._shown_sae = source.sae.id
        self.search.set_source(source.sae, source.feature_set)
        rows = {row.index: row for row in source.rows}
        for card in self.cards:
            self._drop(card)
        self.cards = []
        for state in source.states:
            if state.feature in rows:
                self._append(rows[state.feature], state)
        self._on_card()

    def _append(self, found: FeatureRow, state: CardState) -> None:
        card = FeatureCard(found, state, self.unit())
        card.changed.connect(self._on_card)
        card.removed.connect(self._on_removed)
        self._list.insertWidget(len(self.cards), card)
        self.cards.append(card)

    def _drop(self, card: FeatureCard) -> None:
        self._list.removeWidget(card)
        card.hide()
        card.deleteLater()

    def _on_added(self, found: FeatureRow) -> None:
        if len(self.cards) < MAX_EDITS:
            self._append(found, CardState(found.index))
            self._on_card()
            self.search.close_results()
            self.cards[-1].number.setFocus()

    def _on_removed(self, feature: int) -> None:
        for card in [card for card in self.cards if card.feature.index == feature]:
            self.cards.remove(card)
            self._drop(card)
        self._on_card()

    def _on_unit(self) -> None:
        for card in self.cards:
            card.set_unit(self.unit())
        self._on_card()

    def _on_card(self) -> None:
        for position, card in enumerate(self.cards):
            card.set_accent(position)
        self.search.set_taken({card.feature.index for card in self.cards})
        kept = {
            "sae": self._shown_sae,
            "unit": self.unit(),
            "cards": [list(state) for state in self.states()],
        }
        self._services.settings.remember(REMEMBERED, kept)
        self._tell()

    def _tell(self) -> None:
        self.count.setText(f"{len(self.cards)} of {MAX_EDITS} features")
        self.changed.emit()
