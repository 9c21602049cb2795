"""What a training would take: memory by item against what is free, disk, time, and ways out."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import QTimer, Signal, Slot
from PySide6.QtWidgets import QWidget

from mistudio.core.config import to_dict
from mistudio.core.errors import StudioError
from mistudio.core.model_configs import chosen_layers
from mistudio.core.sweep_configs import SweepConfig
from mistudio.core.training_configs import TrainConfig
from mistudio.core.training_plan import Plan, Proposal, Rates
from mistudio.core.units import format_bytes
from mistudio.gui.services import Services
from mistudio.gui.tabs.library.jobs import JobWatch
from mistudio.gui.tabs.training.summary import MOST_LAYERS
from mistudio.gui.widgets.cards import Card, button, label, row
from mistudio.gui.widgets.progress import ProgressBar
from mistudio.jobs import probe_training, training_plan
from mistudio.store.records import JobRow

_WAIT_MS = 250
_COLORS = {"fits": "emerald", "warn": "yellow", "refuse": "red"}
_MOST_WAYS = 3
_NOTHING = "Choose a model and a dataset to see what the training takes."
_LENGTHS = (
    "tokens", "name", "seed", "learning_rate", "checkpoint_every",
    "metrics_every", "eval_every", "eval_tokens",
)  # fmt: skip


class PlanBox(Card):
    """Follows a form: give it the config with `show_config` after every edit.

    `changed` tells that there is a new plan or none; `chosen` carries the settings of a proposal
    that the user took.
    """

    changed = Signal()
    chosen = Signal(object)

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__("nested", parent, padding=12)
        self._services = services
        self._config: TrainConfig | None = None
        self._probed: dict[str, Any] = {}
        self._rates: Rates | None = None
        self._probe = ""
        self.plan: Plan | None = None
        self.summary = label("", "label", wrap=True)
        self.measure = button(
            "Measure time", self.measure_time, icon="clock", tip="Run 20 steps and time them"
        )
        self.bar = ProgressBar(percent=False)
        self.items = label("", "muted", wrap=True)
        self.warning = label("", "warning", wrap=True)
        self.refusal = label("", "error", wrap=True)
        self.ways = [button("", self._on_way, variant="link") for _ in range(_MOST_WAYS)]
        line = row(self.summary, self.measure)
        line.setStretch(0, 1)
        self.box.addLayout(line)
        for part in (self.bar, self.items, self.warning, self.refusal):
            self.box.addWidget(part)
        self.box.addLayout(row(*self.ways, None))
        self._watch = JobWatch(services, self)
        self._watch.ended.connect(self._on_ended)
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(_WAIT_MS)
        self._soon.timeout.connect(self.refresh)
        self._show(None)

    @property
    def refuses(self) -> str:
        """The sentence that says why the run cannot start, "" if it can or nothing is known."""
        return self.plan.refusal if self.plan else ""

    def show_config(self, config: TrainConfig | None) -> None:
        """Plan this training soon; None while there is nothing to plan."""
        if config == self._config:
            return
        self._config = config
        if config is None:
            self._soon.stop()
            self._show(None)
        else:
            self._soon.start()

    @Slot()
    def refresh(self) -> None:
        """Ask for the plan now."""
        config = self._config
        if config is None:
            return
        studio = self._services.studio
        rates = self._rates if _without_length(config) == self._probed else None
        self._services.query.ask(
            lambda _: training_plan.plan_training(
                studio, training_plan.members_of(studio, config), rates
            ),
            self._on_plan,
            on_error=self._on_error,
            key="plan",
        )

    @Slot()
    def measure_time(self) -> None:
        """Queue a probe of the settings shown."""
        if self._config is None:
            return
        try:
            self._probe = self._watch.submit("probe_training", self._config)
        except StudioError as error:
            self._say("", error.sentence)
            return
        self._probed = _without_length(self._config)
        self._rates = None
        self.measure.setEnabled(False)
        self.measure.setText("Measuring…")

    def _on_ended(self, job: JobRow) -> None:
        if job.id != self._probe:
            return
        self._probe = ""
        self.measure.setText("Measure time")
        self.measure.setEnabled(True)
        if job.status == "completed" and job.result:
            self._rates = probe_training.rates_of(job.result)
            self.refresh()
        elif job.status == "failed":
            self._say("", job.error_message or "The probe failed.")

    def _on_plan(self, found: Plan) -> None:
        if self._config is not None:
            self._show(found)

    def _on_error(self, sentence: str, _details: str) -> None:
        self._show(None)
        self._say("", sentence)

    def _show(self, found: Plan | None) -> None:
        self.plan = found
        for part in (self.bar, self.items):
            part.setVisible(found is not None)
        has_model = self._config is not None and bool(self._config.model)  # there is a pass to time
        self.measure.setVisible(found is not None and has_model)
        for way in self.ways:
            way.hide()
        self._say("", "")
        if found is None:
            self.summary.setText(_NOTHING)
        else:
            self._fill(found)
        self.changed.emit()

    def _fill(self, found: Plan) -> None:
        self.summary.setText(found.summary)
        self.measure.setEnabled(not (found.refusal or self._probe))
        self.bar.set_color(_COLORS[found.verdict])
        self.bar.set_value(100 * found.share)
        self.bar.setToolTip(f"{100 * found.share:.0f} % of the free memory")
        parts = [f"{item.name} {format_bytes(item.bytes)}" for item in found.items]
        self.items.setText(" + ".join(parts) + f" = {format_bytes(found.total)} at the peak")
        self.items.setToolTip(
            f"Besides, {format_bytes(found.window)} of shuffled activations lie in the page cache, "
            "which the system takes back when it must."
        )
        tight = f"This takes {100 * found.share:.0f} % of the free memory."
        self._say(tight if found.verdict == "warn" else "", found.refusal)
        for way, proposal in zip(self.ways, _usable(found), strict=False):
            way.setText(f"Use {proposal.sentence}")
            way.setToolTip(f"Needs {format_bytes(proposal.total)}")
            way.setProperty("changes", _changes(proposal, self._config))
            way.show()

    @Slot()
    def _on_way(self) -> None:
        self.chosen.emit(self.sender().property("changes"))

    def _say(self, warning: str, refusal: str) -> None:
        for part, text in ((self.warning, warning), (self.refusal, refusal)):
            part.setText(text)
            part.setVisible(bool(text))


def _usable(found: Plan) -> list[Proposal]:
    return [proposal for proposal in found.proposals if proposal.changes or proposal.layers]


def _changes(proposal: Proposal, config: TrainConfig | None) -> dict[str, Any]:
    """The settings that a proposal changes; of several layers it keeps the first."""
    if proposal.layers and isinstance(config, SweepConfig) and config.layers:
        kept = chosen_layers(config.layers, MOST_LAYERS)[: proposal.layers]
        return {"layers": ",".join(map(str, kept))}
    return dict(proposal.changes)


def _without_length(config: TrainConfig) -> dict[str, Any]:
    """The settings that times depend on."""
    return {name: value for name, value in to_dict(config).items() if name not in _LENGTHS}
