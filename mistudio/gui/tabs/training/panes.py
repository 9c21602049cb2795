"""The panes that a run card opens below itself, by name."""

from __future__ import annotations

from typing import NamedTuple

from PySide6.QtWidgets import QWidget

from mistudio.core.units import format_count
from mistudio.gui.services import Services
from mistudio.gui.tabs.training.checkpoints_pane import CheckpointsPane
from mistudio.gui.tabs.training.evaluation_pane import RunEvaluationPane
from mistudio.gui.tabs.training.log_pane import LogPane
from mistudio.gui.tabs.training.reads import Run
from mistudio.gui.tabs.training.run_metrics import RunMetricsPane
from mistudio.gui.tabs.training.settings_pane import SettingsPane


class Pane(NamedTuple):
    """A toggle's text and the widget it opens: made of a run, has `show_run(run)`."""

    title: str
    widget: type[QWidget]


PANES = {
    "metrics": Pane("Live metrics", RunMetricsPane),
    "checkpoints": Pane("Checkpoints", CheckpointsPane),
    "evaluation": Pane("Evaluation", RunEvaluationPane),
    "log": Pane("Log", LogPane),
    "settings": Pane("Settings", SettingsPane),
}


def pane_title(name: str, run: Run) -> str:
    """What the toggle of a pane says for a run."""
    title = PANES[name].title
    return f"{title} ({format_count(run.checkpoints)})" if name == "checkpoints" else title


def make_pane(name: str, run: Run, services: Services) -> QWidget:
    """A new pane of a run, already reading what it shows."""
    return PANES[name].widget(run, services)  # type: ignore[call-arg,arg-type]
