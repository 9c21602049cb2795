"""The next token while a slider moves: what the cards change of it, measured before any text."""

from __future__ import annotations

import time
from typing import Any

from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QWidget

from mistudio.core.configs import SteerConfig
from mistudio.core.errors import StudioError
from mistudio.core.steering_study_configs import PreviewConfig
from mistudio.gui.services import Services
from mistudio.gui.tabs.steering.batch import ENDED
from mistudio.gui.widgets.cards import label
from mistudio.gui.widgets.facts_table import FactsTable
from mistudio.gui.widgets.layout import Collapsible
from mistudio.store.records import JobRow
from mistudio.store.tables import JOBS

_WAIT_MS = 80
NAMES = ("sae", "feature", "edit", "spec", "prompt", "unit", "positions", "norm", "chat")
TITLES = ("Next token", "Unsteered", "Steered", "Change")


class LivePreview(Collapsible):
    """Open, it follows `follow(config)`; what was asked while one is measured is asked after it.

    Measuring is a job of the lane that generation uses, so that both never share the model.
    """

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__("Next token, live", parent)
        self.heading.setToolTip("Measure the next token whenever a card, prompt or rule changes")
        self._services = services
        self._wanted: PreviewConfig | None = None
        self._asked: PreviewConfig | None = None
        self._held = False
        self._began = 0.0
        self.job_id = ""
        self.line = label("", "muted", wrap=True)
        self.table = FactsTable(TITLES, "Tokens whose probability changes most", most=10)
        self.table.hide()
        self.box.addWidget(self.line)
        self.box.addWidget(self.table)
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(_WAIT_MS)
        self._soon.timeout.connect(self._ask)
        self.toggled.connect(self._on_open)
        services.lanes.finished.connect(self._on_finished)

    def follow(self, config: SteerConfig | None, reason: str = "") -> None:
        """Measure these settings, or say why it cannot be."""
        if config is None:
            self._wanted = None
            self._say(reason)
            return
        values = {name: getattr(config, name) for name in NAMES}
        self._wanted = PreviewConfig(**values)
        if self.is_open() and self._wanted != self._asked:
            self._soon.start()

    def hold(self, on: bool) -> None:
        """Whether generation is at work: nothing is measured meanwhile."""
        if self._held and not on:
            self._soon.start()
        self._held = on

    def _on_open(self, is_open: bool) -> None:
        if is_open:
            self._asked = None
            self._soon.start()
        else:
            self._soon.stop()

    def _ask(self) -> None:
        wanted = self._wanted
        if not self.is_open() or self._held or self.job_id or wanted in (None, self._asked):
            return
        self._asked = wanted
        try:
            job_id: str = self._services.studio.submit("steer_preview", wanted)
        except StudioError as error:
            self._say(error.sentence)
            return
        # one for each move of a slider: none of them belongs in a list
        JOBS.update(self._services.studio.db(), job_id, hidden=True)
        self._began = time.monotonic()
        self.job_id = job_id
        self._services.lanes.nudge()

    def _on_finished(self, job_id: str, state: str) -> None:
        if job_id == self.job_id:
            self._services.query.ask(lambda db: JOBS.find(db, job_id), self._on_job, key="preview")

    def _on_job(self, job: JobRow | None) -> None:
        if job is not None and job.status not in ENDED:
            return
        self.job_id = ""
        if job is not None and job.status == "completed" and job.result:
            self._show(job.result)
        else:
            self._say((job.error_message if job else "") or "The next token was not measured.")
        if job is not None:
            JOBS.delete(self._services.studio.db(), job.id)
        self._ask()

    def _show(self, found: dict[str, Any]) -> None:
        took = 1000 * (time.monotonic() - self._began)
        ratio = found.get("delta_ratio")
        parts = [
            f"KL {found['kl']:.4f} nats",
            f"acted on {found['acted']} of {found['positions']} positions",
            *([f"‖Δ‖/‖x‖ {ratio:.3f}"] if ratio is not None else []),
            f"{took:.0f} ms",
        ]
        self._say(" · ".join(parts), keep=True)
        self.table.set_rows([_row(mover) for mover in found["movers"]])
        self.table.show()

    def _say(self, sentence: str, *, keep: bool = False) -> None:
        self.line.setText(sentence)
        if not keep:
            self.table.hide()


def _row(mover: dict[str, Any]) -> tuple[str, str, str, str]:
    token = str(mover["text"]).replace("\n", "↵").replace("\t", "→")
    return (
        f"“{token}”",
        f"{100 * mover['baseline']:.2f} %",
        f"{100 * mover['steered']:.2f} %",
        f"{100 * mover['change']:+.2f}".replace("-", "−"),
    )
