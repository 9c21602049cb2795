"""Finds the strength at which the cards reach a wanted KL, by one job of dose-response."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QWidget

from mistudio.core.configs import SteerConfig
from mistudio.core.steering_study_configs import DoseConfig
from mistudio.gui.services import Services
from mistudio.gui.tabs.steering.batch import ENDED
from mistudio.gui.tabs.steering.preview import NAMES
from mistudio.store.records import JobRow
from mistudio.store.tables import JOBS


class AutoStrength(QWidget):
    """Invisible; `found(factor)` multiplies the strengths, `told` says what was measured or why
    nothing was."""

    found = Signal(float)
    told = Signal(str)

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.hide()
        self._services = services
        self.job_id = ""
        services.lanes.finished.connect(self._on_finished)

    def start(self, config: SteerConfig, target: float) -> None:
        """Ask for the factor; raises `InvalidInput` for settings that cannot be."""
        values = {name: getattr(config, name) for name in NAMES}
        self.job_id = self._services.submit("steer_dose", DoseConfig(**values, target_kl=target))
        self.told.emit(f"Looking for the strength with a KL of {target:g} nats per token…")

    def _on_finished(self, job_id: str, state: str) -> None:
        if job_id == self.job_id:
            self._services.query.ask(lambda db: JOBS.find(db, job_id), self._on_job, key="auto")

    def _on_job(self, job: JobRow | None) -> None:
        if job is not None and job.status not in ENDED:
            return
        self.job_id = ""
        result = (job.result if job else None) or {}
        factor = result.get("factor")
        if factor is None:
            why = result.get("problem") or (job.error_message if job else "")
            self.told.emit(why or "No strength was found.")
            return
        self.found.emit(float(factor))
        self.told.emit(
            f"{factor:.3g} times the strengths before: a KL of {result['kl_measured']:.4f} was "
            f"measured for {result['target_kl']:g} wanted. {result.get('problem') or ''}".strip()
        )
