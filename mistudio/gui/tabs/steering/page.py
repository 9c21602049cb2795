"""What the Steering tab is made of and how it stands: settings of a run as they are edited."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import (
    QFrame,
    QLabel,
    QPlainTextEdit,
    QPushButton,
    QScrollArea,
    QSplitter,
    QVBoxLayout,
    QWidget,
)

from mistudio.core.configs import SteerConfig
from mistudio.core.steering_shown import edits_of
from mistudio.core.steering_spec import Spec
from mistudio.core.steering_words import parse_edit
from mistudio.gui.services import Tab
from mistudio.gui.tabs.features.job_line import JobLine
from mistudio.gui.tabs.features.scrolling import scrolling
from mistudio.gui.tabs.steering.alternatives import Alternatives
from mistudio.gui.tabs.steering.batch import Batch
from mistudio.gui.tabs.steering.card_state import CardState, with_sae
from mistudio.gui.tabs.steering.controls import Controls
from mistudio.gui.tabs.steering.history import History
from mistudio.gui.tabs.steering.modes import BATCH, OPERATORS, ModeRow
from mistudio.gui.tabs.steering.output import Output
from mistudio.gui.tabs.steering.panel import FeaturePanel, states_of, written_edits
from mistudio.gui.tabs.steering.positions import PositionsRow
from mistudio.gui.tabs.steering.presets import Presets
from mistudio.gui.tabs.steering.preview import LivePreview
from mistudio.gui.tabs.steering.prompt import PromptBox
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import row
from mistudio.gui.widgets.config_form import ConfigForm
from mistudio.gui.widgets.elided import Elided
from mistudio.gui.widgets.layout import Collapsible

NARROW = 1180  # px below which the two sides are stacked, at a 16-px font
REMEMBERED = "steering.rules"


class SteeringPage(Tab):
    """Lays out what its subclass makes, reads a run's settings from it and shows them in it."""

    panel: FeaturePanel
    prompt_box: PromptBox
    prompt: QPlainTextEdit
    modes: ModeRow
    alternatives: Alternatives
    positions: PositionsRow
    form: ConfigForm[SteerConfig]
    generate_button: QPushButton
    stop_button: QPushButton
    copy_button: QPushButton
    export_button: QPushButton
    reason: QLabel
    problem: QLabel
    job: JobLine
    output: Output
    controls: Controls
    batch: Batch
    preview: LivePreview
    history: History
    presets: Presets

    def _frame(self) -> None:
        """What holds the rest, first: with a later parent Qt styles all that is inside anew."""
        self.area = QScrollArea(self)
        self._page = QWidget(self.area.viewport())
        self.split = QSplitter(Qt.Orientation.Horizontal, self._page)

    def _recall(self) -> None:
        stored = self.services.settings.recall(REMEMBERED)
        kept = stored if isinstance(stored, dict) else {}
        self.positions.set_values(str(kept.get("positions", "all")), str(kept.get("norm", "")))
        self.modes.set_mode(str(kept.get("mode", "blended")), str(kept.get("strengths", "")))
        self.alternatives.load(states_of({"cards": kept.get("alternatives") or ()}))
        self.prompt_box.chat.setChecked(bool(kept.get("chat")))

    def _lay_out(self) -> None:
        px = appearance().px
        right = QWidget(self.split)
        box = self._right_box = QVBoxLayout(right)
        box.setContentsMargins(px(12), 0, 0, 0)
        box.setSpacing(px(8))
        box.addWidget(self.prompt_box)
        box.addWidget(self.modes)
        buttons = self.generate_button, self.stop_button, self.copy_button, self.export_button
        box.addLayout(row(*buttons, None))
        box.addWidget(self.reason)
        box.addWidget(self.problem)
        box.addWidget(self.job)
        self.problem.hide()
        self.settings = Collapsible("Positions and generation")
        self.settings.heading.setToolTip("Which tokens are steered, and how text is drawn")
        self.summary = Elided("muted")
        head = self.settings.layout()
        assert isinstance(head, QVBoxLayout)
        head.removeWidget(self.settings.heading)
        line = row(self.settings.heading, self.summary)
        line.setStretch(1, 1)
        head.insertLayout(0, line)
        self.settings.box.addWidget(self.positions)
        self.settings.box.addWidget(self.form)
        above = (self.alternatives, self.settings, self.preview)
        below = (self.batch, self.output, self.controls, self.history)
        self._below = scrolling(*above, *below, parent=right).area
        # beside an open jobs panel the results may be wider than what is left
        self._below.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAsNeeded)
        box.addWidget(self._below, 1)
        self.panel.setMinimumWidth(px(440))
        self._right = right
        self.split.addWidget(self.panel)
        self.split.addWidget(right)
        self.split.setStretchFactor(1, 1)
        self.split.setChildrenCollapsible(False)
        page = self._page
        page.setObjectName("column")
        page.setMaximumWidth(max(1280, px(1280)))
        inner = QVBoxLayout(page)
        inner.setContentsMargins(0, 0, 0, 0)
        inner.setSpacing(px(8))
        inner.addWidget(self.presets)
        inner.addWidget(self.split, 1)
        self.area.setWidgetResizable(True)
        self.area.setFrameShape(QFrame.Shape.NoFrame)
        self.area.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        self.area.setWidget(page)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(px(16), px(8), px(16), px(8))
        outer.addWidget(self.area)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        px = appearance().px
        narrow = self.width() < px(NARROW)
        way = Qt.Orientation.Vertical if narrow else Qt.Orientation.Horizontal
        if self.split.orientation() != way:
            self.split.setOrientation(way)
            self.panel.setMinimumHeight(px(420) if narrow else 0)
            self._right.setMinimumHeight(px(860) if narrow else 0)
            self._right_box.setContentsMargins(0 if narrow else px(12), 0, 0, 0)
            self.split.setSizes([px(420), px(860)] if narrow else [px(430), px(800)])

    def config(self) -> SteerConfig:
        """The run as edited; raises `InvalidInput` for a setting that is no number."""
        mode = self.modes.mode()
        prompts = self.prompt_box.prompts()
        one = mode == BATCH
        self.form.set_values(
            {
                **self.panel.settings(self._chosen()),
                "prompt": (prompts[0] if prompts else "") if one else self.prompt_box.prompt(),
                "positions": self.positions.positions(),
                "norm": self.positions.norm_rule(),
                "mode": "blended" if one else mode,
                "strengths": self.modes.written_strengths(),
                "alternative": self._alternatives(),
                "chat": self.prompt_box.is_chat(),
            }
        )
        return self.form.values()

    def _alternatives(self) -> tuple[str, ...]:
        """What stands beside the edit of a card, in short."""
        if self.modes.mode() != OPERATORS:
            return ()
        return written_edits(self.alternatives.edits(), self.panel.main_sae())

    def _chosen(self) -> int:
        """The card that is swept alone, −1 for all that are on."""
        return self.modes.swept() if self.modes.mode() == "sweep" else -1

    def _load(self, config: SteerConfig, kept: dict[str, Any], sae_id: str) -> None:
        states = [CardState(with_sae(edit, sae_id, config.unit)) for edit in edits_of(kept)]
        self.panel.load(states)
        if sae_id:
            self.panel.source.choose(sae_id)
        positions, norm = config.positions, config.norm
        if kept.get("specification"):
            spec = Spec.from_json(kept["specification"])
            positions = spec.positions.written()
            norm = f"cap:{spec.cap:g}" if spec.norm == "cap" else spec.norm
        self.positions.set_values(positions, norm)
        beside = [parse_edit(text) for text in config.alternative]
        self.alternatives.load([CardState(with_sae(e, sae_id, config.unit)) for e in beside])
        self.modes.set_mode(config.mode, config.strengths)
        self.prompt_box.chat.setChecked(config.chat)
        if config.prompt:
            self.prompt.setPlainText(config.prompt)
        self.form.set_values(config)

    def _reveal(self, widget: QWidget) -> None:
        """Scroll to where the results are."""
        self.area.ensureWidgetVisible(self.generate_button)
        if self.split.orientation() == Qt.Orientation.Vertical:
            self.area.verticalScrollBar().setValue(self.split.y() + self._right.y())
        page = self._below.widget()
        if page is not None and (inner := page.layout()) is not None:
            inner.activate()  # what was shown just now has its place
        self._below.verticalScrollBar().setValue(widget.y())

    def _summarise(self) -> None:
        """Say the settings in the heading of their section, so that it may stay closed."""
        values = {name: field.editor.value() for name, field in self.form.fields.items()}
        samples = values["samples"]
        parts = [
            self.positions.words(),
            f"T {values['temperature']}",
            f"{values['max_tokens']} tokens",
            f"seed {values['seed']}",
            *([f"{samples} samples"] if samples != "1" else []),
        ]
        self.summary.set_text(" · ".join(parts))
