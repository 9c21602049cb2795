"""Up to eight runs in one chart, with a table of only the settings that differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PySide6.QtCore import Qt, QTimer, Slot
from PySide6.QtWidgets import (
    QComboBox,
    QHBoxLayout,
    QListWidget,
    QListWidgetItem,
    QVBoxLayout,
    QWidget,
)

from mistudio.gui.dialog import Dialog
from mistudio.gui.services import Services
from mistudio.gui.tabs.training.chart_export import ChartExport
from mistudio.gui.tabs.training.chart_tools import ChartTools
from mistudio.gui.tabs.training.curves import (
    AXES,
    CURVES,
    Curve,
    bounds_of,
    has_time,
    mean_of,
    points_of,
)
from mistudio.gui.tabs.training.reads import read_metrics
from mistudio.gui.tabs.training.run_choices import (
    RunChoice,
    differing,
    latest,
    read_run_choices,
)
from mistudio.gui.tabs.training.series import Columns, MetricSeries, smoothed
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label, row
from mistudio.gui.widgets.facts_table import FactsTable
from mistudio.gui.widgets.plots import CurvePlot
from mistudio.store.records import TrainingRow
from mistudio.store.tables import TRAININGS

MOST = 8
LETTERS = "ABCDEFGH"
# as many colours as runs, told apart by their letters too
COLORS = ("emerald", "blue", "purple", "yellow", "red", "muted", "text", "label")
MEAN = "mean"
POLL_MS = 2000

Read = list[tuple[TrainingRow, int, Columns]]


class CompareRuns(Dialog):
    """A list of runs to choose from beside their curves; follows runs that still train."""

    def __init__(
        self, services: Services, chosen: Sequence[str], parent: QWidget | None = None
    ) -> None:
        super().__init__("Compare runs", parent, width=1240, height_share=0.95)
        self._services = services
        self._choices: dict[str, RunChoice] = {}
        self._wanted = list(chosen)
        self._series: dict[str, MetricSeries] = {}
        self._rows: dict[str, TrainingRow] = {}
        self.list = QListWidget()
        self.list.setAccessibleName("Runs")
        self.list.setWordWrap(True)
        self.list.itemChanged.connect(self._on_checked)
        self.group_button = button(
            "Whole sweep", self.choose_group, icon="list", tip="Choose the runs of this sweep"
        )
        self.group_button.hide()
        self.mean_button = button(
            "Mean",
            self._draw_all,
            variant="toggle",
            tip="Draw the mean of the chosen runs, at the steps that all of them told",
        )
        self.mean_button.hide()
        self.note = label("", "text-yellow", wrap=True)
        self.note.hide()
        self.metric_box = QComboBox()
        for curve in CURVES:
            self.metric_box.addItem(curve.title, curve.column)
        self.metric_box.setAccessibleName("Metric")
        self.metric_box.setToolTip("What the curves show")
        self.metric_box.currentIndexChanged.connect(self._draw_all)
        self.tools = ChartTools()
        self.tools.changed.connect(self._draw_all)
        self.tools.zoomed.connect(self._zoom)
        self.plot = CurvePlot(CURVES[0].title, digits=4)
        self.tools.reset.connect(self.plot.reset_view)
        self.table = FactsTable(["Setting"], "Settings that differ", most=7, stretch=0)
        self.same = label("", "muted")
        self.export = ChartExport(services, lambda: "comparison", self.plot, self.chosen, self)
        self._poll = QTimer(self)
        self._poll.setInterval(POLL_MS)
        self._poll.timeout.connect(self._follow)
        self._build()
        services.query.ask(read_run_choices, self._on_choices)
        self._poll.start()

    def _build(self) -> None:
        px = appearance().px
        narrow = QWidget()
        narrow.setFixedWidth(px(280))
        side = QVBoxLayout(narrow)
        side.setContentsMargins(0, 0, 0, 0)
        side.addWidget(label("Metric", "label"))
        side.addWidget(self.metric_box)
        side.addWidget(label(f"Runs (up to {MOST})", "label"))
        side.addWidget(self.list, 1)
        side.addLayout(row(self.group_button, self.mean_button, None))
        side.addWidget(self.note)
        main = QVBoxLayout()
        main.addWidget(self.tools)
        self.plot.plot.setMinimumHeight(px(280))
        main.addWidget(self.plot, 1)
        main.addWidget(self.same)
        main.addWidget(self.table)
        both = QHBoxLayout()
        both.setSpacing(px(16))
        both.addWidget(narrow)
        both.addLayout(main, 1)
        self.box.addLayout(both)
        self.buttons.addWidget(self.export.button)
        self.add_close()

    def chosen(self) -> list[str]:
        """Ids of the chosen runs, in the order they were chosen."""
        return list(self._wanted)

    @Slot(object)
    def _on_choices(self, choices: list[RunChoice]) -> None:
        self._choices = {choice.training.id: choice for choice in choices}
        self._wanted = [run for run in self._wanted if run in self._choices][:MOST]
        self.list.blockSignals(True)
        self.list.clear()
        for choice in choices:
            item = QListWidgetItem(choice.training.name)
            item.setData(Qt.ItemDataRole.UserRole, choice.training.id)
            item.setToolTip(f"{choice.training.name} ({choice.training.status})")
            item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
            self.list.addItem(item)
        self.list.blockSignals(False)
        self._show_choice()
        self._read()

    def choose(self, runs: Sequence[str]) -> None:
        """Choose other runs; of more than eight the first eight."""
        self._say("" if len(runs) <= MOST else f"{len(runs):,} runs: the first {MOST} are shown.")
        self._wanted = list(runs)[:MOST]
        self._show_choice()
        self._read()

    def choose_group(self) -> None:
        """Choose every run of the sweep that the first chosen run belongs to."""
        group = self._group()
        runs = [run for run, choice in self._choices.items() if choice.group == group]
        self.choose(sorted(runs, key=lambda run: self._choices[run].training.layer))

    def _group(self) -> str:
        return next((self._choices[r].group for r in self._wanted if self._choices[r].group), "")

    @Slot(QListWidgetItem)
    def _on_checked(self, item: QListWidgetItem) -> None:
        run, on = str(item.data(Qt.ItemDataRole.UserRole)), item.checkState()
        if on == Qt.CheckState.Checked and run not in self._wanted:
            if len(self._wanted) == MOST:
                self._say(f"At most {MOST} runs are drawn; take one away first.")
                self._show_choice()
                return
            self.choose([*self._wanted, run])
        elif on == Qt.CheckState.Unchecked and run in self._wanted:
            self.choose([other for other in self._wanted if other != run])

    def _say(self, sentence: str) -> None:
        self.note.setText(sentence)
        self.note.setVisible(bool(sentence))

    def _show_choice(self) -> None:
        self.list.blockSignals(True)
        for place in range(self.list.count()):
            item = self.list.item(place)
            run = str(item.data(Qt.ItemDataRole.UserRole))
            on, name = run in self._wanted, self._choices[run].training.name
            item.setCheckState(Qt.CheckState.Checked if on else Qt.CheckState.Unchecked)
            item.setText(f"{LETTERS[self._wanted.index(run)]} · {name}" if on else name)
        self.list.blockSignals(False)
        self.group_button.setVisible(bool(self._group()))

    def _read(self) -> None:
        """Read what is new of the chosen runs."""
        wanted = [
            (run, self._series[run].behind() if run in self._series else -1) for run in self._wanted
        ]

        def read(db: Any) -> Read:
            found = [(TRAININGS.find(db, run), run, after) for run, after in wanted]
            return [(row_, at, read_metrics(db, run, at)) for row_, run, at in found if row_]

        self._services.query.ask(read, self._on_read, key="compared")

    @Slot(object)
    def _on_read(self, found: Read) -> None:
        for training, after, columns in found:
            series = self._series.setdefault(training.id, MetricSeries())
            series.insert(columns, after)
            self._rows[training.id] = training
        self._draw_all()

    @Slot()
    def _follow(self) -> None:
        states = ("queued", "initializing", "training", "stopping")
        if any(self._rows[r].status in states for r in self._wanted if r in self._rows):
            self._read()

    @Slot(float)
    def _zoom(self, factor: float) -> None:
        self.plot.zoom(factor)

    @Slot()
    def _draw_all(self) -> None:
        ready = [run for run in self._wanted if run in self._series and run in self._rows]
        curve = next(c for c in CURVES if c.column == self.metric_box.currentData())
        self.plot.title.setText(curve.title)
        self.plot.set_digits(curve.digits)
        self.plot.set_x_label(AXES[self.tools.axis()])
        self.tools.offer_time(any(has_time(self._series[run]) for run in ready))
        for name in self.plot.names():
            self.plot.remove_series(name)
        for place, run in enumerate(ready):
            self._draw(LETTERS[place], COLORS[place], run, curve)
        self.mean_button.setVisible(len(ready) > 1)
        if len(ready) > 1 and self.mean_button.isChecked():
            self._draw_mean(ready, curve)
        self._show_table([self._rows[run] for run in ready])

    def _draw_mean(self, runs: Sequence[str], curve: Curve) -> None:
        each = [(self._series[run], self._latents(run)) for run in runs]
        xs, ys = mean_of(each, curve.column, self.tools.axis())
        if self.tools.smooths() and not curve.is_held_out:
            ys = smoothed(ys, self.tools.points())
        self.plot.add_series(MEAN, "text", points=curve.is_held_out)
        self.plot.set_data(MEAN, xs, ys)

    def _latents(self, run: str) -> int:
        return int(self._rows[run].config.get("width") or 1)

    def _draw(self, letter: str, color: str, run: str, curve: Curve) -> None:
        series = self._series[run]
        xs, ys = points_of(series, curve.column, self.tools.axis(), self._latents(run))
        if self.tools.smooths() and not curve.is_held_out:
            self.plot.add_series(f"{letter} raw", color, faint=True)
            self.plot.set_data(f"{letter} raw", xs, ys)
            ys = smoothed(ys, self.tools.points())
        self.plot.add_series(letter, color, points=curve.is_held_out)
        self.plot.set_data(letter, xs, ys)
        if bounds := bounds_of(series, curve.column, self.tools.axis()):
            self.plot.set_bounds(letter, *bounds)

    def _show_table(self, runs: Sequence[TrainingRow]) -> None:
        rows = differing(runs)
        self.same.setText(
            "Choose a second run to see what differs."
            if len(runs) < 2
            else ("" if rows else "These runs have the same settings.")
        )
        self.same.setVisible(bool(self.same.text()))
        self.table.set_titles(["", *LETTERS[: len(runs)]])
        names = [["Run", *(run.name for run in runs)]]
        self.table.set_rows([*names, *rows, *latest(runs)])
