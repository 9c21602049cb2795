"""The card of one run: state, figures, progress, actions, and the panes below."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PySide6.QtCore import Signal
from PySide6.QtWidgets import QCheckBox, QPushButton, QVBoxLayout, QWidget

from mistudio.core.config import from_dict
from mistudio.core.held_out_looks import figures_of, told_of
from mistudio.core.training_configs import TrainConfig
from mistudio.core.units import (
    EM_DASH,
    format_bytes,
    format_count,
    format_decimal,
    format_duration,
    format_percent,
)
from mistudio.gui.reporting import Drained, Progress
from mistudio.gui.services import Services
from mistudio.gui.tabs.training.fields import kind_text
from mistudio.gui.tabs.training.panes import PANES, make_pane, pane_title
from mistudio.gui.tabs.training.reads import Run, local_time
from mistudio.gui.tabs.training.series import MANY_DEAD, RECENT, is_rising
from mistudio.gui.tabs.training.states import ACTIONS, actions_of, words_of
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import Card, MetricTile, button, label, row
from mistudio.gui.widgets.pill import Pill
from mistudio.gui.widgets.progress import ProgressBar

BUSY = 95  # percent of the GPU
WORKING = ("initializing", "training", "stopping")


class RunCard(Card):
    """Shows a `Run` and changes in place. `acted(name)` is the action of a pressed button."""

    acted = Signal(str)
    opened = Signal()  # a pane was opened or closed
    asked = Signal()  # the user opened a pane

    def __init__(self, run: Run, services: Services, parent: QWidget | None = None) -> None:
        super().__init__("list", parent, padding=16)
        self._services = services
        self.run = run
        self.live: Mapping[str, Any] | None = None  # the newest metric row of this session
        self._looked: Mapping[str, Any] | None = None  # the newest figures of this session
        self._progress: Progress | None = None
        self.panes: dict[str, QWidget] = {}
        self.tick = QCheckBox()
        self.tick.setAccessibleName("Tick this run")
        self.tick.hide()
        self.title = label("", "card")
        self.subtitle = label("", "small")
        self.pill = Pill(run.training.status)
        self.sweep = Pill("sweep", "sweep")
        self.together = label("", "small")
        self.together.setToolTip(
            "The newest figures of all runs of the sweep: loss and L0 averaged, dead latents summed"
        )
        self.tiles = {
            "loss": MetricTile("Loss", color="emerald"),
            "l0": MetricTile("L0", color="blue"),
            "dead": MetricTile("Dead", color="red"),
            "ev": MetricTile("Explained variance", color="text"),
            "gpu": MetricTile("GPU", color="purple"),
        }
        self.tiles["gpu"].hide()
        self._recent: deque[Mapping[str, Any]] = deque(maxlen=2 * RECENT)
        self.bar = ProgressBar("emerald")
        self.line = label("", "muted")
        self.failure = label("", "error", wrap=True, selectable=True)
        self.failure.hide()
        self.buttons = {name: self._action_button(name) for name in ACTIONS}
        self.toggles = {name: self._toggle(name) for name in PANES}
        self._build()
        self.show_run(run)

    def _action_button(self, name: str) -> QPushButton:
        action = ACTIONS[name]
        made = button(action.text, variant=action.variant, icon=action.icon, tip=action.tip)
        made.clicked.connect(lambda *_: self.acted.emit(name))
        return made

    def _toggle(self, name: str) -> QPushButton:
        made = button(PANES[name].title, variant="toggle", tip=PANES[name].tip)
        made.toggled.connect(lambda on: self.open_pane(name, on))
        made.clicked.connect(lambda on: self.asked.emit() if on else None)
        return made

    def _build(self) -> None:
        heading = QVBoxLayout()
        heading.setSpacing(appearance().px(2))
        heading.addWidget(self.title)
        heading.addWidget(self.subtitle)
        top = row(spacing=16)
        top.addWidget(self.tick)
        top.addLayout(heading, 1)
        top.addWidget(self.sweep)
        top.addWidget(self.pill)
        self.box.addLayout(top)
        self.box.addLayout(row(*self.tiles.values(), spacing=12))
        self.box.addWidget(self.together)
        self.box.addWidget(self.bar)
        self.box.addWidget(self.failure)
        self.box.addLayout(row(self.line, None, *self.buttons.values()))
        self.box.addLayout(row(*self.toggles.values(), None))
        self._below = QVBoxLayout()
        self._below.setSpacing(appearance().px(12))
        self.box.addLayout(self._below)

    def show_run(self, run: Run) -> None:
        """Show newer rows of the same run; open panes stay open."""
        self.run = run
        training = run.training
        self.title.setText(" · ".join(part for part in (run.model, run.dataset) if part))
        self.subtitle.setText(_subtitle(run))
        self.pill.set_state(training.status)
        self.sweep.set_state("sweep", f"sweep · {run.place:,} of {run.members:,}")
        self.sweep.setVisible(run.members > 1)
        self.together.setText(_together(run))
        self.together.setVisible(bool(self.together.text()))
        self.failure.setText(training.error_message or "")
        self.failure.setVisible(training.status == "failed" and bool(training.error_message))
        offered = actions_of(run)
        can_go = "delete" in offered
        self.tick.setEnabled(can_go)
        self.tick.setChecked(self.tick.isChecked() and can_go)
        self.tick.setToolTip("Choose this run" if can_go else "Only a run that has ended can go")
        for name, found in self.buttons.items():
            found.setVisible(name in offered)
            text, tip = words_of(name, run)
            found.setText(text)
            found.setToolTip(tip)
        for name, found in self.toggles.items():
            found.setText(pane_title(name, run))
        if training.status not in WORKING:
            self._progress = None
        self._show_figures()
        for pane in self.panes.values():
            pane.show_run(run)  # type: ignore[attr-defined]

    def offer_tick(self, on: bool) -> None:
        """Show or hide the tick that chooses this run among several; hidden it is off."""
        self.tick.setVisible(on)
        if not on:
            self.tick.setChecked(False)

    def take(self, rows: Sequence[Mapping[str, Any]], drained: Drained) -> None:
        """Take all that the running job told since the last time."""
        if drained.progress is not None:
            self._progress = drained.progress
        if drained.notes and (log := self.panes.get("log")) is not None:
            log.add(drained.notes)  # type: ignore[attr-defined]
        if told := [row for row in rows if "heldout_ev" not in row]:
            self.live = told[-1]
            self._recent.extend(told)
        if len(told) < len(rows):
            self._looked = next(row for row in reversed(rows) if "heldout_ev" in row)
        if rows and (metrics := self.panes.get("metrics")) is not None:
            metrics.add(rows)  # type: ignore[attr-defined]
        self._show_figures()

    def open_panes(self) -> list[str]:
        """Names of the panes that are open."""
        return [name for name, toggle in self.toggles.items() if toggle.isChecked()]

    def open_pane(self, name: str, on: bool = True) -> None:
        """Open or close a pane; it is made when first opened."""
        self.toggles[name].setChecked(on)
        if on and name not in self.panes:
            self.panes[name] = make_pane(name, self.run, self._services)
            self._below.addWidget(self.panes[name])
        if name in self.panes:
            self.panes[name].setVisible(on)
        self.opened.emit()

    def _show_figures(self) -> None:
        training, live = self.run.training, self.live or {}
        dead = live.get("dead", training.latest_dead)
        width = int(training.config.get("width") or 0)
        share = format_percent(dead / width) if dead is not None and width else ""
        self.tiles["loss"].set_value(format_decimal(live.get("loss", training.latest_loss)))
        self.tiles["l0"].set_value(format_decimal(live.get("l0", training.latest_l0), 1))
        self.tiles["dead"].set_value(f"{format_count(dead)} · {share}" if share else EM_DASH)
        held_out = figures_of(self._looked or self.run.looked or {})
        self.tiles["ev"].set_value(
            format_decimal(live.get("explained_variance", training.latest_ev), 4),
            f"held out {format_decimal(held_out['ev'], 4)}" if "ev" in held_out else "",
        )
        self.tiles["ev"].setToolTip(told_of(held_out))
        self._warn(dead / width if dead is not None and width else 0.0)
        self._show_progress(training.status)

    def _warn(self, dead_share: float) -> None:
        """Colours that ask for attention, and the GPU's load while it is told."""
        losses = np.array([row.get("loss") for row in self._recent], dtype=np.float64)
        working = self.run.training.status in WORKING
        self.tiles["loss"].set_color("yellow" if working and is_rising(losses) else "emerald")
        self.tiles["dead"].set_color("red" if dead_share > MANY_DEAD / 100 else "text")
        load = (self.live or {}).get("gpu_percent") if working else None
        self.tiles["gpu"].setVisible(load is not None)
        if load is not None:
            self.tiles["gpu"].set_value(f"{load:.0f} %")
            self.tiles["gpu"].set_color("red" if load > BUSY else "purple")

    def _show_progress(self, status: str) -> None:
        training, live, told = self.run.training, self.live or {}, self._progress
        done = status == "completed"
        self.bar.setVisible(not done)
        self.bar.set_color("yellow" if status in ("paused", "interrupted") else "emerald")
        percent = 100.0 * told.fraction if told else training.progress
        if percent is None and training.total_steps:
            percent = 100.0 * training.current_step / training.total_steps
        self.bar.set_value(percent)
        step = max(int(live.get("step") or 0), training.current_step)
        parts = [f"Step {format_count(step)} / {format_count(training.total_steps)}"]
        if status in WORKING and told:
            if told.rate:
                parts.append(told.rate)
            left = self._left() or told.eta_s
            parts.append(f"{format_duration(left)} left" if left else told.phase)
            if memory := live.get("memory_bytes"):
                parts.append(f"{format_bytes(int(memory))} memory")
        elif done:
            parts.append(f"{format_count(training.tokens_seen)} tokens")
        self.line.setText(" · ".join(parts))

    def _left(self) -> float | None:
        """Seconds left at the pace of the last 100 steps; None before two rows are known."""
        rows = [row for row in self._recent if row.get("train_seconds") is not None][-11:]
        total = self.run.training.total_steps
        if len(rows) < 2 or not total:
            return None
        steps = rows[-1]["step"] - rows[0]["step"]
        seconds = rows[-1]["train_seconds"] - rows[0]["train_seconds"]
        return max(0, total - rows[-1]["step"]) * seconds / steps if steps > 0 else None


def _together(run: Run) -> str:
    """The figures of a sweep in one line; nothing before there are any."""
    found = run.sweep
    if found is None or found.loss is None:
        return ""
    parts = [
        f"All {run.members:,} runs: mean loss {format_decimal(found.loss)}",
        f"mean L0 {format_decimal(found.l0, 1)}",
    ]
    if found.dead is not None:
        share = format_percent(found.dead / found.latents) if found.latents else EM_DASH
        parts.append(f"{format_count(found.dead)} dead in all · {share}")
    return " · ".join(parts)


def _subtitle(run: Run) -> str:
    training = run.training
    config = from_dict(TrainConfig, training.config)
    kind = kind_text(training.architecture, training.encoder_type)
    place = training.hook if training.encoder_type == "sae" else config.place
    width = format_count(training.config.get("width"))
    parts = [kind, f"L{training.layer}.{place}", f"{width} latents, {config.aim}"]
    parts.append(f"started {local_time(training.started_at or training.created_at)}")
    if run.members > 1:
        parts.append(training.name)  # which tells the settings that the sweep varies
    return " · ".join(parts)
