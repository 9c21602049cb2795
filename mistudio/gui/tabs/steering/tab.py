"""The Steering tab: features on the left, prompt, texts, metrics and history on the right."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication, QShowEvent
from PySide6.QtWidgets import QHBoxLayout, QPlainTextEdit, QSplitter, QVBoxLayout, QWidget

from mistudio.core.config import command_line, from_dict
from mistudio.core.configs import SteerConfig
from mistudio.core.errors import StudioError
from mistudio.core.steering_spec import parse_edits
from mistudio.gui.reporting import Drained
from mistudio.gui.services import Services, Tab
from mistudio.gui.tabs.features.job_line import JobLine
from mistudio.gui.tabs.features.scrolling import scrolling
from mistudio.gui.tabs.steering.card import CardState
from mistudio.gui.tabs.steering.history import History
from mistudio.gui.tabs.steering.output import Output
from mistudio.gui.tabs.steering.panel import FeaturePanel
from mistudio.gui.tabs.steering.vectors_dialog import VectorsDialog
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label, row
from mistudio.gui.widgets.config_form import ConfigForm
from mistudio.gui.widgets.layout import Collapsible
from mistudio.store.records import JobRow, SteeringRunRow
from mistudio.store.tables import JOBS

SETTINGS = (
    "temperature",
    "max_tokens",
    "top_p",
    "top_k",
    "repetition_penalty",
    "seed",
    "positions",
    "time_limit",
)
PROMPT = "steering.prompt"


class SteeringTab(Tab):
    """Submits steering runs and shows the newest, or one of the history."""

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(services, parent)
        self.job_id = ""
        self._stale = True
        self.panel = FeaturePanel(services)
        self.prompt = QPlainTextEdit(str(services.settings.recall(PROMPT, "")))
        self.prompt.setPlaceholderText("The text that the model continues")
        self.prompt.setAccessibleName("Prompt")
        self.prompt.setTabChangesFocus(True)
        self.form: ConfigForm[SteerConfig] = ConfigForm(
            SteerConfig, SETTINGS, columns=4, settings=services.settings, remember="steering.form"
        )
        self.generate_button = button(
            "Generate", self.run_primary, variant="primary", icon="play", tip="Ctrl+Return"
        )
        self.stop_button = button("Stop", self.stop, variant="danger", icon="stop")
        self.copy_button = button("Copy as command", self.copy_command, icon="command")
        self.vectors_button = button("Vectors…", self.open_vectors, icon="sliders")
        self.reason = label("", "muted", wrap=True)
        self.problem = label("", "error", wrap=True)
        self.job = JobLine(services, "running")
        self.output = Output()
        self.history = History(services)
        self._lay_out()
        self._connect()
        self._tell()

    def _lay_out(self) -> None:
        px = appearance().px
        lines = self.prompt.fontMetrics().lineSpacing()
        self.prompt.setFixedHeight(4 * lines + px(24))
        right = QWidget()
        box = QVBoxLayout(right)
        box.setContentsMargins(px(12), 0, 0, 0)
        box.setSpacing(px(8))
        box.addWidget(self.prompt)
        actions = row(
            self.generate_button,
            self.stop_button,
            self.copy_button,
            self.vectors_button,
            self.reason,
        )
        actions.setStretch(4, 1)
        box.addLayout(actions)
        box.addWidget(self.problem)
        box.addWidget(self.job)
        self.problem.hide()
        settings = Collapsible("Generation settings")
        settings.box.addWidget(self.form)
        self._below = scrolling(settings, self.output, self.history).area
        # beside an open jobs panel the results may be wider than what is left
        self._below.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAsNeeded)
        box.addWidget(self._below, 1)
        self.panel.setMinimumWidth(px(430))
        split = QSplitter(Qt.Orientation.Horizontal)
        split.addWidget(self.panel)
        split.addWidget(right)
        split.setStretchFactor(1, 1)
        split.setChildrenCollapsible(False)
        split.setMaximumWidth(max(1280, px(1280)))
        outer = QHBoxLayout(self)
        outer.setContentsMargins(px(16), px(12), px(16), px(8))
        outer.addWidget(split)

    def _connect(self) -> None:
        self.panel.changed.connect(self._tell)
        self.prompt.textChanged.connect(self._on_prompt)
        self.history.loaded.connect(self.load_run)
        self.services.lanes.started.connect(self._on_started)
        self.services.lanes.drained.connect(self._on_drained)
        self.services.lanes.finished.connect(self._on_finished)
        self.services.publisher.changed.connect(self._on_changed)

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        if self._stale:
            self._reload()

    def select(self, **selection: Any) -> None:
        """`sae` with `feature`: add the feature to the cards."""
        if "sae" in selection and "feature" in selection:
            self.panel.add(str(selection["sae"]), int(selection["feature"]))

    def focus_search(self) -> None:
        self.panel.search.field.setFocus()

    def config(self) -> SteerConfig:
        """The run as edited; raises `InvalidInput` for a setting that is no number."""
        sae = self.panel.source.sae()
        self.form.set_values(
            {
                "sae": sae.id if sae else "",
                "feature": self.panel.written(),
                "unit": self.panel.unit(),
                "prompt": self.prompt.toPlainText(),
            }
        )
        return self.form.values()

    def run_primary(self) -> None:
        """Generate, if there is all that it needs."""
        self.problem.hide()
        if not self.generate_button.isEnabled():
            return
        try:
            self.config()
            config = self.form.checked()
            if config is not None:
                self._began(self.services.submit("steer", config))
        except StudioError as error:
            self._complain(error.sentence)

    def _began(self, job_id: str) -> None:
        self.job_id = job_id
        self.output.start()
        self._below.ensureWidgetVisible(self.output)
        self._ask_job()
        self._tell()

    def stop(self) -> None:
        """Keep the text so far; a run that still waits is taken out of the queue."""
        running = self.job_id in self.services.lanes.running()
        self.services.lanes.request(self.job_id, "stop" if running else "cancel")
        self.stop_button.setEnabled(False)
        self._ask_job()

    def copy_command(self) -> None:
        """Put the command that does the same on the clipboard."""
        try:
            QGuiApplication.clipboard().setText(command_line("steer", self.config()))
        except StudioError as error:
            self._complain(error.sentence)

    def open_vectors(self) -> None:
        """Open the window of raw directions."""
        VectorsDialog(self.services, self).show()

    def load_run(self, run: SteeringRunRow) -> None:
        """Show a run of the history, with its features and settings."""
        config = from_dict(SteerConfig, run.config)
        edits = parse_edits(config.feature).edits
        states = [CardState(edit.feature, edit.value, edit.operator) for edit in edits]
        if run.sae_id:
            self.panel.load(run.sae_id, states, config.unit)
        self.prompt.setPlainText(run.prompt)
        self.form.set_values(config)
        self.output.show_run(run.outputs or {}, run.metrics or {})
        if not run.sae_id:
            self._complain("The SAE of this run was deleted; its texts are shown.")

    def _reload(self) -> None:
        self._stale = False
        self.panel.source.reload()
        self.history.reload()

    def _complain(self, sentence: str) -> None:
        self.problem.setText(sentence)
        self.problem.setVisible(bool(sentence))

    def _tell(self) -> None:
        """Say what is missing, and enable what can be done."""
        busy = bool(self.job_id)
        reason = self.panel.problem()
        if not reason and not self.prompt.toPlainText().strip():
            reason = "Write a prompt."
        self.reason.setText("" if busy else reason)
        self.generate_button.setEnabled(not busy and not reason)
        self.copy_button.setEnabled(not reason)
        self.stop_button.setEnabled(busy)

    def _on_prompt(self) -> None:
        self.services.settings.remember(PROMPT, self.prompt.toPlainText())
        self._tell()

    def _ask_job(self) -> None:
        wanted = self.job_id
        self.services.query.ask(lambda db: JOBS.find(db, wanted), self._on_job, key="job")

    def _on_job(self, job: JobRow | None) -> None:
        ended = job is None or job.status in ("completed", "failed", "cancelled", "interrupted")
        self.job.show_job(None if ended else job)
        if job is not None and ended and job.id == self.job_id:
            self._show_end(job)

    def _show_end(self, job: JobRow) -> None:
        self.job_id = ""
        if job.status == "completed" and job.result:
            self.output.show_run(job.result, job.result)
        elif job.status == "failed":
            self._complain(job.error_message or "The run failed.")
        self.history.reload()
        self._tell()

    def _on_started(self, job_id: str) -> None:
        if job_id == self.job_id:
            self._ask_job()

    def _on_drained(self, job_id: str, told: Drained) -> None:
        if job_id == self.job_id:
            for name, text in dict(told.partials).items():
                self.output.stream(name, text)

    def _on_finished(self, job_id: str, state: str) -> None:
        if job_id == self.job_id:
            self._ask_job()

    def _on_changed(self, kind: str, object_id: str) -> None:
        if kind == "jobs" and self.job_id and object_id in ("", self.job_id):
            self._ask_job()
        elif kind in ("saes", "feature_sets", "steering_runs"):
            self._stale = True
            if self.isVisible():
                self._reload()
