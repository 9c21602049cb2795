"""What steering gives: texts side by side, figures, the warning of over-steering, the curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QFrame, QHBoxLayout, QScrollArea, QVBoxLayout, QWidget

from mistudio.core.steering_shown import (
    BASELINE,
    PromptRun,
    Variant,
    over_steering,
    read_run,
    repeat_words,
    repeating,
    title_of,
)
from mistudio.gui.services import Services
from mistudio.gui.tabs.steering.figures import FiguresTable, figures_line, variant_line
from mistudio.gui.tabs.steering.pane import Pane
from mistudio.gui.tabs.steering.tiles import Tiles
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import Card, IconLabel, button, label, row
from mistudio.gui.widgets.elided import Combo
from mistudio.gui.widgets.layout import guard_wheel
from mistudio.gui.widgets.plots import CurvePlot

WARNING = "Past this strength text is often fluent but wrong."
CURVES = (
    ("KL", "kl", "purple"),
    ("Perplexity change", "perplexity_delta", "red"),
    ("‖Δ‖ / ‖x‖", "delta_ratio", "yellow"),
)


class Output(QWidget):
    """Streams the texts of a run, then shows its figures; `chose(name)` of which variant."""

    chose = Signal(str)

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        px = appearance().px
        self.panes: dict[str, Pane] = {}
        self.run: PromptRun | None = None
        self._chosen = ""
        self.warning = Card("info", horizontal=True, padding=10)
        self.warning_text = label("", "warning", wrap=True)
        self.warning.box.addWidget(IconLabel("alert", "yellow"))
        self.warning.box.addWidget(self.warning_text, 1)
        self.repeating = Card("info", horizontal=True, padding=10)
        self.repeating_text = label("", "warning", wrap=True)
        self.repeating.box.addWidget(IconLabel("retry", "yellow"))
        self.repeating.box.addWidget(self.repeating_text, 1)
        self.repeats = label("", "small", wrap=True)
        self.repeats.setToolTip(
            "The longest run of tokens that occurs twice or more in the text. Above a quarter of a "
            "text of at least 32 tokens it is warned of"
        )
        self.note = label("", "muted", wrap=True)
        self.sample = Combo()
        self.sample.setAccessibleName("Text shown")
        self.sample.setToolTip("Samples share their noise; greedy always takes the likeliest token")
        self.sample.setMinimumWidth(px(150))
        guard_wheel(self.sample)
        self.sample.currentIndexChanged.connect(self._fill)
        self.marks = button("Mark differences", variant="toggle")
        self.marks.setToolTip("Underline the words that the baseline has not")
        self.marks.setChecked(True)
        self.marks.toggled.connect(self._fill)
        self.parting = button("Where predictions part", variant="toggle")
        self.parting.setToolTip(
            "Shade each token of the first text by the KL of its prediction; the value is in its "
            "tooltip and can be copied"
        )
        self.parting.toggled.connect(self._fill)
        self._tools = QWidget()
        self.export_button = button("Export", icon="download", tip="Write what is shown here")
        self.export_button.setAccessibleName("Export what is shown")
        tools = row(self.marks, self.parting, None, self.sample, self.export_button)
        self._tools.setLayout(tools)
        self._sides = QWidget()
        self._line = QHBoxLayout(self._sides)
        self._line.setContentsMargins(0, 0, 0, 0)
        self._line.setSpacing(px(12))
        self.area = QScrollArea()
        self.area.setWidgetResizable(True)
        self.area.setFrameShape(QFrame.Shape.NoFrame)
        self.area.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.area.setWidget(self._sides)
        self.area.setFixedHeight(px(280))
        self.area.setAccessibleName("Texts side by side")
        self.of = label("", "label")
        self.tiles = Tiles()
        self.table = FiguresTable(
            services, "Variants", ("Variant", "Text", "Mark"), first=("Strength", "{:g}")
        )
        self.table.opened.connect(self.choose)
        self.curves = {
            key: CurvePlot(name, "strength", digits=4 if key == "kl" else 3)
            for name, key, _ in CURVES
        }
        for name, key, color in CURVES:
            self.curves[key].add_series(name, color, points=True)
        self._charts = QWidget()
        charts = QHBoxLayout(self._charts)
        charts.setContentsMargins(0, 0, 0, 0)
        for chart in self.curves.values():
            chart.setMinimumWidth(px(200))
            chart.setMinimumHeight(px(200))
            charts.addWidget(chart, 1)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(px(8))
        for widget in (
            self.warning,
            self.repeating,
            self._tools,
            self.area,
            self.note,
            self.of,
            self.tiles,
            self.repeats,
        ):
            box.addWidget(widget)
        box.addWidget(self.table)
        box.addWidget(self._charts)
        self.start(("steered",))

    def start(self, names: Sequence[str]) -> None:
        """Empty panes for the baseline and these variants."""
        self.run = None
        self._set_panes([(BASELINE, title_of(BASELINE)), *((n, title_of(n)) for n in names)])
        self._tools.hide()
        self._show_figures()

    def stream(self, name: str, text: object) -> None:
        """Show a text so far; names of no pane are ignored."""
        pane = self.panes.get(name)
        if pane is not None:
            pane.set_text(str(text))

    def show_run(
        self, prompt: str, outputs: Mapping[str, Any] | None, metrics: Mapping[str, Any] | None
    ) -> None:
        """Show a finished run, as it is kept."""
        found = read_run(prompt, outputs, metrics)
        if not found:
            self.start(("steered",))
            return
        self.run = found[0]
        self._set_panes([(v.name, v.title) for v in self.run.variants])
        first = next(iter(self.run.steered), None)
        labels = first.labels if first else ()
        self.sample.blockSignals(True)
        self.sample.clear()
        for text in labels:
            self.sample.addItem(text.capitalize())
        self.sample.blockSignals(False)
        self.sample.setVisible(len(labels) > 1)
        self._tools.show()
        self._chosen = first.name if first else ""
        self._fill()
        self._show_figures()

    def chosen(self) -> str:
        """The name of the variant whose figures are shown, "" if there is none."""
        return self._chosen

    def choose(self, name: str) -> None:
        """Show the figures of a variant."""
        self._chosen = name
        self._show_figures()
        self.chose.emit(name)
        if name in self.panes:
            self.area.ensureWidgetVisible(self.panes[name])

    def _set_panes(self, wanted: Sequence[tuple[str, str]]) -> None:
        if [(pane.name, pane.title.text()) for pane in self.panes.values()] != list(wanted):
            for pane in self.panes.values():
                self._line.removeWidget(pane)
                pane.hide()
                pane.deleteLater()
            self.panes = {name: Pane(name, title) for name, title in wanted}
            for pane in self.panes.values():
                self._line.addWidget(pane, 1)
                pane.chosen.connect(self.choose)
        for pane in self.panes.values():
            pane.mark(None)
            pane.show_predictions((), 0.0)
            pane.set_text("")
            pane.set_ending("")
            pane.set_acted("")
            pane.set_figures("")
            pane.choose.setVisible(not pane.is_baseline and len(wanted) > 2)

    def _fill(self) -> None:
        """Put the chosen sample into the panes."""
        if self.run is None:
            return
        place = max(0, self.sample.currentIndex())
        steered = self.run.steered
        self.parting.setEnabled(place == 0 and any(v.per_token for v in steered))
        parting = self.parting.isChecked() and self.parting.isEnabled()
        largest = max((kl for v in steered for _, kl in v.per_token), default=0.0)
        base = self.run.baseline
        beside = base.texts[place].text if base and place < len(base.texts) else None
        for variant in self.run.variants:
            pane = self.panes[variant.name]
            text = variant.texts[place] if place < len(variant.texts) else None
            pane.set_text(text.text if text else "")
            pane.set_ending(text.ending if text else "")
            marked = self.marks.isChecked() and not variant.is_baseline
            pane.mark(beside if marked else None)
            pane.show_predictions(variant.per_token if parting else (), largest)
            pane.set_acted(text.acted_words if text else "")

    def _show_figures(self) -> None:
        steered = self.run.steered if self.run else ()
        chosen = next((v for v in steered if v.name == self._chosen), None)
        self.tiles.setVisible(bool(steered))
        self.tiles.show_variant(chosen)
        words = repeat_words(chosen.metrics) if chosen else ""
        self.repeats.setText(words)
        self.repeats.setVisible(bool(words))
        several = len(steered) > 1
        self.of.setVisible(several)
        self.of.setText(f"Figures of: {chosen.title}" if chosen else "")
        for pane in self.panes.values():
            pane.set_chosen(pane.name == self._chosen)
        for variant in steered:
            self.panes[variant.name].set_figures(figures_line(variant) if several else "")
        self.table.setVisible(several)
        self.table.set_lines([variant_line(variant) for variant in steered])
        strengths = all(v.strength is not None for v in steered)
        self.table.table.setColumnHidden(0, not strengths)
        self.table.table.setColumnHidden(1, strengths)
        self._charts.setVisible(several and strengths)
        if several and strengths:
            self._draw(steered)
        self._warn(steered)

    def _draw(self, steered: Sequence[Variant]) -> None:
        ordered = sorted(steered, key=lambda v: v.strength or 0.0)
        for name, key, _ in CURVES:
            known = [v for v in ordered if v.metrics.get(key) is not None]
            xs = [float(v.strength or 0.0) for v in known]
            self.curves[key].set_data(name, xs, [float(v.metrics[key]) for v in known])

    def _warn(self, steered: Sequence[Variant]) -> None:
        over = [(v.title, over_steering(v.metrics)) for v in steered]
        found = [(title, why) for title, why in over if why]
        if len(steered) == 1 and found:
            told = f"Here {' and '.join(found[0][1])}."
        else:
            told = " ".join(f"{title}: {' and '.join(why)}." for title, why in found)
        self.warning_text.setText(f"{WARNING} {told}")
        self.warning.setVisible(bool(found))
        again = [(v.title, told) for v in steered if (told := repeating(v.metrics))]
        named = [told if len(steered) == 1 else f"{title}: {told}" for title, told in again]
        self.repeating_text.setText(" ".join(named))
        self.repeating.setVisible(bool(again))
        same = [v.title for v in steered if v.metrics.get("identical")]
        if len(steered) == 1 and same:
            self.note.setText("The steered text is the baseline, token for token.")
        else:
            self.note.setText(f"The baseline, token for token: {', '.join(same)}." if same else "")
        self.note.setVisible(bool(same))
