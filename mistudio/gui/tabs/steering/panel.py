"""The left side of the Steering tab: SAE, search, and up to 20 cards of one model's SAEs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from PySide6.QtCore import Signal, Slot
from PySide6.QtWidgets import QVBoxLayout, QWidget

from mistudio.core.errors import StudioError
from mistudio.core.steering_spec import MAX_EDITS, Edit, Feature, Source
from mistudio.core.steering_words import parse_edit
from mistudio.gui.dialog import confirm
from mistudio.gui.services import Services
from mistudio.gui.tabs.features.scrolling import scrolling
from mistudio.gui.tabs.steering.card import CardState, FeatureCard, with_sae
from mistudio.gui.tabs.steering.search import FeatureSearch
from mistudio.gui.tabs.steering.source import SteeringSource
from mistudio.gui.tabs.steering.tab_order import follow
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label, row
from mistudio.jobs.steering_cards import CardFacts, read_cards
from mistudio.store.features import newest_set
from mistudio.store.records import FeatureSetRow, SaeRow

REMEMBERED = "steering.cards"


class _Read(NamedTuple):
    facts: list[CardFacts]
    states: list[CardState]


class FeaturePanel(QWidget):
    """Holds the cards; `changed` follows every edit."""

    changed = Signal()

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._services = services
        self.cards: list[FeatureCard] = []
        self._left_out = 0
        self._asked: list[CardState] | None = None  # cards whose facts are being read
        self._focus = False
        self.source = SteeringSource(services, "steering.sae")
        self.source.chosen.connect(self._on_source)
        self.search = FeatureSearch(services)
        self.search.added.connect(self._on_added)
        self.count = label("", "muted")
        self.clear_button = button("Clear", self.clear, variant="ghost", tip="Remove every card")
        self.hint = label("", "small", wrap=True)
        self._lay_out()
        self._recall()

    def _lay_out(self) -> None:
        px = appearance().px
        self.area, self._list = scrolling()
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(px(8))
        box.addWidget(self.source)
        box.addWidget(self.search)
        self.tools = row(self.count, None, self.clear_button)
        box.addLayout(self.tools)
        box.addWidget(self.area, 1)
        box.addWidget(self.hint)
        self._tell()

    def _recall(self) -> None:
        stored = self._services.settings.recall(REMEMBERED)
        if isinstance(stored, dict):
            self.load(states_of(stored))

    def load(self, states: Sequence[CardState]) -> None:
        """Show these cards in place of those there are."""
        wanted = self._asked = list(states)[:MAX_EDITS]
        studio = self._services.studio
        sources = [state.edit.source for state in wanted]
        self._services.query.ask(
            lambda _: _Read(read_cards(studio, sources), wanted), self._show, key="cards"
        )

    def add(self, sae_id: str, feature: int) -> None:
        """Add a card and offer the other features of its SAE."""
        self.source.choose(sae_id)
        self._add(Feature(feature, sae_id))

    def _add(self, source: Source) -> None:
        states = list(self.states() if self._asked is None else self._asked)
        if all(state.edit.source != source for state in states):
            states.append(CardState(Edit(source, 0.0)))
            self._focus = True
        self.load(states)

    def reload(self) -> None:
        """Read library and cards again."""
        self.source.reload()
        self.load(self.states() if self._asked is None else self._asked)

    def begin(self) -> None:
        """Give the cards that are on and change nothing a strength, so that it can be scaled."""
        for card in self.cards:
            edit = card.edit()
            if card.is_on() and edit is not None and edit.is_neutral:
                card.set_value(edit.value + 1.0)

    @Slot(float)
    def scale(self, factor: float) -> None:
        """Make the cards that are on `factor` times as strong."""
        for card in self.cards:
            edit = card.edit()
            if card.is_on() and edit is not None:
                scaled = edit.scaled(factor)
                card.set_value(scaled.value)
                if scaled.high is not None:
                    card.high.set_number(scaled.high)

    def clear(self) -> None:
        """Take every card away."""
        self.load([])

    def states(self) -> list[CardState]:
        return [card.state() for card in self.cards]

    def edits(self, only: int = -1) -> list[Edit]:
        """The edits of the cards that are on, in their order; or that of one of these."""
        found = [e for card in self.cards if card.is_on() and (e := card.edit()) is not None]
        return found if only < 0 else found[only : only + 1]

    def model_id(self) -> str:
        """The model that is steered, "" while it is not known."""
        known = [card.facts.model_id for card in self.cards if card.facts.model_id]
        return known[0] if known else self.source.model_id()

    def main_sae(self) -> str:
        """The SAE that a run names: that of the first card, else the chosen one of their model.

        "" if only vectors steer and no SAE of their model is chosen.
        """
        for card in self.cards:
            if card.facts.sae is not None:
                return card.facts.sae.id
        sae = self.source.sae()
        return sae.id if sae is not None and sae.model_id == self.model_id() else ""

    def settings(self, only: int = -1) -> dict[str, Any]:
        """The cards as settings of a run; `only` as in `edits`."""
        sae = self.main_sae()
        written = [_without_sae(edit, sae) for edit in self.edits(only)]
        mine = [e for e in written if isinstance(e.source, Feature) and not e.source.sae]
        others = [edit for edit in written if edit not in mine]
        return {
            "sae": sae,
            "feature": tuple(edit.written() for edit in mine),
            "edit": tuple(edit.written() for edit in others),
            "unit": "max",
        }

    def problem(self) -> str:
        """Why these cards cannot be used, "" if they can."""
        if not self.source.count() and not self.cards:
            return "Add a model first: the Models tab downloads or imports one."
        for card in self.cards:
            if card.is_on() and card.edit() is None:
                return card.sentence()
        if not any(card.is_on() for card in self.cards):
            if self.source.sae() is None:
                return "Add a vector to steer along."
            return "Add a feature to steer."
        return ""

    def _on_source(self, sae: SaeRow | None) -> None:
        if sae is None:
            model = self.source.model()
            self.search.set_source(None, None, model.id if model is not None else "")
            self._tell()
            return
        self._services.query.ask(
            lambda db: (sae, newest_set(db, sae.id)), self._on_set, key="feature set"
        )

    def _on_set(self, found: tuple[SaeRow, FeatureSetRow | None]) -> None:
        self.search.set_source(*found)
        self._on_card()

    def _show(self, read: _Read) -> None:
        self._asked = None
        facts = {found.source: found for found in read.facts}
        self._left_out = len(read.states) - len(facts)
        before = {card.facts.source: card for card in self.cards}
        self.cards = []
        for state in read.states:
            found, kept = facts.get(state.edit.source), before.get(state.edit.source)
            if kept is not None and kept.facts == found and kept.state() == state:
                self._put(before.pop(state.edit.source))
            elif found is not None:
                self._put(self._made(found, state))
        for card in before.values():
            self._drop(card)
        follow(self.clear_button, self.cards)
        self._on_card()
        if self._focus and self.cards:
            self._focus = False
            self.cards[-1].number.setFocus()
            self.area.ensureWidgetVisible(self.cards[-1])

    def _made(self, facts: CardFacts, state: CardState) -> FeatureCard:
        card = FeatureCard(facts, state)
        card.changed.connect(self._on_card)
        card.removed.connect(self._on_removed)
        return card

    def _put(self, card: FeatureCard) -> None:
        """Add a card below the others."""
        self._list.insertWidget(len(self.cards), card)
        self.cards.append(card)

    def _drop(self, card: FeatureCard) -> None:
        self._list.removeWidget(card)
        card.hide()
        card.deleteLater()

    def _on_added(self, source: Source) -> None:
        model_id = self.source.model_id()
        if len(self.cards) >= MAX_EDITS or not self._fits(model_id):
            return
        self.search.close_results()
        self._add(source)

    def _fits(self, model_id: str) -> bool:
        """Whether a model's source may join; cards of another model go if the user says so."""
        others = [c for c in self.cards if c.facts.model_id not in ("", model_id)]
        if not others:
            return True
        agreed = confirm(
            self,
            "Remove the cards of another model?",
            f"{len(others)} of the cards belong to another model than what is added. One run "
            "steers one model.",
            "Remove them",
        )
        for card in others if agreed else ():
            self.cards.remove(card)
            self._drop(card)
        return agreed

    def _on_removed(self, source: Source) -> None:
        for card in [card for card in self.cards if card.facts.source == source]:
            self.cards.remove(card)
            self._drop(card)
        self._on_card()

    def _on_card(self) -> None:
        for position, card in enumerate(self.cards):
            card.set_accent(position)
        self.search.set_taken({card.facts.source for card in self.cards})
        if self._asked is None:
            kept = {"cards": [[state.edit.written(), state.on] for state in self.states()]}
            self._services.settings.remember(REMEMBERED, kept)
        self._tell()

    def _tell(self) -> None:
        self.count.setText(f"{len(self.cards)} of {MAX_EDITS} features")
        self.clear_button.setEnabled(bool(self.cards))
        lines = ["Strength 0 with Add leaves the baseline, token for token."]
        if self.source.model() is not None and not self.cards:
            lines = ["Vectors… makes a direction from two lists of prompts, or imports one."]
        layers = {c.facts.place.partition(" · ")[0] for c in self.cards if c.is_on()}
        if len(layers) > 1:
            lines = ["Several layers: each hook reads what the earlier ones already steered."]
        if self._left_out:
            lines.append(f"{self._left_out} left out: not in the library.")
        self.hint.setText(" ".join(lines))
        self.changed.emit()


