"""Ablating every live feature: what it takes, its progress, and what came of it."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Signal, Slot
from PySide6.QtWidgets import QWidget

from mistudio.core.ablation_figures import batch_lines
from mistudio.core.analysis_configs import AblateConfig
from mistudio.gui.dialog import Dialog
from mistudio.gui.services import Services
from mistudio.gui.tabs.library.one_job import OneJob
from mistudio.gui.widgets.cards import button, label, row
from mistudio.gui.widgets.config_form import ConfigForm
from mistudio.gui.widgets.progress import ProgressBar
from mistudio.jobs import ablation_plan
from mistudio.jobs.ablation_plan import AblationPlan
from mistudio.store.records import SaeRow

FIELDS = ("mode", "mean_of", "windows", "window_tokens", "controls", "seed", "anew")
ABOUT = (
    "Each feature is taken out on its strongest windows and on random ones, and placed among "
    "random features of like density and strength. Their ΔCE becomes a column of the table. "
    "What is measured is kept, so that a run that ended early goes on where it was."
)


class AblateDialog(Dialog):
    """Settings, plan and progress; `measured` comes when the table has new values."""

    measured = Signal()

    def __init__(self, services: Services, sae: SaeRow, parent: QWidget | None = None) -> None:
        super().__init__("Ablate all features", parent, width=800)
        self._services, self._sae = services, sae
        self.form: ConfigForm[AblateConfig] = ConfigForm(
            AblateConfig,
            FIELDS,
            settings=services.settings,
            remember="features.ablate_all",
            command="features ablate",
            positional=("sae",),
        )
        self.form.set_values({"sae": sae.id, "feature": -1, "anew": False})
        self.plan = label("", "muted", wrap=True)
        self.start_button = button(
            "Measure",
            self.start,
            variant="primary",
            icon="play",
            tip="Queue the measurement; the table gets its columns when it is done",
        )
        self.bar = ProgressBar("purple")
        self.job = OneJob(
            services,
            self.start_button,
            self,
            failure="The ablation failed.",
            cancel_tip="End it; features measured so far are kept",
            bar=self.bar,
        )
        self.job.done.connect(self._on_done)
        services.lanes.finished.connect(self._on_finished)
        self.summary = label("", wrap=True, selectable=True)
        for part in (label(sae.name, "card", wrap=True), label(ABOUT, "muted", wrap=True)):
            self.box.addWidget(part)
        self.box.addWidget(self.form)
        self.box.addWidget(self.plan)
        self.box.addLayout(row(self.start_button, self.job.cancel_button, self.job.state, None))
        for part in (self.bar, self.job.problem, self.summary):
            self.box.addWidget(part)
        self.box.addStretch(1)
        self.add_close()
        self.form.changed.connect(self._ask_plan)
        self._ask_plan()

    def start(self) -> None:
        """Queue the job, or show what is wrong."""
        config = self.form.checked()
        if config is not None:
            self.summary.setText("")
            self.job.submit("ablate", config)

    @Slot()
    def _ask_plan(self) -> None:
        if not self.form.is_valid():
            self.plan.setText("")
            return
        config, studio = self.form.values(), self._services.studio
        self._services.query.ask(
            lambda _db: ablation_plan.plan(studio, config),
            self._on_plan,
            key="ablation_plan",
            on_error=self._on_error,
        )

    @Slot(object)
    def _on_plan(self, found: AblationPlan) -> None:
        self.plan.setText(found.sentence)
        self.start_button.setText("Go on" if 0 < found.missing < found.live else "Measure")

    def _on_error(self, sentence: str, details: str) -> None:
        self.job.say(sentence)
        self.job.problem.setToolTip(details)

    @Slot(str, str)
    def _on_finished(self, job_id: str, _status: str) -> None:
        if job_id == self.job.id:
            self._ask_plan()

    @Slot(object)
    def _on_done(self, found: dict[str, Any]) -> None:
        self.summary.setText("\n".join(batch_lines(found)))
        self.measured.emit()
