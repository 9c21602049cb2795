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
    tip: str


PANES = {
    "metrics": Pane(
        "Live metrics",
        RunMetricsPane,
        "Curves of loss, L0, dead latents and more, while it trains and after",
    ),
    "checkpoints": Pane(
        "Checkpoints",
        CheckpointsPane,
        "What is kept of the run: pin, delete, go on from one, write an SAE",
    ),
    "evaluation": Pane(
        "Evaluation", RunEvaluationPane, "What the finished SAE reaches on held-out text"
    ),
    "log": Pane("Log", LogPane, "What the run wrote"),
    "settings": Pane(
        "Settings", SettingsPane, "Every setting of the run, as a command and to train again"
    ),
}


def pane_title(name: str, run: Run) -> str:
    """What the toggle of a pane says for a run."""
    title = PANES[name].title
    return f"{title} ({format_count(run.checkpoints)})" if name == "checkpoints" else title


def make_pane(name: str, run: Run, services: Services) -> QWidget:
    """A new pane of a run, already reading what it shows."""
    return PANES[name].widget(run, services)  # type: ignore[call-arg,arg-type]
