"""The checkpoints of a run, newest first, what can be done with them, and how many are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PySide6.QtCore import Slot
from PySide6.QtWidgets import QVBoxLayout, QWidget

from mistudio.core.errors import StudioError
from mistudio.core.held_out_looks import figures_of, told_of
from mistudio.core.run_configs import WriteSaeConfig
from mistudio.core.training_configs import TrainConfig
from mistudio.core.units import format_bytes, format_count, format_decimal
from mistudio.gui.dialog import confirm
from mistudio.gui.services import Services
from mistudio.gui.tabs.library.deleting import delete_undoably, freed_later
from mistudio.gui.tabs.training.continue_dialog import ContinueDialog
from mistudio.gui.tabs.training.reads import Run, local_time, read_checkpoints
from mistudio.gui.tabs.training.retention_row import RetentionRow
from mistudio.gui.widgets.cards import button, label
from mistudio.gui.widgets.facts_table import FactsTable
from mistudio.gui.widgets.flow import FlowRow
from mistudio.jobs import checkpoints, training_starts
from mistudio.jobs.set_aside import set_aside_checkpoint
from mistudio.store.records import CheckpointRow


class CheckpointsPane(QWidget):
    """Step, loss, L0, held-out explained variance, size, time, marks.

    The buttons act on the selected row.
    """

    def __init__(self, run: Run, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._services = services
        self._run = run
        self._shown: tuple[int, str] = (-1, "")
        self._rows: list[CheckpointRow] = []
        self.table = FactsTable(
            ["Step", "Loss", "L0", "Held-out EV", "Size", "Written", "Mark"],
            "Checkpoints",
            most=5,
            stretch=6,
        )
        self.table.itemSelectionChanged.connect(self._on_selected)
        self.empty = label("No checkpoint has been written yet.", "muted")
        self.save_button = button(
            "Save now", self.save_now, icon="save", tip="Write a checkpoint at the next step"
        )
        self.actions_by_name = {
            "continue": button(
                "Continue",
                self.continue_run,
                icon="play",
                tip="New run from this checkpoint, with full state and more steps",
            ),
            "write": button(
                "Write SAE", self.write_sae, icon="features", tip="Put its SAE into the library"
            ),
            "pin": button("Pin", self.pin, icon="pin", tip="Keep it whatever the rule says"),
            "delete": button("Delete", self.delete, icon="trash", tip="Delete this checkpoint"),
        }
        self.retention = RetentionRow(run, services)
        self.retention.applied.connect(self.read)
        self._build()
        self.show_run(run)

    def _build(self) -> None:
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(self.empty)
        box.addWidget(self.table)
        self._buttons = QWidget()
        self._buttons.setLayout(FlowRow(self.save_button, *self.actions_by_name.values()))
        box.addWidget(self._buttons)
        box.addWidget(self.retention)
        self.table.hide()

    def show_run(self, run: Run) -> None:
        """Read again if checkpoints came or went."""
        self._run = run
        self.save_button.setVisible(run.training.status == "training" and run.job is not None)
        now = (run.checkpoints, run.training.status)
        if now != self._shown:
            self._shown = now
            self.read()

    @Slot()
    def read(self) -> None:
        """Read the checkpoints again."""
        training_id = self._run.training.id
        self._services.query.ask(
            lambda db: read_checkpoints(db, training_id), self._on_rows, key="checkpoints"
        )

    @Slot(object)
    def _on_rows(self, rows: list[CheckpointRow]) -> None:
        chosen = self.selected()
        newest = rows[0].step if rows else -1
        self._rows = rows
        self.table.set_rows([_texts(row, newest) for row in rows], [_tip(row) for row in rows])
        self.empty.setVisible(not rows)
        self.table.setVisible(bool(rows))
        steps = [row.step for row in rows]
        if rows:
            kept = chosen is not None and chosen.step in steps
            self.table.selectRow(steps.index(chosen.step) if kept and chosen else 0)
        self.retention.refresh()
        self._on_selected()

    def selected(self) -> CheckpointRow | None:
        """The checkpoint that the buttons act on."""
        place = self.table.currentRow()
        return self._rows[place] if 0 <= place < len(self._rows) else None

    @Slot()
    def _on_selected(self) -> None:
        row = self.selected()
        for found in self.actions_by_name.values():
            found.setVisible(row is not None)
        if row is None:
            return
        needed = self._run.training.status in checkpoints.UNFINISHED and row == self._rows[0]
        reason = "Unpin it first" if row.is_pinned else ""
        reason = "An unfinished run needs its newest checkpoint" if needed else reason
        self.actions_by_name["pin"].setText("Unpin" if row.is_pinned else "Pin")
        self.actions_by_name["delete"].setEnabled(not reason)
        self.actions_by_name["delete"].setToolTip(reason or "Delete this checkpoint")

    def save_now(self) -> None:
        """Ask for a checkpoint at the next step."""
        if self._run.job is not None:
            self._services.lanes.request(self._run.job.id, "save")

    def pin(self) -> None:
        """Pin the selected checkpoint, or take its pin away."""
        if (row := self.selected()) is not None:
            training_id, on = self._run.training.id, not row.is_pinned
            self._do(
                lambda: checkpoints.pin(self._services.studio, training_id, row.step, on),
                self._on_changed,
            )

    def delete(self) -> None:
        """Ask, then delete the selected checkpoint."""
        row = self.selected()
        if row is None:
            return
        frees = f"This frees {format_bytes(row.size_bytes)}."
        if confirm(self, f"Delete the checkpoint of step {row.step:,}?", frees):
            studio, training_id = self._services.studio, self._run.training.id
            delete_undoably(
                self._services,
                lambda: [set_aside_checkpoint(studio, training_id, row.step)],
                f"The checkpoint of step {row.step:,} is deleted."
                + freed_later(row.size_bytes or 0),
                "checkpoints",
                self._tell_changed,
            )

    def _tell_changed(self) -> None:
        self._on_changed(None)

    def write_sae(self) -> None:
        """Queue the job that puts the selected checkpoint's SAE into the library."""
        if (row := self.selected()) is not None:
            write_sae(self._services, self._run, row.step)

    def continue_run(self) -> None:
        """Open the form of a run that goes on from the selected checkpoint."""
        if (row := self.selected()) is not None:
            training_id = self._run.training.id
            self._do(
                lambda: training_starts.proposed(self._services.studio, training_id, row.step),
                self._on_proposed,
            )

    def _do(self, work: Callable[[], object], then: Callable[[Any], None]) -> None:
        self._services.query.ask(lambda _: work(), then, on_error=self._on_refused)

    def _on_changed(self, _: object) -> None:
        self.read()
        self._services.publisher.publish("trainings", self._run.training.id)

    def _on_proposed(self, config: TrainConfig) -> None:
        ContinueDialog(self._services, config, self._run.training.name, self.window()).show()

    def _on_refused(self, sentence: str, details: str) -> None:
        self._services.banner(sentence, level="error", details=details)
        self.read()


def write_sae(services: Services, run: Run, step: int = -1) -> None:
    """Queue the writing of a checkpoint's SAE; -1: of the newest."""
    try:
        services.submit("write_sae", WriteSaeConfig(run.training.id, step))
        services.banner("Queued: the SAE of this checkpoint. It comes into the SAE library.")
    except StudioError as error:
        services.banner(error.sentence, level="error", details=error.details)


def _texts(row: CheckpointRow, newest: int) -> list[str]:
    marks = [
        word
        for word, given in (
            ("best", row.is_best),
            ("pinned", row.is_pinned),
            ("newest", row.step == newest),
        )
        if given
    ]
    return [
        format_count(row.step),
        format_decimal(row.loss),
        format_decimal(row.l0, 1),
        format_decimal(row.heldout_ev, 4),
        format_bytes(row.size_bytes),
        local_time(row.created_at),
        ", ".join(marks),
    ]


def _tip(row: CheckpointRow) -> str:
    """Where a checkpoint lies, and what it reached on held-out text."""
    told = told_of(figures_of(vars(row)))
    if not told:
        return row.path
    return f"{told} The best is the one that explains most there.\n{row.path}"
