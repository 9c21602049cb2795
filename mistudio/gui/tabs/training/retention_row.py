"""How often a run saves and how many checkpoints stay, with a preview of what would go."""

from __future__ import annotations

from typing import NamedTuple

from PySide6.QtCore import Signal, Slot
from PySide6.QtWidgets import QCheckBox, QSpinBox, QVBoxLayout, QWidget

from mistudio.core.retention import DEFAULT_CAP, RetentionConfig
from mistudio.core.units import format_bytes
from mistudio.gui.dialog import confirm
from mistudio.gui.services import Services
from mistudio.gui.tabs.training.reads import Run
from mistudio.gui.widgets.cards import button, label, row
from mistudio.gui.widgets.layout import guard_wheel
from mistudio.jobs import checkpoints
from mistudio.jobs.checkpoints import Surplus

ENDED = ("completed", "stopped", "failed")
DEFAULT_EVERY = 1000
_LISTED = 12


class _State(NamedTuple):
    cap: int
    stored: int
    every: int
    surplus: Surplus


class RetentionRow(QWidget):
    """Auto-save and its interval while the run is unfinished, the cap, the preview, Apply.

    `applied` follows a deletion.
    """

    applied = Signal()

    def __init__(self, run: Run, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._services = services
        self._id = run.training.id
        self._default = int(run.training.config.get("checkpoint_every") or 0)
        self._read = False
        self._surplus = Surplus([], 0)
        self._cap = DEFAULT_CAP  # as it is stored
        self.auto = QCheckBox("Save every")
        self.auto.setToolTip("Write a checkpoint at a fixed interval, besides the last one")
        self.every = QSpinBox()
        self.every.setRange(1, 1_000_000)
        self.every.setSingleStep(100)
        self.every.setSuffix(" steps")
        self.every.setAccessibleName("Steps between checkpoints")
        self.cap = QSpinBox()
        self.cap.setRange(2, 1000)
        self.cap.setValue(DEFAULT_CAP)
        self.cap.setAccessibleName("Most checkpoints kept")
        self.cap.setToolTip(
            "Up to 10 all stay; then the first, the last, the best and every 1,000th step, of "
            "which the oldest go first. Pinned ones always stay."
        )
        self.preview = label("", "small", wrap=True)
        self.apply_button = button(
            "Apply", self.apply, icon="check", tip="Keep to this from now on, and thin out now"
        )
        for spin in (self.every, self.cap):
            guard_wheel(spin)
        self._build(run)
        self.auto.toggled.connect(self._on_interval)
        self.every.editingFinished.connect(self._on_interval)
        self.cap.valueChanged.connect(self._on_cap)

    def _build(self, run: Run) -> None:
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        kept = label("Keep at most", "label")
        box.addLayout(row(self.auto, self.every, kept, self.cap, self.apply_button, None))
        box.addWidget(self.preview)
        saves = run.training.status not in ENDED
        self.auto.setVisible(saves)
        self.every.setVisible(saves)

    @Slot()
    def refresh(self) -> None:
        """Read again what is decided and what would go."""
        studio, training_id = self._services.studio, self._id
        cap = self.cap.value() if self._read else 0

        def read(_: object) -> _State:
            decided = checkpoints.decisions(studio, training_id)
            every = self._default if decided.every is None else decided.every
            wanted = cap or decided.cap
            return _State(
                wanted, decided.cap, every, checkpoints.preview(studio, training_id, wanted)
            )

        self._services.query.ask(read, self._on_state, on_error=self._on_refused, key="retention")

    @Slot(object)
    def _on_state(self, state: _State) -> None:
        self._surplus, self._cap = state.surplus, state.stored
        if not self._read:
            self._read = True
            for widget in (self.auto, self.every, self.cap):
                widget.blockSignals(True)
            self.cap.setValue(state.cap)
            self.auto.setChecked(state.every > 0)
            self.every.setValue(state.every or DEFAULT_EVERY)
            for widget in (self.auto, self.every, self.cap):
                widget.blockSignals(False)
        self.every.setEnabled(self.auto.isChecked())
        rows = state.surplus.rows
        self.preview.setText(
            f"Would delete {told_steps(state.surplus)}." if rows else "The rule keeps all of them."
        )
        self.apply_button.setEnabled(bool(rows) or self.cap.value() != self._cap)

    @Slot()
    def _on_cap(self) -> None:
        if self._read:
            self.refresh()

    @Slot()
    def _on_interval(self) -> None:
        if not self._read:
            return
        studio, training_id = self._services.studio, self._id
        every = self.every.value() if self.auto.isChecked() else 0
        self.every.setEnabled(self.auto.isChecked())
        self._services.query.ask(
            lambda _: checkpoints.save_every(studio, training_id, every),
            self._on_stored,
            on_error=self._on_refused,
        )

    def _on_stored(self, _: object) -> None:
        """The run follows from its next tenth step on."""

    def apply(self) -> None:
        """Ask, then delete what the rule does not keep, now and from now on."""
        count = len(self._surplus.rows)
        noun = "checkpoint" if count == 1 else f"{count:,} checkpoints"
        going = told_steps(self._surplus, most=100)
        if count and not confirm(self, f"Delete {noun}?", f"What goes: {going}."):
            return
        studio, config = self._services.studio, RetentionConfig(self._id, self.cap.value())
        self._services.query.ask(
            lambda _: checkpoints.keep(studio, config), self._on_applied, on_error=self._on_refused
        )

    @Slot(object)
    def _on_applied(self, gone: Surplus) -> None:
        if gone.rows:
            self._services.banner(f"{format_bytes(gone.size_bytes)} are free again.")
        self._services.publisher.publish("trainings", self._id)
        self.applied.emit()

    def _on_refused(self, sentence: str, details: str) -> None:
        self._services.banner(sentence, level="error", details=details)


def told_steps(found: Surplus, most: int = _LISTED) -> str:
    """Steps and bytes of surplus checkpoints, such as "steps 200, 300 (1.2 MB)"."""
    steps = ", ".join(f"{row.step:,}" for row in found.rows[:most])
    more = f" and {len(found.rows) - most:,} more" if len(found.rows) > most else ""
    return f"steps {steps}{more} ({format_bytes(found.size_bytes)})"
