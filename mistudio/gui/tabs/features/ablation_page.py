"""The Ablation page of a feature: what the model predicts without it, beside random features."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Slot
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QVBoxLayout, QWidget

from mistudio.core import ablation_figures
from mistudio.core.ages import age
from mistudio.core.analysis_configs import ABLATION_MODES, AblateConfig
from mistudio.core.errors import StudioError
from mistudio.gui.reporting import Drained
from mistudio.gui.services import Services
from mistudio.gui.tabs.features.effect_card import EffectCard
from mistudio.gui.tabs.features.example_card import marked
from mistudio.gui.tabs.features.lens_page import TokenBars
from mistudio.gui.tabs.features.scrolling import scrolling
from mistudio.gui.tabs.library.one_job import OneJob
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import Card, button, label, row
from mistudio.gui.widgets.facts_table import FactsTable
from mistudio.gui.widgets.layout import guard_wheel
from mistudio.gui.widgets.progress import ProgressBar
from mistudio.jobs import ablate, feature_pages, lookup

MODE_NAMES = {"zero": "zero", "mean": "its mean", "resample": "its value elsewhere"}
COLUMNS = ("Text before", "Next token", "Probability", "Without it", "KL")
REMEMBERED = "features.ablation"
NOT_YET = "Not measured yet with these settings."
REPAIR = "A small effect may be one that later layers make up for."


class TokenShare:
    """A token and the change of its probability in percentage points, as `TokenBars` takes it."""

    def __init__(self, text: str, change: float) -> None:
        self.text, self.logit = text, 100 * change


class AblationPage(QWidget):
    """Runs the ablation of the feature shown, tells its own effect first, keeps what is known."""

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._services = services
        self._sae_id, self.index = "", -1
        self.page: dict[str, Any] | None = None
        self.mode = self._choice(
            [(mode, MODE_NAMES[mode]) for mode in ABLATION_MODES], "Replace its activation by"
        )
        self.mean_of = self._choice(
            [("all", "over all tokens"), ("active", "over active tokens")], "Mean over"
        )
        self.run_button = button("Run", self.run, variant="primary", icon="play")
        self.again = button("Compute again", self.run_again, icon="retry")
        self.age = label("", "small")
        self.bar = ProgressBar("purple")
        self.job = OneJob(
            services, self.run_button, self, failure="The ablation failed.", bar=self.bar
        )
        self.job.done.connect(self._on_done)
        services.lanes.drained.connect(self._on_drained)
        self.top = EffectCard("On its top windows")
        self.any = EffectCard("On random windows")
        self._standing_card()
        self.lost = TokenBars("Tokens that lose probability", "red")
        self.gained = TokenBars("Tokens that gain probability", "emerald")
        self.places = FactsTable(COLUMNS, "Places that changed most", most=8, stretch=0)
        self.how = label("", "small", wrap=True)
        self._lay_out()
        self._restore()
        self.mode.currentIndexChanged.connect(self._on_settings)
        self.mean_of.currentIndexChanged.connect(self._on_settings)

    def _choice(self, offered: list[tuple[str, str]], name: str) -> QComboBox:
        made = QComboBox()
        for value, text in offered:
            made.addItem(text, value)
        made.setAccessibleName(name)
        guard_wheel(made)
        return made

    def _standing_card(self) -> None:
        self.standing = Card("settings", padding=14)
        self.standing.box.setSpacing(appearance().px(6))
        self.percentile = label("", "figure-blue", selectable=True)
        self.percentile.setAccessibleName("Percentile among matched random features")
        self.verdict = label("", "muted", wrap=True, selectable=True)
        tip = (
            "Random features within a factor of 2 in density and in the length of what they add at "
            "their own top windows are ablated there in the same way. p is (1 + those with at "
            "least this ΔCE) / (their number + 1)."
        )
        for part in (self.percentile, self.verdict):
            part.setToolTip(tip)
        self.standing.box.addWidget(label("Among matched random features", "label"))
        self.standing.box.addWidget(self.percentile)
        self.standing.box.addWidget(self.verdict)
        self.standing.box.addStretch(1)

    def _lay_out(self) -> None:
        px = appearance().px
        tools = row(
            label("Replace its activation by", "label"),
            self.mode,
            self.mean_of,
            self.run_button,
            self.again,
            self.job.cancel_button,
            self.age,
            None,
        )
        cards = QHBoxLayout()
        cards.setSpacing(px(12))
        for card, share in ((self.top, 4), (self.any, 4), (self.standing, 3)):
            cards.addWidget(card, share)
        self.figures = QWidget()
        self.figures.setLayout(cards)
        cards.setContentsMargins(0, 0, 0, 0)
        self.changes = QWidget()
        sides = QHBoxLayout(self.changes)
        sides.setContentsMargins(0, 0, 0, 0)
        sides.setSpacing(px(12))
        for title, bars in (
            ("Next tokens that lose, percentage points on average", self.lost),
            ("Next tokens that gain", self.gained),
        ):
            card = Card("settings", padding=12)
            card.box.addWidget(label(title, "label"))
            card.box.addWidget(bars)
            card.box.addStretch(1)
            sides.addWidget(card, 1)
        self.where = Card("settings", padding=12)
        self.where.box.addWidget(label("Where the prediction changes most", "label"))
        self.where.box.addWidget(self.places)
        found = scrolling(self.figures, self.how, self.changes, self.where, spacing=12)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, px(8), 0, 0)
        box.setSpacing(px(8))
        box.addLayout(tools)
        for part in (self.job.state, self.bar, self.job.problem):
            box.addWidget(part)
        box.addWidget(found.area, 1)

    def _restore(self) -> None:
        stored = self._services.settings.recall(REMEMBERED, {})
        stored = stored if isinstance(stored, dict) else {}
        for combo, name in ((self.mode, "mode"), (self.mean_of, "mean_of")):
            combo.setCurrentIndex(max(0, combo.findData(stored.get(name))))
        self.mean_of.setVisible(self.mode.currentData() == "mean")

    def config(self, *, anew: bool = False) -> AblateConfig:
        """The settings as chosen, for the feature shown."""
        mode = str(self.mode.currentData())
        mean_of = str(self.mean_of.currentData()) if mode == "mean" else "all"
        return AblateConfig(
            sae=self._sae_id, feature=self.index, mode=mode, mean_of=mean_of, anew=anew
        )

    def show_page(self, page: Any) -> None:
        """Show what is kept of the feature of a `FeaturePage`."""
        if (page.sae_id, page.row.index) == (self._sae_id, self.index) and self.page is not None:
            return
        self._sae_id, self.index = page.sae_id, page.row.index
        self.job.say("")
        self._ask()

    def _ask(self) -> None:
        """Look for a kept result with these settings."""
        studio, sae_id, config = self._services.studio, self._sae_id, self.config()

        def read(_db: Any) -> dict[str, Any] | None:
            sae = lookup.sae(studio, sae_id)
            try:
                found = feature_pages.feature_set(studio, sae)
            except StudioError:
                return None
            kept = ablate.known_page(studio, sae, found, config)
            return None if kept is None else {**kept.result, "made_at": kept.made_at}

        self._clear(NOT_YET)
        self._services.query.ask(read, self._on_known, key="ablation")

    def run(self) -> None:
        """Measure the feature shown, or show what is wrong."""
        self.job.submit("ablate", self.config())

    def run_again(self) -> None:
        """Measure again what is kept."""
        self.job.submit("ablate", self.config(anew=True))

    def _on_settings(self) -> None:
        self.mean_of.setVisible(self.mode.currentData() == "mean")
        kept = {"mode": self.mode.currentData(), "mean_of": self.mean_of.currentData()}
        self._services.settings.remember(REMEMBERED, kept)
        if self.index >= 0:
            self._ask()

    def _on_known(self, found: dict[str, Any] | None) -> None:
        if found is not None:
            self._show(found)

    @Slot(object)
    def _on_done(self, result: dict[str, Any]) -> None:
        self._show(result)

    @Slot(str, object)
    def _on_drained(self, job_id: str, drained: Drained) -> None:
        if job_id != self.job.id:
            return
        for name, value in drained.partials:
            if name == "ablation" and isinstance(value, dict):
                self._show(value)

    def _clear(self, sentence: str) -> None:
        self.page = None
        self.age.setText(sentence)
        self.again.hide()
        self.run_button.show()
        for part in (self.figures, self.changes, self.where, self.how):
            part.hide()

    def _show(self, page: dict[str, Any]) -> None:
        """Show a result if it is of the feature and settings in view."""
        config = self.config()
        wanted = (self._sae_id, self.index, config.mode, config.mean_of)
        if (page["sae"], page["feature"], page["mode"], page["mean_of"]) != wanted:
            return
        self.page = page
        effect = page["effect"]
        self.top.show_effect(effect["top"], effect["active"])
        if effect["random"] is None:  # told of the strongest windows before the rest
            self.top.say("the others are being measured")
            self.any.clear()
            self.any.say("Being measured.")
        else:
            self.any.show_effect(effect["random"])
        self._show_standing(page["controls"])
        shares = [[TokenShare(t["text"], t["change"]) for t in page[s]] for s in ("lost", "gained")]
        largest = max((abs(t.logit) for side in shares for t in side), default=0.0)
        self.lost.set_tokens(shares[0], largest)
        self.gained.set_tokens(shares[1], largest)
        self.places.set_rows([place_cells(place) for place in page["places"]])
        self.how.setText(f"{ablation_figures.how(page)} {REPAIR}")
        made_at = page.get("made_at")
        self.age.setText(f"measured {age(made_at)}" if made_at else "")
        self.again.setVisible(bool(made_at))
        self.run_button.setVisible(not made_at)
        for part in (self.figures, self.changes, self.how):
            part.show()
        self.where.setVisible(bool(page["places"]))

    def _show_standing(self, controls: dict[str, Any] | None) -> None:
        if controls is None:
            self.percentile.setText("…")
            self.verdict.setText("The controls are measured after the feature itself.")
            return
        place = controls["delta_ce"]
        share = place["percentile"]
        self.percentile.setText("—" if share is None else f"{share:.0f} %")
        self.verdict.setText(ablation_figures.standing_sentence(controls))


def place_cells(place: dict[str, Any]) -> list[str]:
    """A place that changed, as a line of the table."""
    return [
        "…" + marked(" ".join(place["before"].split())[-60:]),
        marked(place["next"]),
        f"{100 * place['probability']:.2f} %",
        f"{100 * place['probability_ablated']:.2f} %",
        f"{place['kl']:.4f}",
    ]
