"""The Runs view: the form of a new training above the cards of all runs."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import QPoint, QTimer, Slot
from PySide6.QtWidgets import QWidget

from mistudio.core.config import from_dict
from mistudio.core.configs import HarvestConfig
from mistudio.core.errors import StudioError
from mistudio.core.training_configs import TrainConfig
from mistudio.gui.services import Services
from mistudio.gui.tabs.library.deleting import Deleter
from mistudio.gui.tabs.training.checkpoints_pane import write_sae
from mistudio.gui.tabs.training.continue_dialog import ContinueDialog
from mistudio.gui.tabs.training.live import LiveRuns
from mistudio.gui.tabs.training.new_training import NewTraining
from mistudio.gui.tabs.training.reads import Run
from mistudio.gui.tabs.training.run_list import RunList
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.layout import CenteredColumn
from mistudio.jobs import training_starts
from mistudio.jobs.dependants import of_training
from mistudio.store import trainings
from mistudio.store.tables import JOBS

SETTLE_MS = 50


class RunsView(CenteredColumn):
    """Starts runs and does what their buttons say."""

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._services = services
        self.live = LiveRuns(services.lanes, self)
        self.form = NewTraining(services, self.column)
        self.list = RunList(services, self.live, self.column)
        self._deleter = Deleter(services, "trainings", of_training, self)
        self.box.addWidget(self.form)
        self.box.addWidget(self.list)
        self.box.addStretch(1)
        self.list.acted.connect(self.act)
        self.list.wanted.connect(self._on_wanted)
        self.list.new_wanted.connect(self._on_new)
        self.list.revealed.connect(self._on_revealed)
        self.form.started.connect(self._on_started)

    def select(self, training_id: str) -> None:
        """Show one run."""
        self.list.select(training_id)

    @Slot(object)
    def _on_revealed(self, card: QWidget) -> None:
        """Scroll when the layouts, which settle level by level, know where the card is now."""
        QTimer.singleShot(SETTLE_MS, card, lambda: self._scroll_to(card))

    def _scroll_to(self, card: QWidget) -> None:
        top = card.mapTo(self.column, QPoint(0, 0)).y()
        self.verticalScrollBar().setValue(top - appearance().px(16))

    @Slot(str)
    def _on_started(self, job_id: str) -> None:
        self.form.section.set_open(False)
        self._services.query.ask(lambda db: _first_run(db, job_id), self._on_target)

    @Slot(object)
    def _on_target(self, training_id: str | None) -> None:
        if training_id:
            self.select(training_id)

    @Slot(object, str)
    def act(self, run: Run, action: str) -> None:
        """Do what a button of a run's card says; a refusal becomes a banner."""
        try:
            self._do(run, action)
        except StudioError as error:
            self._services.banner(error.sentence, level="error", details=error.details)
        self.list.refresh_run(run.training.id)

    def _do(self, run: Run, action: str) -> None:
        if action in ("pause", "stop", "save", "cancel") and run.job is not None:
            self._services.lanes.request(run.job.id, action)
            self._announce(run.job.id)
        elif action == "resume":
            self._announce(self._services.studio.resume_training(run.training.id))
        elif action == "continue":
            self._continue(run)
        elif action == "write":
            write_sae(self._services, run)
        elif action == "retry":
            self._retry(run)
        elif action == "delete":
            self._deleter.ask(run.training.id)
        elif run.sae is not None and action == "features":
            self._services.submit("harvest", HarvestConfig(sae=run.sae.id))
            self._services.open_tab("Features", sae=run.sae.id)
        elif run.sae is not None and action == "steer":
            self._services.open_tab("Steering", sae=run.sae.id)

    def _continue(self, run: Run) -> None:
        studio, training = self._services.studio, run.training
        self._services.query.ask(
            lambda _: (training_starts.proposed(studio, training.id), training.name),
            self._on_proposed,
        )

    @Slot(object)
    def _on_proposed(self, found: tuple[TrainConfig, str]) -> None:
        ContinueDialog(self._services, *found, self.window()).show()

    def _retry(self, run: Run) -> None:
        if run.job is None or run.job.kind != "train":  # a sweep's job is not one run's
            config = from_dict(TrainConfig, run.training.config)
            self._announce(self._services.submit("train", config))
        else:
            self._announce(self._services.studio.retry(run.job.id))

    def _announce(self, job_id: str) -> None:
        self._services.publisher.publish("jobs", job_id)
        self._services.publisher.publish("trainings")
        self._services.lanes.nudge()

    @Slot()
    def _on_new(self) -> None:
        """Open the form and go there."""
        self.form.section.set_open(True)
        self.verticalScrollBar().setValue(0)
        self.form.model.setFocus()

    @Slot(object)
    def _on_wanted(self, values: dict[str, object]) -> None:
        self.form.use(values)
        self.ensureWidgetVisible(self.form)
        self.form.model.setFocus()

    def train_on(self, set_id: str) -> None:
        """Fill the form with an activation set."""
        self.form.train_on(set_id)
        self.verticalScrollBar().setValue(0)
        self.form.form.activations.setFocus()

    def pause_resume(self) -> None:
        """Pause the run that works, or resume the one that waits."""
        run = self.list.active()
        if run is not None:
            self.act(run, "pause" if run.training.status == "training" else "resume")


def _first_run(db: Any, job_id: str) -> str:
    """The run that a job works on, the first one of a sweep."""
    runs = trainings.of_job(db, JOBS.get(db, job_id).target_id or "")
    return runs[0].id if runs else ""
