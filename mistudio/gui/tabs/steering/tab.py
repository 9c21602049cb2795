"""The Steering tab: features on the left; prompt, modes, texts, figures, history on the right."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from PySide6.QtGui import QGuiApplication, QShowEvent
from PySide6.QtWidgets import (
    QWidget,
)

from mistudio.core.config import command_line, from_dict, to_dict
from mistudio.core.configs import SteerConfig
from mistudio.core.errors import InvalidInput, StudioError
from mistudio.core.steering_export_configs import ExportSteeringConfig
from mistudio.core.steering_operators import Value
from mistudio.core.steering_settings import variants_of
from mistudio.core.steering_shown import edit_words
from mistudio.gui import ask
from mistudio.gui.reporting import Drained
from mistudio.gui.services import Services
from mistudio.gui.tabs.features.job_line import JobLine
from mistudio.gui.tabs.steering.alternatives import Alternatives
from mistudio.gui.tabs.steering.auto import AutoStrength
from mistudio.gui.tabs.steering.batch import ENDED, MOST_PROMPTS, Batch
from mistudio.gui.tabs.steering.controls import Controls
from mistudio.gui.tabs.steering.export import OutsideExport
from mistudio.gui.tabs.steering.history import History
from mistudio.gui.tabs.steering.modes import BATCH, OPERATORS, ModeRow
from mistudio.gui.tabs.steering.output import Output
from mistudio.gui.tabs.steering.page import REMEMBERED, SteeringPage
from mistudio.gui.tabs.steering.panel import FeaturePanel
from mistudio.gui.tabs.steering.positions import PositionsRow
from mistudio.gui.tabs.steering.presets import Presets
from mistudio.gui.tabs.steering.preview import LivePreview
from mistudio.gui.tabs.steering.prompt import PromptBox
from mistudio.gui.tabs.steering.settings import generation_form
from mistudio.gui.tabs.steering.vectors_dialog import VectorsDialog
from mistudio.gui.widgets.cards import button, label
from mistudio.jobs.steering_presets import Preset
from mistudio.store.records import JobRow, SteeringRunRow
from mistudio.store.tables import JOBS, STEERING_RUNS

RELOADED = ("saes", "feature_sets", "steering_runs", "steering_vectors", "templates", "models")


class SteeringTab(SteeringPage):
    """Submits steering runs and shows the newest, or one of the history."""

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(services, parent)
        self.job_id = ""
        self._stale = True
        self._frame()
        self.panel = FeaturePanel(services, self.split)
        self.prompt_box = PromptBox(services)
        self.prompt = self.prompt_box.text
        self.modes = ModeRow()
        self.alternatives = Alternatives()
        self.positions = PositionsRow()
        self.form = generation_form(services.settings)
        self.generate_button = button(
            "Generate", self.run_primary, variant="primary", icon="play", tip="Ctrl+Return"
        )
        self.stop_button = button("Stop", self.stop, variant="danger", icon="stop")
        self.stop_button.setToolTip("End now and keep the text so far")
        self.copy_button = button(
            "Copy as command",
            self.copy_command,
            icon="command",
            tip="Copy the line that does the same in a terminal",
        )
        self.vectors_button = button("Vectors…", self.open_vectors, variant="ghost", icon="sliders")
        self.vectors_button.setToolTip("Make, import and export directions; @name adds one")
        self.panel.tools.insertWidget(2, self.vectors_button)
        self.auto = AutoStrength(services, self)
        self.auto_button = button("Auto…", self.ask_auto, variant="ghost")
        self.auto_button.setToolTip("Find the strength of all cards together for a wanted KL")
        self.panel.tools.insertWidget(3, self.auto_button)
        self.export_button = button("Export", icon="download")
        self.export_button.setToolTip("Write what is set here as code or as vectors")
        self.exporting = OutsideExport(services, self)
        self.exporting.told.connect(self._on_told)
        self.reason = label("", "muted", wrap=True)
        self.problem = label("", "error", wrap=True)
        self.job = JobLine(services, "running")
        self.output = Output(services)
        self.controls = Controls(services)
        self.batch = Batch(services)
        self.preview = LivePreview(services)
        self.history = History(services)
        self.presets = Presets(services, self.config)
        self._shown_run = ""
        self._recall()
        self._lay_out()
        self._connect()
        self._make_menus()
        self._tell()

    def _make_menus(self) -> None:
        """Entries that write what is set, and what is shown."""
        self.exporting.make_menu(
            self.export_button,
            lambda: ExportSteeringConfig(run="", settings=json.dumps(to_dict(self.config()))),
        )
        self.exporting.make_menu(
            self.output.export_button,
            lambda: ExportSteeringConfig(run=self._shown_run, variant=self.output.chosen()),
            lambda ending: self.history.ask_export(ending, [self._shown_run]),
        )

    def _connect(self) -> None:
        self.panel.changed.connect(self._tell)
        self.prompt_box.changed.connect(self._tell)
        self.modes.changed.connect(self._on_mode)
        self.alternatives.changed.connect(self._tell)
        self.form.changed.connect(self._summarise)
        self.positions.changed.connect(self._tell)
        self.output.chose.connect(self.controls.show_variant)
        self.history.loaded.connect(self.load_run)
        self.history.rerun.connect(self.run_again)
        self.presets.loaded.connect(self.load_preset)
        self.presets.problem.connect(self._complain)
        self.auto.told.connect(self._on_told)
        self.auto.found.connect(self.panel.scale)
        self.batch.opened.connect(self._show_kept)
        self.batch.ended.connect(self._on_batch_ended)
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

    def _on_mode(self) -> None:
        if self.modes.mode() == OPERATORS:
            self.alternatives.begin()
        self._tell()

    def run_primary(self) -> None:
        """Generate, if there is all that it needs."""
        self.problem.hide()
        if not self.generate_button.isEnabled():
            return
        try:
            self.config()
            config = self.form.checked()
            if config is None:
                self._complain(self.form.general_problem.text())
            elif self.modes.mode() == BATCH:
                self._begin_batch(config)
            else:
                self._begin(config)
        except StudioError as error:
            self._complain(error.sentence)

    def _begin_batch(self, config: SteerConfig) -> None:
        prompts = self.prompt_box.prompts()
        if len(prompts) > MOST_PROMPTS:
            raise InvalidInput(f"A batch has at most {MOST_PROMPTS} prompts.")
        self.output.hide()
        self.controls.show_run(None)
        self.batch.start(config, prompts)
        self._reveal(self.batch)
        self._tell()

    def _begin(self, config: SteerConfig) -> None:
        self.job_id = self.services.submit("steer", config)
        self.batch.hide()
        self.output.show()
        self.output.start(list(variants_of(config)))
        self.controls.show_run(None)
        self._reveal(self.output)
        self._ask_job()
        self._tell()

    def run_again(self, run: SteeringRunRow) -> None:
        """Do a run of the history again, exactly as it was."""
        if self._is_busy():
            self._complain("Wait until the run at work has ended.")
            return
        self.load_run(run)
        try:
            self._begin(from_dict(SteerConfig, run.config))
        except StudioError as error:
            self._complain(error.sentence)

    def stop(self) -> None:
        """Keep the text so far; a run that still waits is taken out of the queue."""
        if self.job_id:
            running = self.job_id in self.services.lanes.running()
            self.services.lanes.request(self.job_id, "stop" if running else "cancel")
            self._ask_job()
        self.batch.stop()
        self.stop_button.setEnabled(False)

    def copy_command(self) -> None:
        """Put the command that does the same on the clipboard."""
        try:
            QGuiApplication.clipboard().setText(command_line("steer", self.config()))
        except StudioError as error:
            self._complain(error.sentence)

    def ask_auto(self) -> None:
        """Ask for a KL and look for the strength that gives it."""
        target, given = ask.number(
            self, "Find the strength", "Wanted mean KL in nats per token", 0.1, 0.001, 10.0
        )
        if given:
            self.find_strength(target)

    def find_strength(self, target: float) -> None:
        """Scale the cards so that their KL is `target`; cards at 0 begin at 1."""
        self.panel.begin()
        try:
            self.auto.start(self.config(), target)
        except StudioError as error:
            self._complain(error.sentence)

    def _on_told(self, sentence: str) -> None:
        self._tell()
        if sentence:
            self._say(sentence)

    def _say(self, sentence: str) -> None:
        """What is missing or under way, below the buttons."""
        self.reason.setText(sentence)
        self.reason.setVisible(bool(sentence))

    def open_vectors(self) -> None:
        """Open the window of raw directions."""
        VectorsDialog(self.services, self).show()

    def load_run(self, run: SteeringRunRow) -> None:
        """Show a run of the history, with its features and settings."""
        self.problem.hide()
        self._load(from_dict(SteerConfig, run.config), run.config, run.sae_id or "")
        if not run.sae_id and run.model_id:
            self.panel.source.choose(run.model_id)
        self._show_kept(run)
        if not run.sae_id and run.config.get("sae"):
            self._complain("The SAE of this run was deleted; its texts are shown.")

    def load_preset(self, preset: Preset) -> None:
        """Take over the settings of a preset; a prompt in the field stays if it has none."""
        self.problem.hide()
        sae = preset.saes[0].id if preset.saes else ""
        self._load(preset.config, to_dict(preset.config), sae)

    def _show_kept(self, run: SteeringRunRow) -> None:
        self.output.show()
        self._show_run(run)
        self._reveal(self.output)

    def _show_run(self, run: SteeringRunRow) -> None:
        self._shown_run = run.id
        self.output.show_run(run.prompt, run.outputs, run.metrics)
        self.controls.show_run(run)

    def _reload(self) -> None:
        self._stale = False
        self.panel.reload()
        self.history.reload()
        self.presets.read()

    def _complain(self, sentence: str) -> None:
        self.problem.setText(sentence)
        self.problem.setVisible(bool(sentence))

    def _is_busy(self) -> bool:
        return bool(self.job_id or self.batch.jobs())

    def _problem(self) -> str:
        """Why nothing can be generated, "" if it can."""
        found = self.panel.problem() or self.positions.sentence()
        if found:
            return found
        if not self.prompt_box.prompts():
            return "Write a prompt."
        if self.modes.mode() == "sweep":
            chosen = self.panel.edits(self._chosen())
            if not any(not e.is_neutral and e.rule.value is not Value.NONE for e in chosen):
                return "Set a strength other than 0: a sweep multiplies it."
        return self.alternatives.problem() if self.modes.mode() == OPERATORS else ""

    def _tell(self) -> None:
        """Say what is missing, and enable what can be done."""
        busy, reason = self._is_busy(), self._problem()
        self._say("" if busy else reason)
        self.generate_button.setEnabled(not busy and not reason)
        self.copy_button.setEnabled(not reason)
        self.export_button.setEnabled(not reason)
        self.stop_button.setEnabled(busy)
        on = [(c, edit) for c in self.panel.cards if c.is_on() and (edit := c.edit())]
        titles = [edit_words(replace(edit, condition=None)) for _, edit in on]
        self.modes.set_cards(titles)
        self.alternatives.set_cards([c.facts for c, _ in on], [edit for _, edit in on], titles)
        self.alternatives.setVisible(self.modes.mode() == OPERATORS)
        self.prompt_box.set_lines(self.modes.mode() == BATCH)
        self.prompt_box.set_model(self.panel.model_id())
        rules = {
            "positions": self.positions.positions(),
            "norm": self.positions.norm_rule(),
            "mode": self.modes.mode(),
            "strengths": self.modes.written_strengths(),
            "alternatives": [[s.edit.written(), s.on] for s in self.alternatives.states()],
            "chat": self.prompt_box.chat.isChecked(),
        }
        self._summarise()
        self._follow(busy, reason)
        if rules != self.services.settings.recall(REMEMBERED):
            self.services.settings.remember(REMEMBERED, rules)

    def _follow(self, busy: bool, reason: str) -> None:
        """Let the preview follow what is edited."""
        self.preview.hold(busy)
        self.auto_button.setEnabled(not busy and not reason and not self.auto.job_id)
        try:
            self.preview.follow(None if reason else self.config(), reason)
        except StudioError as error:
            self.preview.follow(None, error.sentence)

    def _ask_job(self) -> None:
        wanted = self.job_id

        def read(db: Any) -> tuple[JobRow | None, SteeringRunRow | None]:
            job = JOBS.find(db, wanted)
            kept = (job.result or {}).get("run") if job else None
            return job, STEERING_RUNS.find(db, str(kept)) if kept else None

        self.services.query.ask(read, self._on_job, key="job")

    def _on_job(self, found: tuple[JobRow | None, SteeringRunRow | None]) -> None:
        job, run = found
        ended = job is None or job.status in ENDED
        self.job.show_job(None if ended else job)
        if job is not None and ended and job.id == self.job_id:
            self._show_end(job, run)

    def _show_end(self, job: JobRow, run: SteeringRunRow | None) -> None:
        self.job_id = ""
        if run is not None:
            self._show_run(run)
        elif job.status == "completed" and job.result:
            self.output.show_run(self.prompt_box.prompt(), job.result, job.result)
        elif job.status == "failed":
            self._complain(job.error_message or "The run failed.")
        self.history.reload()
        self._tell()

    def _on_batch_ended(self) -> None:
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
        elif self.batch.owns(job_id):
            self.batch.ask()

    def _on_changed(self, kind: str, object_id: str) -> None:
        if kind == "jobs":
            if self.job_id and object_id in ("", self.job_id):
                self._ask_job()
            if object_id == "" or self.batch.owns(object_id):
                self.batch.ask()
        elif kind in RELOADED:
            self.panel.search.refresh()
            self._stale = True
            if self.isVisible():
                self._reload()
