"""Why this next token: what each feature that fires on a text adds to a token's probability."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Signal
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QWidget

from mistudio.core.analysis_configs import AttributeConfig
from mistudio.core.units import EM_DASH
from mistudio.gui.dialog import Dialog
from mistudio.gui.services import Services
from mistudio.gui.tabs.features.effect_notes import MEANING as EFFECT
from mistudio.gui.tabs.features.effect_notes import token_pieces
from mistudio.gui.tabs.features.example_card import marked
from mistudio.gui.tabs.library.one_job import OneJob
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label
from mistudio.gui.widgets.config_form import ConfigForm
from mistudio.gui.widgets.facts_table import FactsTable
from mistudio.gui.widgets.token_text import TokenText

COLUMNS = (
    "Feature",
    "First order",
    "Exact",
    "Direct",
    "Lens logit",
    "Fires at",
    "Label or top tokens",
)
MEANING = (
    "Above 0 speaks for the token. First order: what its loss would rise by, in nats, without the "
    "feature at any token, by one backward pass. Exact: the same by ablation, of features chosen "
    "by a hash. Direct and lens logit: the last token's own part, direct path only: log p with "
    "minus without it through the final norm, and its logit with the norm's scale frozen, before "
    "any softcap."
)


class WhyDialog(Dialog):
    """Settings, the token asked about, and the features; `opened` asks for one of them."""

    opened = Signal(int)

    def __init__(
        self,
        services: Services,
        sae_id: str,
        text: str,
        parent: QWidget | None = None,
        *,
        feature: int = -1,
    ) -> None:
        """`feature`: the one whose activation and effect the tokens of the text show; -1: none."""
        super().__init__("Why this next token?", parent, width=1100, height_share=0.9, scroll=False)
        self.found: dict[str, Any] | None = None
        self.form = ConfigForm(
            AttributeConfig,
            ("token", "position", "check_on", "limit"),
            columns=4,
            command="features attribute",
            positional=("text",),
        )
        self.form.set_values({"sae": sae_id, "text": text, "feature": feature})
        self.run_button = button(
            "Compute",
            self.run,
            variant="primary",
            icon="play",
            tip="Measure what each feature adds to the next token",
        )
        self.form.action_row.addWidget(self.run_button)
        self.job = OneJob(services, self.run_button, self, failure="The attribution failed.")
        self.job.done.connect(self._on_done)
        self.head = label("", "section", wrap=True, selectable=True)
        self.facts = label("", "muted", wrap=True, selectable=True)
        self.shown = label("", "small", wrap=True)
        self.tokens = TokenText()
        self.table = FactsTable(COLUMNS, "What each feature adds", most=1000, stretch=6)
        self.table.setToolTip(MEANING)
        self.table.cellDoubleClicked.connect(self._on_row)
        self.table.cellActivated.connect(self._on_row)
        self._build()

    def _build(self) -> None:
        self.box.setSpacing(appearance().px(8))
        self.meaning = label(MEANING, "small", wrap=True)
        self.box.addWidget(self.meaning)
        for part in (self.form, self.job.state, self.job.problem, self.head, self.facts):
            self.box.addWidget(part)
        for part in (self.tokens, self.shown):
            self.box.addWidget(part)
            part.hide()
        self.box.addWidget(self.table, 1)
        self.box.addStretch(0)
        self.table.hide()
        self.copy_button = button("Copy as table", self.copy, icon="copy", tip="Copy every line")
        self.copy_button.setEnabled(False)
        self.buttons.insertWidget(0, self.copy_button)
        self.buttons.insertWidget(1, self.job.cancel_button)
        self.add_close()

    def run(self) -> None:
        """Queue the attribution, or show what is wrong."""
        config = self.form.checked()
        if config is not None:
            self.job.submit("attribute", config)

    def _on_done(self, result: dict[str, Any]) -> None:
        self.found = result
        self.meaning.hide()  # it is the table's tooltip, and a small screen needs the room
        likeliest = "  ".join(f"“{marked(t)}” {100 * p:.1f} %" for t, p in result["likeliest"])
        self.head.setText(
            f"“{marked(result['token'])}” after token {result['position']}: "
            f"{100 * result['probability']:.2f} %"
        )
        self.facts.setText(f"Likeliest: {likeliest}. {agreement(result)}")
        self._show_tokens(result)
        self.table.set_rows([cells(line) for line in result["features"]])
        self.table.setMinimumHeight(0)
        self.table.setMaximumHeight(16_777_215)
        self.table.setVisible(bool(result["features"]))
        self.copy_button.setEnabled(bool(result["features"]))

    def _show_tokens(self, result: dict[str, Any]) -> None:
        """The text with the feature that the window was opened from, if it was from one."""
        feature, pieces = result.get("feature", -1), result.get("pieces", [])
        full = max((p["value"] or 0.0 for p in pieces), default=0.0)
        self.tokens.set_tokens(token_pieces(pieces), full)
        fires = f"fires up to {full:.4f} here. A token's tooltip tells the effect. {EFFECT}"
        self.shown.setText(f"Feature #{feature} {fires if full else 'does not fire on this text.'}")
        for part in (self.tokens, self.shown):
            part.setVisible(feature >= 0)

    def _on_row(self, line: int, _column: int) -> None:
        if self.found is not None:
            self.opened.emit(int(self.found["features"][line]["feature"]))

    def copy(self) -> None:
        """Put the list on the clipboard, tab-separated."""
        lines = ["\t".join(COLUMNS), *("\t".join(line) for line in self.table.texts())]
        QGuiApplication.clipboard().setText("\n".join(lines))


def agreement(result: dict[str, Any]) -> str:
    """How far first order is to be trusted here, or why it is missing."""
    told = [result[name] for name in ("no_first_order", "no_direct") if result[name]]
    if result["r"] is not None:
        told.append(
            f"First order against exact ablation: r = {result['r']:.3f} on "
            f"{result['checked']} features."
        )
    elif not result["no_first_order"]:
        told.append("First order was not checked against ablation.")
    return " ".join(told)


def cells(line: dict[str, Any]) -> list[str]:
    """A feature as a line of the table."""
    numbers = [line[name] for name in ("first_order", "exact", "direct", "lens")]
    return [
        f"#{line['feature']}",
        *(EM_DASH if value is None else f"{value:+.4f}" for value in numbers),
        marked(line["at"]),
        str(line["label"] or line["top_tokens"]),
    ]
