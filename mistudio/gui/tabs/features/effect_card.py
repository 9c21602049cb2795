"""A card with the effect of an ablation on one kind of windows: large figures, intervals, n."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QGridLayout, QLabel, QWidget

from mistudio.core.ablation_figures import BY_KEY, counts, interval, number
from mistudio.core.units import EM_DASH, format_count
from mistudio.gui import style
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import Card, label

LARGE = ("delta_ce", "kl")
SMALL = ("perplexity", "perplexity_ablated", "delta_logit", "delta_rank")


class EffectCard(Card):
    """ΔCE and KL in large figures (red worse, emerald better without it), the rest below."""

    def __init__(self, title: str, parent: QWidget | None = None) -> None:
        super().__init__("settings", parent, padding=14)
        px = appearance().px
        self.box.setSpacing(px(6))
        self.title = label(title, "label")
        self.count = label("", "small", wrap=True)
        self.large: dict[str, QLabel] = {}
        self.around: dict[str, QLabel] = {}
        self.small: dict[str, QLabel] = {}
        self.count.setToolTip(
            "n counts the tokens whose next token is predicted. Within reach are those from the "
            "first changed token of their window on; at the others nothing can change."
        )
        self.box.addWidget(self.title)
        self.box.addWidget(self.count)
        grid = QGridLayout()
        grid.setHorizontalSpacing(px(20))
        grid.setVerticalSpacing(px(2))
        for column, key in enumerate(LARGE):
            figure = BY_KEY[key]
            name = label(f"{figure.name}, nats per token", "small")
            self.large[key] = label(EM_DASH, "figure-text", selectable=True)
            self.around[key] = label("", "small", selectable=True)
            for line, part in enumerate((name, self.large[key], self.around[key])):
                part.setToolTip(figure.meaning)
                grid.addWidget(part, line, column)
            self.large[key].setAccessibleName(f"{figure.name}, {title}")
        for place, key in enumerate(SMALL):
            figure = BY_KEY[key]
            self.small[key] = label(EM_DASH, "mono", selectable=True)
            line, column = 3 + place // 2, place % 2
            text = label(figure.name, "small")
            cell = QGridLayout()
            cell.setHorizontalSpacing(px(8))
            cell.setColumnStretch(1, 1)
            for at, part in enumerate((text, self.small[key])):
                part.setToolTip(figure.meaning)
                cell.addWidget(part, 0, at, Qt.AlignmentFlag.AlignLeft)
            self.small[key].setAccessibleName(f"{figure.name}, {title}")
            grid.addLayout(cell, line, column)
        self.box.addLayout(grid)
        self.box.addStretch(1)

    def clear(self) -> None:
        """Show that nothing is measured."""
        self.count.setText("")
        for shown in (*self.large.values(), *self.small.values()):
            shown.setText(EM_DASH)
        for shown in self.around.values():
            shown.setText("")
        for key in LARGE:
            style.set_property(self.large[key], "role", "figure-text")

    def say(self, sentence: str) -> None:
        """Add to the line of counts that more is to come."""
        before = self.count.text()
        self.count.setText(f"{before} · {sentence}" if before else sentence)

    def show_effect(self, effect: dict[str, Any], active: int | None = None) -> None:
        """Show figures; `active` counts tokens on which the feature fires, if known."""
        fires = "" if active is None else f" · fires on {format_count(active)}"
        self.count.setText(counts(effect) + fires)
        for key in LARGE:
            value = effect[key]
            self.large[key].setText(number(BY_KEY[key], value))
            around = interval(BY_KEY[key], effect)
            self.around[key].setText(f"95 %: {around}" if around else "")
            style.set_property(self.large[key], "role", f"figure-{color(key, value)}")
        for key in SMALL:
            self.small[key].setText(number(BY_KEY[key], effect[key]))


def color(key: str, value: float | None) -> str:
    """Red where the model is worse without the feature, emerald where it is better."""
    if not value or key != "delta_ce":
        return "text" if not value else "purple"
    return "red" if value > 0 else "emerald"
