"""What steering gives: two texts side by side, metric tiles, and the warning of over-steering."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PySide6.QtGui import QGuiApplication, QTextCursor
from PySide6.QtWidgets import QHBoxLayout, QPlainTextEdit, QVBoxLayout, QWidget

from mistudio.core.units import EM_DASH, format_decimal, format_percent
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import Card, IconLabel, MetricTile, button, label, row

NAMES = {"baseline": "Unsteered (baseline)", "steered": "Steered"}
ENDINGS = {
    "time": "Cut by the time limit; the text so far is kept.",
    "stopped": "Stopped; the text so far is kept.",
}
WARNING = "Past this strength text is often fluent but wrong."


class Pane(Card):
    """One text as it is written, with its copy button and how it ended."""

    def __init__(self, name: str, role: str, parent: QWidget | None = None) -> None:
        super().__init__("settings", parent, padding=10)
        self.setProperty("active", name == "steered")
        self.text = QPlainTextEdit()
        self.text.setReadOnly(True)
        self.text.setAccessibleName(NAMES[name])
        self.text.setMinimumHeight(appearance().px(150))
        self.ending = label("", "warning", wrap=True)
        self.ending.hide()
        copy = button("", self._copy, variant="ghost", icon="copy", tip=f"Copy: {NAMES[name]}")
        title = label(NAMES[name], "label")
        self.box.setSpacing(appearance().px(6))
        self.box.addLayout(row(IconLabel("dot", role, 12), title, None, copy))
        self.box.addWidget(self.text, 1)
        self.box.addWidget(self.ending)

    def set_text(self, text: str) -> None:
        """Show a text; one that only grew is continued, so that a selection stays."""
        before = self.text.toPlainText()
        if text == before:
            return
        if before and text.startswith(before):
            cursor = QTextCursor(self.text.document())
            cursor.movePosition(QTextCursor.MoveOperation.End)
            cursor.insertText(text[len(before) :])
        else:
            self.text.setPlainText(text)

    def _copy(self) -> None:
        QGuiApplication.clipboard().setText(self.text.toPlainText())


class Output(QWidget):
    """Streams both texts, then shows the metrics of a run."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        px = appearance().px
        self.panes = {"baseline": Pane("baseline", "muted"), "steered": Pane("steered", "emerald")}
        self.tiles = {
            "kl": MetricTile("KL (nats per token)", color="purple"),
            "perplexity": MetricTile("Perplexity change", color="blue"),
            "overlap": MetricTile("Word overlap", color="emerald"),
            "ratio": MetricTile("‖Δ‖ / ‖x‖", color="yellow"),
            "acted": MetricTile("Acted on positions"),
        }
        self.warning = Card("info", horizontal=True, padding=10)
        self.warning_text = label("", "warning", wrap=True)
        self.warning.box.addWidget(IconLabel("alert", "yellow"))
        self.warning.box.addWidget(self.warning_text, 1)
        self.note = label("", "muted", wrap=True)
        sides = QHBoxLayout()
        sides.setSpacing(px(12))
        for pane in self.panes.values():
            sides.addWidget(pane, 1)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(px(8))
        box.addWidget(self.warning)
        box.addLayout(sides)
        box.addWidget(self.note)
        box.addLayout(row(*self.tiles.values(), spacing=8))
        self.warning.hide()
        self.note.hide()

    def start(self) -> None:
        """Empty for a new run."""
        for pane in self.panes.values():
            pane.set_text("")
            pane.ending.hide()
        self.show_metrics({})

    def stream(self, name: str, text: object) -> None:
        """Show a text so far; names other than the two are ignored."""
        pane = self.panes.get(name)
        if pane is not None:
            pane.set_text(str(text))

    def show_run(self, outputs: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
        """Show a finished run."""
        for name, pane in self.panes.items():
            pane.set_text(str(outputs.get(name) or ""))
            ending = ENDINGS.get(str(metrics.get("stopped_early")), "")
            pane.ending.setText(ending)
            pane.ending.setVisible(bool(ending))
        self.show_metrics(metrics)

    def show_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Fill the tiles; what was not measured is an em-dash."""
        kl, change = metrics.get("kl"), metrics.get("perplexity_delta")
        self.tiles["kl"].set_value(format_decimal(kl), strength_word(kl))
        shown = EM_DASH if change is None else f"{change:+.2f}"
        self.tiles["perplexity"].set_value(shown, _perplexities(metrics))
        overlap, ratio = metrics.get("word_overlap"), metrics.get("delta_ratio")
        self.tiles["overlap"].set_value(format_percent(overlap), overlap_word(overlap))
        self.tiles["ratio"].set_value(format_decimal(ratio, 3), ratio_word(ratio))
        acted, positions = metrics.get("acted"), metrics.get("positions")
        known = acted is not None and positions is not None
        share = format_percent(acted / positions, 0) if known and positions else ""
        self.tiles["acted"].set_value(f"{acted} of {positions}" if known else EM_DASH, share)
        over = reasons(metrics)
        self.warning_text.setText(f"{WARNING} {over}")
        self.warning.setVisible(bool(over))
        same = bool(metrics.get("identical"))
        self.note.setText("The steered text is the baseline, token for token." if same else "")
        self.note.setVisible(same)


def strength_word(kl: float | None) -> str:
    """How large a KL is."""
    if kl is None:
        return ""
    return "minimal" if kl < 0.01 else "moderate" if kl <= 0.1 else "large"


def overlap_word(overlap: float | None) -> str:
    """How much two texts share."""
    if overlap is None:
        return ""
    return "alike" if overlap > 0.5 else "partly alike" if overlap >= 0.3 else "different"


def ratio_word(ratio: float | None) -> str:
    """How strong a push is beside the activation it acts on."""
    return "" if ratio is None else "over-steering likely" if ratio > 0.5 else "within bounds"


def _perplexities(metrics: Mapping[str, Any]) -> str:
    before, after = metrics.get("perplexity_baseline"), metrics.get("perplexity_steered")
    return "" if before is None or after is None else f"{before:.2f} → {after:.2f}"


def reasons(metrics: Mapping[str, Any]) -> str:
    """Why a run counts as over-steered, "" if it does not."""
    if not metrics.get("over_steered"):
        return ""
    found: list[str] = []
    if (metrics.get("delta_ratio") or 0.0) > 0.5:
        found.append("the push is more than half of the activation")
    if metrics.get("loops_steered"):
        found.append("the text loops")
    before, after = metrics.get("perplexity_baseline"), metrics.get("perplexity_steered")
    if before and after and after > 2 * before:
        found.append("perplexity more than doubles")
    return f"Here {' and '.join(found)}." if found else "This run is over-steered."
