"""The run shown beside random features: the test as a job, its verdict, and the table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QLineEdit, QVBoxLayout, QWidget

from mistudio.core.errors import StudioError
from mistudio.core.steering_controls import (
    ABOUT,
    MEASURES,
    control_rows,
    controls_summary,
    is_selective,
    measured,
)
from mistudio.core.steering_shown import Variant, read_run
from mistudio.core.steering_study_configs import ControlsConfig
from mistudio.gui.services import Services
from mistudio.gui.tabs.features.job_line import JobLine
from mistudio.gui.tabs.steering.batch import ENDED
from mistudio.gui.tabs.steering.control_strip import ControlStrip
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import IconLabel, button, label, row
from mistudio.gui.widgets.elided import Combo
from mistudio.gui.widgets.facts_table import FactsTable
from mistudio.gui.widgets.layout import guard_wheel
from mistudio.store.records import JobRow, SteeringRunRow
from mistudio.store.tables import JOBS, STEERING_RUNS

COUNTS = (19, 39, 99)
TITLES = ("Measure", "Unsteered", "Steered", "Random", "p", "Verdict", "Means", "Prompt")
SHORT = {"probability": "Words", "share": "Share", "reread": "Re-read", "kl": "KL"}
ABOUT_TEST = (
    "Makes the same change, with the same length and at the same tokens, along random features of "
    "like density and along the difference of means, and writes the words into the prompt instead. "
    "p is the share of random features that do as much, the run itself counted among them."
)


class Controls(QWidget):
    """Tests the variant of a kept run whose figures are shown."""

    tested = Signal()  # the run holds a new result

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._services = services
        self._run: SteeringRunRow | None = None
        self._variants: dict[str, Variant] = {}
        self._variant = ""
        self.job_id = ""
        self.count = Combo()
        for count in COUNTS:
            self.count.addItem(f"{count} controls, p ≥ {1 / (count + 1):g}", count)
        self.count.setAccessibleName("Random features to compare with")
        self.count.setToolTip("With more of them p can be smaller, and the test takes longer")
        guard_wheel(self.count)
        self.words = QLineEdit()
        self.words.setPlaceholderText("Words, as cat, dog; empty: those of the label")
        self.words.setAccessibleName("Words whose probability is compared")
        self.words.setToolTip(
            "Words whose tokens should become likelier, separated by commas; without any, those of "
            "the label are taken"
        )
        self.words.setMinimumWidth(appearance().px(150))
        self.button = button("Test against random features", self.start, icon="table")
        self.button.setToolTip(ABOUT_TEST)
        self.job = JobLine(services, "running")
        self.problem = label("", "error", wrap=True)
        self.mark = IconLabel("check_circle", "emerald")
        self.verdict = label("", "label", wrap=True)
        self._head = QWidget()
        head = row(self.mark, self.verdict)
        head.setStretch(1, 1)
        self._head.setLayout(head)
        self.strip = ControlStrip()
        self.table = FactsTable(TITLES, "The run beside its controls", stretch=0)
        self.details = label("", "small", wrap=True)
        tools = row(self.words, self.count, self.button)
        tools.setStretch(0, 1)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(appearance().px(6))
        box.addLayout(tools)
        for widget in (self.problem, self.job, self._head, self.strip, self.table, self.details):
            box.addWidget(widget)
        services.lanes.started.connect(self._on_job_event)
        services.lanes.finished.connect(self._on_job_event)
        services.publisher.changed.connect(self._on_changed)
        self.show_run(None)

    def show_run(self, run: SteeringRunRow | None) -> None:
        """Offer the test of a kept run; None hides it while there is none."""
        self._run = run
        found = read_run(run.prompt, run.outputs, run.metrics) if run else ()
        self._variants = {v.name: v for v in found[0].steered} if found else {}
        self._variant = next(iter(self._variants), "")
        self.setVisible(bool(self._variants))
        self._say("")
        self._fill()

    def show_variant(self, name: str) -> None:
        """Show the test of another variant of the run."""
        if name in self._variants:
            self._variant = name
            self._fill()

    def start(self) -> None:
        """Queue the test, or say why there can be none."""
        if self._run is None or self.job_id:
            return
        config = ControlsConfig(
            run=self._run.id,
            variant=self._variant,
            controls=int(self.count.currentData()),
            words=self.words.text().strip(),
        )
        try:
            self.job_id = self._services.submit("steer_controls", config)
        except StudioError as error:
            self._say(error.sentence)
            return
        self._say("")
        self._ask()

    def _say(self, sentence: str) -> None:
        self.problem.setText(sentence)
        self.problem.setVisible(bool(sentence))

    def _fill(self) -> None:
        """Show what was found for the variant, if it was tested."""
        variant = self._variants.get(self._variant)
        found: Mapping[str, Any] = variant.controls if variant else {}
        for widget in (self._head, self.strip, self.table, self.details):
            widget.setVisible(bool(found))
        self.button.setEnabled(not self.job_id)
        if not found:
            return
        told = controls_summary(found)
        selective = is_selective(found)
        self.mark.set("check_circle" if selective else "info", "emerald" if selective else "muted")
        several = len(self._variants) > 1
        self.verdict.setText(f"{variant.title}: {told[0]}" if several and variant else told[0])
        self.details.setText(" ".join(told[1:]))
        known = measured(found)
        rows = [
            (SHORT[name], *texts[1:])
            for (name, _), texts in zip(known, control_rows(found), strict=True)
        ]
        self.table.set_rows(rows, [f"{MEASURES[name]}: {ABOUT[name]}" for name, _ in known])
        self.strip.show_measures(known)

    def _ask(self) -> None:
        job_id = self.job_id

        def read(db: Any) -> tuple[JobRow | None, SteeringRunRow | None]:
            job = JOBS.find(db, job_id)
            return job, STEERING_RUNS.find(db, str(job.config["run"])) if job else None

        if job_id:
            self.button.setEnabled(False)
            self._services.query.ask(read, self._on_read, key="controls")

    def _on_read(self, found: tuple[JobRow | None, SteeringRunRow | None]) -> None:
        job, run = found
        if job is not None and job.id != self.job_id:
            return
        ended = job is None or job.status in ENDED
        self.job.show_job(None if ended else job)
        if not ended:
            return
        self.job_id = ""
        if run is not None and self._run is not None and run.id == self._run.id:
            shown = self._variant
            self.show_run(run)
            self.show_variant(shown)
        self._fill()
        if job is not None and job.status == "failed":
            self._say(job.error_message or "The test failed.")
        self.tested.emit()

    def _on_job_event(self, job_id: str, _state: str = "") -> None:
        if job_id == self.job_id:
            self._ask()

    def _on_changed(self, kind: str, object_id: str) -> None:
        if kind == "jobs" and self.job_id and object_id in ("", self.job_id):
            self._ask()
