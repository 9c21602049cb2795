"""The Correlations page of a feature: what fires with it, what points the same way."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Signal, Slot
from PySide6.QtWidgets import QButtonGroup, QHBoxLayout, QWidget

from mistudio.core.units import EM_DASH, format_count
from mistudio.gui.services import Services
from mistudio.gui.tabs.features.bar_table import BarRow, BarTable
from mistudio.gui.tabs.features.edits import parse_published
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import Card, button, label, row
from mistudio.gui.widgets.elided import Combo
from mistudio.jobs import feature_partners
from mistudio.jobs.feature_partners import Correlations, Neighbour, Partner
from mistudio.store.records import SaeRow

MEANINGS = {
    "pearson": "Pearson's correlation of the two activations over all tokens read, zeros included.",
    "pmi": "log(n_ij · N / (n_i · n_j)) in nats: how much more often both are active than chance "
    "would have it; only of partners that share at least 5 tokens.",
    "jaccard": "Tokens on which both are active / tokens on which either is.",
}
WITHIN = "in this SAE"
HINTS_HELP = (
    "Signs only, nothing measured with a probe: the decoder rows are alike (cosine at least 0.3), "
    "the other feature's strongest windows hold this feature's top tokens, yet this one is active "
    "on at most 1 % of the other's tokens."
)


class CorrelationsPage(QWidget):
    """Partners by a measure and decoder neighbours, side by side; both are read when shown.

    `opened(feature)` asks for another feature of this SAE, `opened_elsewhere(sae id, feature)`
    for one of another.
    """

    opened = Signal(int)
    opened_elsewhere = Signal(str, int)

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._services = services
        self._sae: SaeRow | None = None
        self._index = -1
        self.found: Correlations | None = None
        self._others: list[SaeRow] = []
        self.measures = QButtonGroup(self)
        for number, name in enumerate(feature_partners.SHOWN):
            made = button(feature_partners.NAMES[name], variant="toggle", tip=MEANINGS[name])
            self.measures.addButton(made, number)
        self.measures.buttons()[0].setChecked(True)
        self.measures.idClicked.connect(self._draw_partners)
        again = "Count again what is kept"
        self.again = button("Compute again", self._on_again, variant="ghost", tip=again)
        self.partners = BarTable(
            "Features that fire together",
            ("Feature", "Pearson", "n both", "Label, tokens"),
            "emerald",
        )
        self.rests_on = label("", "small", wrap=True)
        self.within = Combo()
        self.within.setAccessibleName("SAE to look in")
        self.within.setToolTip("Look for near directions in this SAE, or in another one.")
        self.within.activated.connect(self._ask_neighbours)
        self.neighbours = BarTable(
            "Decoder neighbours", ("Feature", "Cosine", "Label, tokens"), "blue", bar=64
        )
        self.near_note = label("", "small", wrap=True)
        self.hints = label("", "small", wrap=True, selectable=True)
        self.hints.setToolTip(HINTS_HELP)
        self.partners.opened.connect(self.opened)
        self.neighbours.opened.connect(self._on_neighbour)
        services.publisher.changed.connect(self._on_changed)
        self._lay_out()

    def _lay_out(self) -> None:
        px = appearance().px
        together = Card("settings", padding=12)
        together.box.setSpacing(px(8))
        tools = row(label("Fires together, by", "label"), *self.measures.buttons(), None)
        tools.addWidget(self.again)
        together.box.addLayout(tools)
        together.box.addWidget(self.partners, 1)
        together.box.addWidget(self.rests_on)
        near = Card("settings", padding=12)
        near.box.setSpacing(px(8))
        head = row(label("Points the same way", "label"), self.within)
        head.setStretch(1, 1)
        near.box.addLayout(head)
        near.box.addWidget(self.neighbours, 1)
        near.box.addWidget(self.near_note)
        hints = Card("nested", padding=10)
        hints.box.setSpacing(px(4))
        title = label("Absorption hints", "label")
        title.setToolTip(HINTS_HELP)
        tip = "With prompts that hold a concept and others that do not: who carries it"
        self.measure_button = button("Measure…", self.open_absorption, variant="link", tip=tip)
        hints.box.addLayout(row(title, None, self.measure_button))
        hints.box.addWidget(self.hints)
        near.box.addWidget(hints)
        box = QHBoxLayout(self)
        box.setContentsMargins(0, px(8), 0, 0)
        box.setSpacing(px(16))
        box.addWidget(together, 5)
        box.addWidget(near, 4)

    def show_feature(self, sae: SaeRow, index: int) -> None:
        """Show a feature; asks only if it is another one than before."""
        if self._sae is not None and (sae.id, index) == (self._sae.id, self._index):
            return
        other = self._sae is None or self._sae.id != sae.id
        self._sae, self._index, self.found = sae, index, None
        self.partners.set_rows([])
        self.neighbours.set_rows([])
        self.rests_on.setText("Counting over every token on which it fires…")
        self.hints.setText(EM_DASH)
        self.near_note.setText("")
        if other:
            self._offer([])
            studio = self._services.studio
            self._services.query.ask(
                lambda _db: feature_partners.comparable(studio, sae), self._offer, key="others"
            )
        self._ask_partners()
        self._ask_neighbours()

    @Slot(object)
    def _offer(self, others: list[SaeRow]) -> None:
        self._others = list(others)
        self.within.clear()
        self.within.addItems([WITHIN, *(f"in {row.name}" for row in self._others)])

    def other(self) -> SaeRow | None:
        """The SAE chosen to look in, None for the feature's own."""
        chosen = self.within.currentIndex()
        return self._others[chosen - 1] if chosen > 0 else None

    def measure(self) -> str:
        """The measure that the list goes by."""
        return feature_partners.SHOWN[self.measures.checkedId()]

    def open_absorption(self) -> None:
        """Open the window in which absorption of the feature shown is measured."""
        from mistudio.gui.tabs.features.absorption_dialog import AbsorptionDialog

        if self._sae is not None:
            dialog = AbsorptionDialog(self._services, self._sae, self._index, self)
            dialog.opened.connect(self.opened)
            dialog.show()

    @Slot()
    def _on_again(self) -> None:
        self.rests_on.setText("Counting again…")
        self._ask_partners(anew=True)

    def _ask_partners(self, *, anew: bool = False) -> None:
        sae, index, studio = self._sae, self._index, self._services.studio
        if sae is not None:
            self.again.setEnabled(False)
            self._services.query.ask(
                lambda _db: feature_partners.correlations(studio, sae, index, anew=anew),
                self._show_partners,
                on_error=self._on_partners_error,
                key="partners",
            )

    @Slot()
    def _ask_neighbours(self) -> None:
        sae, index, studio, other = self._sae, self._index, self._services.studio, self.other()
        if sae is not None:
            self._services.query.ask(
                lambda _db: feature_partners.neighbours(studio, sae, index, other=other),
                self._show_neighbours,
                on_error=self._on_neighbours_error,
                key="neighbours",
            )

    @Slot(object)
    def _show_partners(self, found: Correlations) -> None:
        self.found = found
        self.again.setEnabled(True)
        self._draw_partners()
        self.hints.setText("\n".join(hint_line(hint) for hint in found.hints) or "No sign of it.")

    @Slot()
    def _draw_partners(self) -> None:
        found, measure = self.found, self.measure()
        self.partners.set_measure(feature_partners.NAMES[measure])
        if found is None:
            return
        listed = found.partners[measure]
        largest = max((p.measures[measure] or 0.0 for p in listed), default=1.0)
        # PMI has no upper end; the others are shares of 1
        full = largest if measure == "pmi" else 1.0
        self.partners.set_rows([partner_row(p, measure, full, found) for p in listed])
        self.rests_on.setText(rests_on(found, measure))
        self.rests_on.setToolTip(MEANINGS[measure])

    @Slot(object)
    def _show_neighbours(self, found: list[Neighbour]) -> None:
        self.neighbours.set_rows([neighbour_row(line) for line in found])
        self.near_note.setText(
            "Cosine of decoder rows; above 0.9 the two are all but the same feature."
            if found
            else "There is no other direction."
        )

    @Slot(str, str)
    def _on_partners_error(self, sentence: str, details: str) -> None:
        self.again.setEnabled(True)
        self.rests_on.setText(sentence)
        self.rests_on.setToolTip(details)

    @Slot(str, str)
    def _on_neighbours_error(self, sentence: str, details: str) -> None:
        self.neighbours.set_rows([])
        self.near_note.setText(sentence)
        self.near_note.setToolTip(details)

    @Slot(int)
    def _on_neighbour(self, feature: int) -> None:
        other = self.other()
        if other is None:
            self.opened.emit(feature)
        else:
            self.opened_elsewhere.emit(other.id, feature)

    @Slot(str, str)
    def _on_changed(self, kind: str, object_id: str) -> None:
        """Labels of partners are part of what is shown."""
        if kind == "features" and self._sae is not None and self.isVisible():
            sae_id, index = parse_published(object_id)
            if sae_id == self._sae.id and index != self._index:
                self._ask_partners()
                self._ask_neighbours()


