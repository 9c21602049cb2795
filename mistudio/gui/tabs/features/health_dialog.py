"""The health of an SAE: figures with what they rest on, distributions, and signs with advice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PySide6.QtCore import Slot
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QGridLayout, QHBoxLayout, QVBoxLayout, QWidget

from mistudio.core.health_configs import HealthConfig
from mistudio.core.health_figures import (
    HealthLine,
    Sign,
    evaluation_lines,
    feature_lines,
    health_lines,
    signs,
    weight_lines,
)
from mistudio.core.units import EM_DASH
from mistudio.gui.dialog import Dialog
from mistudio.gui.services import Services
from mistudio.gui.tabs.library.one_job import OneJob
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import Card, IconLabel, MetricTile, button, label, row
from mistudio.gui.widgets.facts_table import FactsTable
from mistudio.gui.widgets.histogram_plot import HistogramPlot
from mistudio.jobs import sae_health
from mistudio.jobs.sae_health import HealthReport
from mistudio.store.records import SaeRow

ICONS = {
    "warning": ("alert", "yellow"),
    "info": ("info", "blue"),
    "good": ("check_circle", "emerald"),
}
CHARTS = (
    ("density", "Live features by density", "log₁₀ share of tokens", "emerald"),
    ("nearest_cosine", "Cosine to the nearest decoder row", "cosine", "purple"),
    ("encoder_cosine", "Encoder–decoder cosine", "cosine", "blue"),
    ("norm", "Decoder length ‖d‖", "length", "blue"),
    ("bias_cosine", "Cosine of d and b_dec", "cosine", "blue"),
    ("bias_product", "d · b_dec", "product", "blue"),
)


class HealthDialog(Dialog):
    """Shows the kept report; where decoder rows were never compared it offers to do so."""

    def __init__(self, services: Services, sae: SaeRow, parent: QWidget | None = None) -> None:
        super().__init__(f"SAE health: {sae.name}", parent, width=1152, height_share=0.9)
        self._services, self._sae = services, sae
        self.report: HealthReport | None = None
        self.tiles = {
            "dead": MetricTile("Dead features", color="yellow"),
            "l0": MetricTile("L0 on the text read", color="blue"),
            "ev": MetricTile("Explained variance", color="emerald"),
            "ce_loss_score": MetricTile("CE recovered", color="emerald"),
            "kl_div_score": MetricTile("KL recovered", color="emerald"),
        }
        self.start_button = button(
            "Compute again", self.start, icon="play", tip="Compute the report again"
        )
        self.job = OneJob(
            services,
            self.start_button,
            self,
            failure="The report failed.",
            cancel_tip="End this computation",
        )
        self.job.done.connect(self._on_done)
        self.rests_on = label("", "muted", wrap=True)
        self._signs = QVBoxLayout()
        self._signs.setSpacing(appearance().px(8))
        self.tables = {
            name: FactsTable((name, "Value", "Rests on"), name, stretch=2)
            for name in ("Features", "Held-out text", "Weights")
        }
        for table in self.tables.values():
            table.setWordWrap(False)
        self.charts = {
            key: HistogramPlot(title, x_label, color=color) for key, title, x_label, color in CHARTS
        }
        self._lay_out()
        studio = services.studio
        services.query.ask(
            lambda _db: sae_health.known_report(studio, sae),
            self._on_known,
            on_error=self._on_error,
        )

    def _lay_out(self) -> None:
        px = appearance().px
        self.box.setSpacing(px(12))
        self.content = QWidget()
        inside = QVBoxLayout(self.content)
        inside.setContentsMargins(0, 0, 0, 0)
        inside.setSpacing(px(12))
        inside.addLayout(row(*self.tiles.values(), spacing=12))
        inside.addLayout(self._signs)
        columns = QHBoxLayout()
        columns.setSpacing(px(16))
        left, right = QVBoxLayout(), QVBoxLayout()
        for side, names, room in (
            (left, ("Features",), 5),
            (right, ("Held-out text", "Weights"), 6),
        ):
            side.setSpacing(px(12))
            for name in names:
                side.addWidget(self.tables[name])
            side.addStretch(1)
            columns.addLayout(side, room)
        inside.addLayout(columns)
        grid = QGridLayout()
        grid.setSpacing(px(16))
        for place, chart in enumerate(self.charts.values()):
            chart.setMinimumHeight(px(210))
            grid.addWidget(chart, place // 2, place % 2)
        inside.addLayout(grid)
        self.box.addWidget(self.rests_on)
        self.box.addWidget(self.job.problem)
        self.box.addWidget(self.content)
        self.box.addStretch(1)
        self.content.hide()
        self.copy_button = button("Copy as text", self.copy, icon="copy", tip="Copy the report")
        self.copy_button.setEnabled(False)
        self.buttons.insertWidget(0, self.copy_button)
        self.buttons.addWidget(self.job.state)
        self.buttons.addWidget(self.job.cancel_button)
        self.buttons.addWidget(self.start_button)
        self.add_close()

    @Slot(object)
    def _on_known(self, report: HealthReport | None) -> None:
        if report is not None:
            self.show_report(report)
            return
        self.rests_on.setText(
            "The decoder rows of this SAE were not compared with each other yet. That takes "
            "seconds for small SAEs and minutes for wide ones on a CPU; it is kept afterwards."
        )
        self.start_button.setText("Compute")

    @Slot(str, str)
    def _on_error(self, sentence: str, details: str) -> None:
        self.job.say(sentence)
        self.job.problem.setToolTip(details)

    def start(self) -> None:
        """Queue the report."""
        self.job.submit("sae_health", HealthConfig(sae=self._sae.id, again=True))

    @Slot(object)
    def _on_done(self, found: Mapping[str, Any]) -> None:
        self.show_report(HealthReport(found["health"], found["evaluation"], found["made_at"]))

    def show_report(self, report: HealthReport) -> None:
        """Show a report."""
        self.report = report
        health, evaluation = report.health, report.evaluation
        self.start_button.setText("Compute again")
        self.rests_on.setText(
            f"{health['live']:,} live of {health['features']:,} features over "
            f"{health['n_tokens']:,} tokens · computed "
            f"{report.made_at[:16].replace('T', ' ')} UTC"
            + (" · the store keeps only the strongest activations" if health["truncated"] else "")
        )
        held_out = evaluation_lines(evaluation)
        self._fill_tiles(health, {line.name: line for line in held_out})
        self._show_signs(signs(health, evaluation))
        for name, lines in (
            ("Features", feature_lines(health)),
            ("Held-out text", held_out),
            ("Weights", weight_lines(health)),
        ):
            self._fill(self.tables[name], lines)
        for key, chart in self.charts.items():
            found = health[key]
            chart.setVisible(found is not None)
            if found is not None:
                chart.set_counts(found["edges"], found["counts"])
        self.content.show()
        self.copy_button.setEnabled(True)

    def _fill_tiles(self, health: Mapping[str, Any], held_out: Mapping[str, HealthLine]) -> None:
        named = {line.name: line for line in feature_lines(health)} | dict(held_out)
        for key, name in (
            ("dead", "Dead"),
            ("l0", "L0, text read"),
            ("ev", "Explained variance"),
            ("ce_loss_score", "CE recovered"),
            ("kl_div_score", "KL recovered"),
        ):
            line, tile = named.get(name), self.tiles[key]
            if line is None:
                tile.set_value(EM_DASH, "not evaluated")
                tile.setToolTip("Evaluate the SAE on held-out text to see this.")
            else:
                tile.set_value(line.value.split(" (")[0], line.rests_on)
                tile.setToolTip(f"{line.value}\n{line.meaning}")

    def _show_signs(self, found: Sequence[Sign]) -> None:
        while (item := self._signs.takeAt(0)) is not None:
            widget = item.widget()
            if widget is not None:
                widget.deleteLater()
        for sign in found or [Sign("good", "No bad sign was seen.", "")]:
            self._signs.addWidget(sign_card(sign))

    def _fill(self, table: FactsTable, lines: Sequence[HealthLine]) -> None:
        table.setVisible(bool(lines))
        table.set_rows(
            [[line.name, line.value, line.rests_on] for line in lines],
            [f"{line.name}: {line.meaning}" for line in lines],
        )

    def copy(self) -> None:
        """Put the report on the clipboard as text."""
        if self.report is not None:
            told = health_lines(self.report.health, self.report.evaluation)
            QGuiApplication.clipboard().setText("\n".join(told))


def sign_card(sign: Sign) -> Card:
    """A sign in a frame: what was seen, and below it what to do."""
    made = Card("nested", horizontal=True, padding=10)
    icon, color = ICONS[sign.level]
    made.box.addWidget(IconLabel(icon, color))
    texts = QVBoxLayout()
    texts.setSpacing(2)
    texts.addWidget(label(sign.seen, wrap=True, selectable=True))
    if sign.advice:
        texts.addWidget(label(sign.advice, "small", wrap=True, selectable=True))
    made.box.addLayout(texts, 1)
    return made