def written_edits(edits: Sequence[Edit], sae: str) -> tuple[str, ...]:
    """Edits in short, with the run's own SAE left open."""
    return tuple(_without_sae(edit, sae).written() for edit in edits)


def _without_sae(edit: Edit, sae: str) -> Edit:
    """The edit with the run's own SAE left open."""

    def put(source: Any) -> Any:
        is_mine = isinstance(source, Feature) and source.sae == sae
        return replace(source, sae="") if is_mine else source

    condition = edit.condition
    return replace(
        edit,
        source=put(edit.source),
        target=put(edit.target),
        condition=replace(condition, feature=put(condition.feature)) if condition else None,
    )


def states_of(stored: dict[str, Any]) -> list[CardState]:
    """Remembered cards, of this version or of the first; what cannot be read is left out."""
    found: list[CardState] = []
    sae, unit = str(stored.get("sae", "")), str(stored.get("unit", "max"))
    for entry in stored.get("cards", ()):
        try:
            if len(entry) == 4:  # number, value, operator, on: of one SAE
                index, value, operator, on = entry
                edit = Edit(Feature(int(index)), float(value), str(operator))
                found.append(CardState(with_sae(edit, sae, unit), bool(on)))
            else:
                found.append(CardState(parse_edit(str(entry[0])), bool(entry[1])))
        except (TypeError, ValueError, IndexError, StudioError):
            continue
    return found