def partner_row(partner: Partner, measure: str, full: float, found: Correlations) -> BarRow:
    """A partner's line and its tooltip with every measure."""
    value, m = partner.measures[measure], partner.measures
    what = partner.label or partner.top_tokens
    tip = "\n".join(
        (
            f"#{partner.feature} {what}",
            f"active on {partner.count:,} tokens, #{found.feature} on {found.count:,}, both on "
            f"{partner.shared:,} of {found.n_tokens:,}",
            f"Pearson {written(m['pearson'])} · cosine {written(m['cosine'])} · "
            f"φ {written(m['phi'])}",
            f"PMI {written(m['pmi'])} nats · Jaccard {written(m['jaccard'])}",
            f"P(#{partner.feature} | #{found.feature}) {written(m['p_j_i'])} · "
            f"P(#{found.feature} | #{partner.feature}) {written(m['p_i_j'])}",
        )
    )
    texts = (format_count(partner.shared), what)
    return BarRow(partner.feature, written(value, 3), (value or 0.0) / full, texts, tip)


def neighbour_row(line: Neighbour) -> BarRow:
    """A neighbour's line."""
    what = line.label or line.top_tokens
    value = line.cosine or 0.0
    tip = f"#{line.feature} {what}\ncosine of the decoder rows {written(line.cosine)}"
    return BarRow(line.feature, written(line.cosine, 3), value, (what,), tip)


def rests_on(found: Correlations, measure: str) -> str:
    """What the list rests on, in a sentence."""
    if not found.count:
        return "This feature never fired on the text read, so nothing fires with it."
    listed = len(found.partners[measure])
    parts = [
        f"The {listed} strongest of all features"
        if listed
        else "No other feature is active on enough of its tokens",
        f"counted on each of its {format_count(found.count)} tokens of "
        f"{format_count(found.n_tokens)} read",
        "n both: tokens on which the partner is active too",
        f"computed {found.made_at[:16].replace('T', ' ')} UTC",
    ]
    if found.truncated:
        parts.append("the store keeps only the strongest activations of a token")
    return " · ".join(parts)


def hint_line(hint: Any) -> str:
    """A hint of absorption in a line."""
    what = hint.label or hint.top_tokens
    return (
        f"#{hint.feature} {what}: cosine {hint.cosine:.2f}, this one active on "
        f"{100 * hint.p:.2f} % of its {hint.tokens:,} tokens, top tokens in {hint.windows} of "
        f"{hint.examples} windows"
    )


def written(value: float | None, digits: int = 4) -> str:
    """A measure as text; an em-dash where it is not defined."""
    return EM_DASH if value is None else f"{value:.{digits}f}"
