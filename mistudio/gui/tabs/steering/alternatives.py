"""One card's source under further operators or strengths, for a comparison side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QGridLayout, QVBoxLayout, QWidget

from mistudio.core.steering_operators import OPERATORS
from mistudio.core.steering_settings import MOST_COLUMNS
from mistudio.core.steering_spec import Edit, Feature, Source
from mistudio.gui.tabs.steering.card import CardState, FeatureCard
from mistudio.gui.tabs.steering.tab_order import follow
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label, row
from mistudio.gui.widgets.elided import Combo
from mistudio.gui.widgets.layout import guard_wheel
from mistudio.jobs.steering_cards import CardFacts

# offered one after another, those first that are compared most
_OFFERED = ("clamp", "scale", "ablate", "add", "dir-scale", "dir-ablate", "set-if-on", "floor")


class AlternativeCard(FeatureCard):
    """A card that stands in place of another of the same source; `removed` gives the card."""

    def _name(self) -> str:
        return f"{super()._name()}, alternative"

    def _on_remove(self) -> None:
        self.removed.emit(self)


class Alternatives(QWidget):
    """Which card is compared, and the edits beside its own; `changed` follows every edit."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.cards: list[AlternativeCard] = []
        self._states: list[CardState] = []  # while the source is not among the cards
        self._facts: CardFacts | None = None
        self._offered: list[CardFacts] = []
        self._own: list[Edit] = []
        self.of = Combo()
        self.of.setAccessibleName("Card whose operators are compared")
        self.of.setToolTip("The other cards that are on stay as they are in every column")
        self.of.setMinimumWidth(appearance().px(200))
        guard_wheel(self.of)
        self.add_button = button("Add operator", self.add, icon="plus")
        self.add_button.setToolTip("Another operator or strength of the same card, as a column")
        self._grid = QGridLayout()
        self._grid.setSpacing(appearance().px(8))
        for column in range(2):
            self._grid.setColumnStretch(column, 1)
        head = row(label("Beside", "label"), self.of, None, self.add_button)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(appearance().px(6))
        box.addLayout(head)
        box.addLayout(self._grid)
        self.of.currentIndexChanged.connect(self._on_of)

    def states(self) -> list[CardState]:
        """The alternatives as they are kept; those of a source that is no card too."""
        return [card.state() for card in self.cards] if self.cards else list(self._states)

    def edits(self) -> list[Edit]:
        """The alternatives that are on."""
        return [e for card in self.cards if card.is_on() and (e := card.edit()) is not None]

    def load(self, states: Sequence[CardState]) -> None:
        """Show these in place of those there are, as soon as their source is a card."""
        self._drop()
        self._facts = None
        self._states = list(states)
        self.set_cards(self._offered, self._own, self._titles())

    def set_cards(
        self, facts: Sequence[CardFacts], edits: Sequence[Edit], titles: Sequence[str]
    ) -> None:
        """Offer these cards, with their edits and titles; the choice stays with its source."""
        self._own = list(edits)
        wanted = self._states[0].edit.source if self._states else None
        kept = self._facts.source if self._facts else wanted
        if list(facts) != self._offered or list(titles) != self._titles():
            self._offered = list(facts)
            self.of.blockSignals(True)
            self.of.clear()
            self.of.addItems(list(titles))
            sources = [found.source for found in facts]
            self.of.setCurrentIndex(sources.index(kept) if kept in sources else 0)
            self.of.blockSignals(False)
        index = self.of.currentIndex()
        self._show(self._offered[index] if 0 <= index < len(self._offered) else None)

    def begin(self) -> None:
        """Put the first alternative there, if there is none."""
        if self._facts is not None and not self.cards:
            self.add()

    def add(self) -> None:
        """Another operator, one that is not there yet if there is one."""
        if self._facts is None or len(self.cards) + 1 >= MOST_COLUMNS:
            return
        own = self._compared()
        there = {card.operator_name() for card in self.cards} | ({own.operator} if own else set())
        source = self._facts.source
        open_ = [n for n in _OFFERED if n not in there and _can_be(source, n)]
        self._append(CardState(Edit(source, 0.0, open_[0] if open_ else "add")))
        made = self.cards[-1]
        made.reset()
        edit = made.edit()
        if edit is not None and edit.is_neutral:  # a column that equals the baseline tells nothing
            made.set_value(edit.value + 1.0)
        self._arrange()
        self.changed.emit()

    def problem(self) -> str:
        """Why these cannot be compared, "" if they can."""
        if self._facts is None:
            return "Add a feature to steer."
        for card in self.cards:
            if card.is_on() and card.edit() is None:
                return card.sentence()
        if not self.edits():
            return "Add an operator to compare with."
        columns = [*([own] if (own := self._compared()) else []), *self.edits()]
        if len(set(columns)) < len(columns):
            return "Two columns would be the same: change one of them."
        return ""

    def _compared(self) -> Edit | None:
        """The edit that the compared card has itself."""
        index = self.of.currentIndex()
        return self._own[index] if 0 <= index < len(self._own) else None

    def _titles(self) -> list[str]:
        return [self.of.itemText(place) for place in range(self.of.count())]

    def _show(self, facts: CardFacts | None) -> None:
        """Make the alternatives of this source, or keep what they are while there is none."""
        if facts == self._facts:
            return
        self._states = self.states()
        self._drop()
        self._facts = facts
        if facts is None:
            return
        for state in self._states:
            if _can_be(facts.source, state.edit.operator):
                self._append(CardState(replace(state.edit, source=facts.source), state.on))
        self._arrange()

    def _append(self, state: CardState) -> None:
        assert self._facts is not None
        card = AlternativeCard(self._facts, state)
        card.changed.connect(self._tell)
        card.removed.connect(self._on_removed)
        self.cards.append(card)

    def _drop(self) -> None:
        for card in self.cards:
            self._take(card)
        self.cards = []

    def _take(self, card: AlternativeCard) -> None:
        self._grid.removeWidget(card)
        card.hide()
        card.deleteLater()

    def _arrange(self) -> None:
        for place, card in enumerate(self.cards):
            card.set_accent(place + 1)
            self._grid.addWidget(card, place // 2, place % 2)
        follow(self.add_button, self.cards)
        self.add_button.setEnabled(len(self.cards) + 1 < MOST_COLUMNS)

    def _on_of(self, index: int) -> None:
        if 0 <= index < len(self._offered):
            self._show(self._offered[index])
            self.begin()
            self.changed.emit()

    def _on_removed(self, card: AlternativeCard) -> None:
        self.cards.remove(card)
        self._take(card)
        if not self.cards:
            self._states = []
        self._arrange()
        self.changed.emit()

    def _tell(self) -> None:
        self.changed.emit()


def _can_be(source: Source, operator: str) -> bool:
    return isinstance(source, Feature) or not OPERATORS[operator].for_features_only
