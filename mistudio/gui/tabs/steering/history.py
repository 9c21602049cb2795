"""Every steering run, newest first; opening one loads its features, settings and texts again."""

from __future__ import annotations

from typing import Any

import numpy as np
from PySide6.QtCore import Signal
from PySide6.QtWidgets import QVBoxLayout, QWidget

from mistudio.core.steering_spec import parse_edits
from mistudio.core.units import format_decimal, format_percent
from mistudio.gui.services import Services
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label, row
from mistudio.gui.widgets.row_table import BlockTableModel, Column, RowTable
from mistudio.store.records import SteeringRunRow
from mistudio.store.tables import STEERING_RUNS


def _metric(run: SteeringRunRow, name: str) -> Any:
    return (run.metrics or {}).get(name)


def _change(run: SteeringRunRow) -> str:
    value = _metric(run, "perplexity_delta")
    return "—" if value is None else f"{value:+.2f}"


def _features(run: SteeringRunRow) -> str:
    """Each edit in short: "#12 +2" adds, "#12 = 1" sets."""
    edits = parse_edits(run.config.get("feature", ())).edits
    return ", ".join(
        f"#{edit.feature} = {edit.value:g}"
        if edit.operator == "clamp"
        else f"#{edit.feature} {edit.value:+g}"
        for edit in edits
    )


COLUMNS = (
    Column("When", lambda run: run.created_at[5:16].replace("T", " "), width=120),
    Column("Features", _features, width=190, tip=_features),
    Column("Prompt", lambda run: run.prompt, tip=lambda run: run.prompt),
    Column("KL", lambda run: format_decimal(_metric(run, "kl")), width=92, numeric=True),
    Column("Perplexity", _change, width=124, numeric=True),
    Column(
        "Overlap",
        lambda run: format_percent(_metric(run, "word_overlap"), 0),
        width=104,
        numeric=True,
    ),
)


def _load(db: Any, ids: np.ndarray) -> list[SteeringRunRow | None]:
    marks = ", ".join("?" for _ in ids)
    found = STEERING_RUNS.select(db, f"id IN ({marks})", [str(run) for run in ids])
    rows = {run.id: run for run in found}
    return [rows.get(str(run)) for run in ids]


def _ids(db: Any) -> list[str]:
    found = db.execute("SELECT id FROM steering_runs ORDER BY created_at DESC").fetchall()
    return [row[0] for row in found]


class History(QWidget):
    """The list; `loaded(SteeringRunRow)` brings a run back."""

    loaded = Signal(object)

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._services = services
        self.model = BlockTableModel(COLUMNS, _load, services.query, self)
        self.view = RowTable(self.model)
        self.view.setAccessibleName("Steering runs")
        self.view.setMinimumHeight(appearance().px(160))
        self.view.verticalHeader().setDefaultSectionSize(appearance().px(34))
        self.view.opened.connect(self._on_opened)
        self.view.chosen.connect(self._on_chosen)
        self.load_button = button("Load again", self._on_load, icon="retry")
        self.load_button.setEnabled(False)
        self.empty = label("Runs appear here.", "muted")
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(appearance().px(8))
        box.addLayout(row(label("History", "card"), None, self.load_button))
        box.addWidget(self.empty)
        box.addWidget(self.view)

    def reload(self) -> None:
        """Read the list again, keeping the selection."""
        self._services.query.ask(_ids, self._show, key="runs")

    def _show(self, ids: list[str]) -> None:
        kept = self.view.current_id()
        self.model.set_ids(np.array(ids, dtype=object))
        if kept is not None:
            self.view.select_id(kept)
        self.empty.setVisible(not ids)
        self.view.setVisible(bool(ids))
        self.load_button.setEnabled(self.view.current_id() is not None)

    def _on_chosen(self, run_id: object) -> None:
        self.load_button.setEnabled(True)

    def _on_load(self) -> None:
        run_id = self.view.current_id()
        if run_id is not None:
            self._on_opened(run_id)

    def _on_opened(self, run_id: object) -> None:
        wanted = str(run_id)
        self._services.query.ask(lambda db: STEERING_RUNS.get(db, wanted), self._on_run, key="run")

    def _on_run(self, run: SteeringRunRow) -> None:
        self.loaded.emit(run)
