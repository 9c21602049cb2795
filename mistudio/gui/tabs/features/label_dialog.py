"""Labelling features: by rules or by a model, what it takes, and how the labels there are score."""

from __future__ import annotations

from typing import Any

import numpy as np
from PySide6.QtCore import Signal, Slot
from PySide6.QtWidgets import QWidget

from mistudio.core.label_configs import LabelConfig
from mistudio.core.label_methods import RULE_SCORE
from mistudio.core.units import format_count, format_percent
from mistudio.gui.dialog import Dialog
from mistudio.gui.services import Services
from mistudio.gui.tabs.library.one_job import OneJob
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label, row
from mistudio.gui.widgets.config_form import ConfigForm
from mistudio.gui.widgets.histogram_plot import HistogramPlot
from mistudio.gui.widgets.library_choice import LibraryChoice
from mistudio.gui.widgets.progress import ProgressBar
from mistudio.jobs import label_plan
from mistudio.store.features import newest_set
from mistudio.store.labels import INTERPRETABLE, Interpretability, interpretability
from mistudio.store.records import SaeRow
from mistudio.store.tables import MODELS

FIELDS = (
    *("method", "clusters", "feature", "model", "endpoint", "endpoint_model"),
    *("detection", "fuzzing", "embedding", "encoder", "anew", "seed"),
)


class LabelDialog(Dialog):
    """Settings, plan and progress; below them the distribution of the chosen labels' scores."""

    labelled = Signal()

    def __init__(
        self,
        services: Services,
        sae: SaeRow,
        selected: np.ndarray,
        parent: QWidget | None = None,
        *,
        feature: int | None = None,
    ) -> None:
        """`selected`: the features listed now; `feature`: the one to name, by a model."""
        super().__init__("Label features", parent, width=960, height_share=0.9)
        self._services, self._sae, self._selected = services, sae, selected
        self.form: ConfigForm[LabelConfig] = ConfigForm(
            LabelConfig,
            FIELDS,
            editors={"model": LibraryChoice("The SAE's own model")},
            settings=services.settings,
            remember="features.label",
            command="features label",
            positional=("sae",),
        )
        self.form.set_values({"sae": sae.id, "feature": ()})
        if feature is not None:
            self.form.set_values({"method": "model", "feature": (str(feature),), "anew": True})
        self.listed_button = button(
            f"Only the {len(selected):,} listed", self._on_listed, tip="Those the table shows now"
        )
        self.plan = label("", "muted", wrap=True)
        self.start_button = button(
            "Label",
            self.start,
            variant="primary",
            icon="bolt",
            tip="Queue the labelling of these features",
        )
        self.bar = ProgressBar("blue")
        self.job = OneJob(
            services,
            self.start_button,
            self,
            failure="The labelling failed.",
            cancel_tip="End it; labels made so far are kept",
            bar=self.bar,
        )
        self.job.done.connect(self._on_done)
        self.figures = label("", wrap=True, selectable=True)
        self.histogram = HistogramPlot(
            "Live features by the score of their label", "AUROC on held-out text", color="blue"
        )
        self.histogram.setToolTip(RULE_SCORE)
        self._build()
        self.form.changed.connect(self._ask_plan)
        services.query.ask(lambda db: MODELS.select(db, "status = 'ready'"), self._on_models)
        self._ask_figures()
        self._ask_plan()

    def _build(self) -> None:
        self.box.addWidget(label(self._sae.name, "card", wrap=True))
        self.box.addWidget(self.form)
        self.box.addWidget(self.plan)
        self.box.addLayout(
            row(self.start_button, self.listed_button, self.job.cancel_button, self.job.state, None)
        )
        for part in (self.bar, self.job.problem, self.figures, self.histogram):
            self.box.addWidget(part)
        self.histogram.setMinimumHeight(appearance().px(220))
        self.box.addStretch(1)
        self.add_close()

    @Slot(object)
    def _on_models(self, models: list[Any]) -> None:
        editor = self.form.fields["model"].editor
        if isinstance(editor, LibraryChoice):
            editor.offer([(model.id, model.name) for model in models])

    def start(self) -> None:
        """Queue the job, or show what is wrong."""
        config = self.form.checked()
        if config is not None:
            self.job.submit("label_features", config)

    @Slot()
    def _on_listed(self) -> None:
        numbers = tuple(str(index) for index in self._selected.tolist())
        self.form.set_values({"method": "model", "feature": numbers})

    @Slot()
    def _ask_plan(self) -> None:
        by_model = str(self.form.fields["method"].editor.value()) == "model"
        self.listed_button.setVisible(by_model and len(self._selected) > 0)
        if not self.form.is_valid():
            self.plan.setText("")
            return
        config, studio = self.form.values(), self._services.studio
        self._services.query.ask(
            lambda _: label_plan.plan(studio, config), self._on_plan, key="label_plan"
        )

    @Slot(object)
    def _on_plan(self, found: label_plan.LabelPlan) -> None:
        self.plan.setText(found.sentence)

    def _ask_figures(self) -> None:
        sae_id = self._sae.id

        def read(db: Any) -> Interpretability | None:
            found = newest_set(db, sae_id)
            return interpretability(db, found) if found else None

        self._services.query.ask(read, self._on_figures, key="label_figures")

    @Slot(object)
    def _on_figures(self, found: Interpretability | None) -> None:
        if found is None:
            return
        self.figures.setText(
            f"{format_count(found.labelled)} of {format_count(found.live)} live features have a "
            f"label, {format_count(found.scored)} of them a score; {format_percent(found.share)} "
            f"of the live ones score above {INTERPRETABLE}."
        )
        self.histogram.set_counts(found.edges, found.counts)

    @Slot(object)
    def _on_done(self, _result: object) -> None:
        self._ask_figures()
        self.labelled.emit()
