"""A batch of prompts: one run for each, and a table that fills as they end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QVBoxLayout, QWidget

from mistudio.core.configs import SteerConfig
from mistudio.core.steering_shown import PromptRun, read_run
from mistudio.gui.services import Services
from mistudio.gui.tabs.steering.figures import FiguresTable, prompt_line
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import label
from mistudio.store.records import JobRow, SteeringRunRow
from mistudio.store.tables import JOBS, STEERING_RUNS

MOST_PROMPTS = 200
ENDED = ("completed", "failed", "cancelled", "interrupted")


class Batch(QWidget):
    """Submits a run for each prompt and follows them; `opened(SteeringRunRow)` shows one."""

    opened = Signal(object)
    ended = Signal()

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._services = services
        self._jobs: dict[str, str] = {}  # job id -> prompt
        self._runs: dict[str, SteeringRunRow] = {}
        self._failed: dict[str, str] = {}
        self.state = label("", "muted", wrap=True)
        self.table = FiguresTable(services, "Prompts", ("Prompt", "Baseline", "Steered"))
        self.table.opened.connect(self._on_opened)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(appearance().px(6))
        box.addWidget(self.state)
        box.addWidget(self.table)
        self.hide()

    def jobs(self) -> list[str]:
        """Jobs of the batch that have not ended yet."""
        return [job for job in self._jobs if job not in self._runs and job not in self._failed]

    def owns(self, job_id: str) -> bool:
        return job_id in self._jobs

    def start(self, config: SteerConfig, prompts: Sequence[str]) -> None:
        """Queue a run for every prompt; raises `InvalidInput` for the first that cannot be."""
        self._jobs, self._runs, self._failed = {}, {}, {}
        for prompt in prompts:
            job = self._services.submit("steer", replace(config, prompt=prompt))
            self._jobs[job] = prompt
        self.show()
        self._fill()

    def stop(self) -> None:
        """Take what waits out of the queue; the run at work keeps its text so far."""
        running = self._services.lanes.running()
        for job in self.jobs():
            self._services.lanes.request(job, "stop" if job in running else "cancel")
        self.ask()

    def ask(self) -> None:
        """Read how the jobs stand."""
        wanted = self.jobs()

        def read(db: Any) -> list[tuple[JobRow, SteeringRunRow | None]]:
            found = [job for name in wanted if (job := JOBS.find(db, name)) is not None]
            runs = [(job.result or {}).get("run") for job in found]
            return [
                (job, STEERING_RUNS.find(db, str(run)) if run else None)
                for job, run in zip(found, runs, strict=True)
            ]

        if wanted:
            self._services.query.ask(read, self._on_jobs, key="batch")

    def _on_jobs(self, found: list[tuple[JobRow, SteeringRunRow | None]]) -> None:
        was_open = bool(self.jobs())
        for job, run in found:
            if run is not None and job.id in self._jobs:
                self._runs[job.id] = run
            elif job.status in ENDED and job.id in self._jobs:
                self._failed[job.id] = job.error_message or job.status
        self._fill()
        if was_open and not self.jobs():
            self.ended.emit()

    def _fill(self) -> None:
        lines = []
        for job, prompt in self._jobs.items():
            run = self._runs.get(job)
            shown = read_run(run.prompt, run.outputs, run.metrics) if run else ()
            line = prompt_line(job, shown[0] if shown else PromptRun(prompt, ()))
            if job in self._failed:
                line = line._replace(texts={**line.texts, "Steered": self._failed[job]})
            lines.append(line)
        self.table.set_lines(lines)
        failed = f", {len(self._failed)} without a result" if self._failed else ""
        self.state.setText(f"{len(self._runs)} of {len(self._jobs)} prompts done{failed}.")

    def _on_opened(self, job_id: str) -> None:
        run = self._runs.get(job_id)
        if run is not None:
            self.opened.emit(run)
