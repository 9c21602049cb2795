"""The checkpoints of a run, newest first."""

from __future__ import annotations

from PySide6.QtCore import Slot
from PySide6.QtWidgets import QVBoxLayout, QWidget

from mistudio.core.units import format_bytes, format_count, format_decimal
from mistudio.gui.services import Services
from mistudio.gui.tabs.training.reads import Run, local_time, read_checkpoints
from mistudio.gui.widgets.cards import label
from mistudio.gui.widgets.facts_table import FactsTable
from mistudio.store.records import CheckpointRow


class CheckpointsPane(QWidget):
    """Step, loss, L0, size, time; the best and the newest are marked."""

    def __init__(self, run: Run, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._services = services
        self._shown: tuple[int, str] = (-1, "")
        self.table = FactsTable(
            ["Step", "Loss", "L0", "Size", "Written", "Mark"], "Checkpoints", most=8
        )
        self.empty = label("No checkpoint has been written yet.", "muted")
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(self.empty)
        box.addWidget(self.table)
        self.table.hide()
        self.show_run(run)

    def show_run(self, run: Run) -> None:
        """Read again if checkpoints came or went."""
        training_id, now = run.training.id, (run.checkpoints, run.training.status)
        if now != self._shown:
            self._shown = now
            self._services.query.ask(
                lambda db: read_checkpoints(db, training_id), self._on_rows, key="checkpoints"
            )

    @Slot(object)
    def _on_rows(self, rows: list[CheckpointRow]) -> None:
        newest = rows[0].step if rows else -1
        self.table.set_rows([_texts(row, newest) for row in rows], [row.path for row in rows])
        self.empty.setVisible(not rows)
        self.table.setVisible(bool(rows))


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
        format_bytes(row.size_bytes),
        local_time(row.created_at),
        ", ".join(marks),
    ]
