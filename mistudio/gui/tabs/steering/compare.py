"""Two steering runs side by side: what was asked, the texts, the figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PySide6.QtWidgets import QHBoxLayout, QWidget

from mistudio.core.steering_shown import Variant, read_run
from mistudio.gui.dialog import Dialog
from mistudio.gui.tabs.steering.figures import FIGURES
from mistudio.gui.tabs.steering.pane import Pane
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import label
from mistudio.gui.widgets.facts_table import FactsTable
from mistudio.jobs.steering_report import settings
from mistudio.store.records import SteeringRunRow


class CompareRuns(Dialog):
    """The steered text of the first run with that of the second; what differs is marked."""

    def __init__(
        self,
        runs: Sequence[SteeringRunRow],
        features: Callable[[SteeringRunRow], str],
        parent: QWidget | None = None,
    ) -> None:
        super().__init__("Compare two runs", parent, width=1080, height_share=0.9)
        px = appearance().px
        found = [_first(run) for run in runs]
        texts = [v.texts[0].text if v and v.texts else "" for v in found]
        sides = QHBoxLayout()
        sides.setSpacing(px(12))
        self.panes: list[Pane] = []
        for place, run in enumerate(runs):
            when = run.created_at[5:16].replace("T", " ")
            pane = Pane(f"run {place}", f"{when} · {features(run) or run.mode}")
            pane.set_text(texts[place])
            pane.mark(texts[1 - place])
            pane.text.setMinimumHeight(px(200))
            self.panes.append(pane)
            sides.addWidget(pane, 1)
        self.box.addLayout(sides)
        self.box.addWidget(label("Figures", "label"))
        self.figures = FactsTable(
            ("", "First", "Second", "Difference"), "Figures of both", stretch=0
        )
        self.figures.set_rows(_figures(found))
        self.box.addWidget(self.figures)
        self.box.addWidget(label("Settings that differ", "label"))
        self.settings = FactsTable(("Setting", "First", "Second"), "Settings that differ")
        differ = _differing(runs)
        self.settings.set_rows(differ or [("none", "", "")], [""] * max(1, len(differ)))
        self.box.addWidget(self.settings)
        self.add_close()


def _first(run: SteeringRunRow) -> Variant | None:
    """The first steered variant of a run."""
    shown = read_run(run.prompt, run.outputs, run.metrics)
    return next(iter(shown[0].steered), None) if shown else None


def _figures(found: Sequence[Variant | None]) -> list[tuple[str, str, str, str]]:
    rows: list[tuple[str, str, str, str]] = []
    for name, key, form in FIGURES:
        first, second = (v.metrics.get(key) if v else None for v in found)
        told = ["—" if value is None else form.format(value) for value in (first, second)]
        gap = "—" if first is None or second is None else f"{second - first:+.4f}"
        rows.append((name, told[0], told[1], gap))
    return rows


def _differing(runs: Sequence[SteeringRunRow]) -> list[tuple[str, str, str]]:
    left, right = (dict([("prompt", run.prompt), *settings(run)]) for run in runs)
    names = dict.fromkeys([*left, *right])
    return [
        (name, left.get(name, "—"), right.get(name, "—"))
        for name in names
        if name not in ("run", "seconds", "specification") and left.get(name) != right.get(name)
    ]
