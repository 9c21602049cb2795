"""Every steering run: searched, starred, noted, loaded, repeated, compared, exported, deleted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PySide6.QtCore import Signal
from PySide6.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QMenu,
    QVBoxLayout,
    QWidget,
)

from mistudio.core.steering_export_configs import ExportSteeringConfig
from mistudio.core.steering_shown import edit_words, edits_of
from mistudio.core.units import format_decimal
from mistudio.gui import ask
from mistudio.gui.dialog import confirm
from mistudio.gui.services import Services
from mistudio.gui.tabs.library.deleting import delete_undoably
from mistudio.gui.tabs.steering.compare import CompareRuns
from mistudio.gui.tabs.steering.export import OutsideExport
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label, row
from mistudio.gui.widgets.flow import FlowRow
from mistudio.gui.widgets.layout import SearchField
from mistudio.gui.widgets.row_table import BlockTableModel, Column, RowTable
from mistudio.jobs import steering_report
from mistudio.jobs.set_aside import set_aside
from mistudio.store import steering
from mistudio.store.records import SteeringRunRow


def _metric(run: SteeringRunRow, name: str) -> Any:
    return (run.metrics or {}).get(name)


def _change(run: SteeringRunRow) -> str:
    value = _metric(run, "perplexity_delta")
    return "—" if value is None else f"{value:+.2f}"


def features_of(run: SteeringRunRow) -> str:
    """Each edit in short."""
    unit = str(run.config.get("unit") or "max")
    return ", ".join(edit_words(edit, unit) for edit in edits_of(run.config))


def _prompt(run: SteeringRunRow) -> str:
    return f"{run.note} — {run.prompt}" if run.note else run.prompt


COLUMNS = (
    Column("★", lambda run: "★" if run.is_favorite else "", width=34, role="yellow"),
    Column("When", lambda run: run.created_at[5:16].replace("T", " "), width=150),
    Column("Mode", lambda run: run.mode, width=110),
    Column("Features", features_of, width=180, tip=features_of),
    Column("Note and prompt", _prompt, tip=_prompt),
    Column("KL", lambda run: format_decimal(_metric(run, "kl")), width=84, numeric=True),
    Column("Perplexity", _change, width=124, numeric=True),
)


def _load(db: Any, ids: np.ndarray) -> list[SteeringRunRow | None]:
    return steering.runs(db, [str(run) for run in ids])


class History(QWidget):
    """The list; `loaded(run)` brings a run back, `rerun(run)` asks for it again."""

    loaded = Signal(object)
    rerun = Signal(object)

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._services = services
        self.model = BlockTableModel(COLUMNS, _load, services.query, self)
        self.view = RowTable(self.model)
        self.view.setAccessibleName("Steering runs")
        self.view.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.view.setMinimumHeight(appearance().px(200))
        self.view.verticalHeader().setDefaultSectionSize(appearance().px(34))
        self.view.opened.connect(self._on_opened)
        self.view.selectionModel().selectionChanged.connect(self._on_selection)
        self.search = SearchField("Words of a prompt, note or text; #12 for a feature")
        self.search.searched.connect(self._on_searched)
        self.starred = button("Starred", variant="toggle", icon="star", tip="Only starred runs")
        self.starred.toggled.connect(self._on_searched)
        self.count = label("", "muted")
        self.empty = label("Runs appear here.", "muted")
        self._lay_out()
        self._enable()

    def _lay_out(self) -> None:
        self.load_button = button("Load", self._on_load, icon="upload")
        self.load_button.setToolTip("Show its texts with its features and settings (Return)")
        self.rerun_button = button("Run again", self._on_rerun, icon="retry")
        self.rerun_button.setToolTip("Do it again with the same seed and settings")
        self.star_button = button("Star", self._on_star, icon="star", tip="Set or take the star")
        self.note_button = button("Note", self._on_note, icon="edit", tip="Write a note beside it")
        self.compare_button = button("Compare", self._on_compare, icon="table")
        self.compare_button.setToolTip("Two runs side by side: select both with Ctrl")
        self.export_button = button("Export", icon="download", tip="Write the selected runs")
        menu = self._menu = QMenu(self.export_button)
        for ending, name in steering_report.FORMATS.items():
            chosen = menu.addAction(name)
            chosen.triggered.connect(lambda *_, ending=ending: self.ask_export(ending))
        menu.addSeparator()
        reports = len(menu.actions())
        self.outside = OutsideExport(self._services, self)
        self.outside.add_to(menu, lambda: ExportSteeringConfig(run=self.selected()[0]))
        self._of_one = menu.actions()[reports:]
        self.export_button.setMenu(menu)
        self.delete_button = button("Delete", self._on_delete, icon="trash", tip="Delete them")
        actions = QWidget()
        actions.setLayout(
            FlowRow(
                self.load_button,
                self.rerun_button,
                self.star_button,
                self.note_button,
                self.compare_button,
                self.export_button,
                self.delete_button,
            )
        )
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(appearance().px(8))
        head = row(label("History", "card"), self.search, self.starred, self.count)
        head.setStretch(1, 1)
        box.addLayout(head)
        box.addWidget(self.empty)
        box.addWidget(self.view)
        box.addWidget(actions)

    def reload(self) -> None:
        """Read the list again, keeping the selection."""
        text, starred = self.search.text(), self.starred.isChecked()
        self._services.query.ask(
            lambda db: steering.run_ids(db, text, starred=starred), self._show, key="runs"
        )

    def selected(self) -> list[str]:
        return [str(run) for run in self.view.selected_ids()]

    def _show(self, ids: list[str]) -> None:
        kept = self.view.current_id()
        self.model.set_ids(np.array(ids, dtype=object))
        if kept is not None:
            self.view.select_id(kept)
        narrowed = bool(self.search.text() or self.starred.isChecked())
        self.empty.setText("No run holds this." if narrowed else "Runs appear here.")
        self.empty.setVisible(not ids)
        self.view.setVisible(bool(ids))
        self.count.setText(f"{len(ids):,} run{'' if len(ids) == 1 else 's'}")
        self._enable()

    def _enable(self) -> None:
        chosen = len(self.selected()) if self.model.rowCount() else 0
        for made in (self.load_button, self.rerun_button, self.star_button, self.note_button):
            made.setEnabled(chosen == 1)
        self.compare_button.setEnabled(chosen == 2)
        for entry in self._of_one:
            entry.setEnabled(chosen == 1)
        for made in (self.export_button, self.delete_button):
            made.setEnabled(chosen > 0)

    def _on_selection(self, *_: object) -> None:
        self._enable()

    def _on_searched(self, *_: object) -> None:
        self.reload()

    def _ask_one(self, answer: Any) -> None:
        chosen = self.selected()
        if len(chosen) == 1:
            self._services.query.ask(lambda db: steering.runs(db, chosen)[0], answer, key="run")

    def _on_load(self) -> None:
        self._ask_one(self._on_run)

    def _on_opened(self, run_id: object) -> None:
        wanted = [str(run_id)]
        self._services.query.ask(lambda db: steering.runs(db, wanted)[0], self._on_run, key="run")

    def _on_run(self, run: SteeringRunRow | None) -> None:
        if run is not None:
            self.loaded.emit(run)

    def _on_rerun(self) -> None:
        self._ask_one(self._on_again)

    def _on_again(self, run: SteeringRunRow | None) -> None:
        if run is not None:
            self.rerun.emit(run)

    def _on_star(self) -> None:
        self._ask_one(self._on_starred)

    def _on_starred(self, run: SteeringRunRow | None) -> None:
        if run is not None:
            steering.star(self._services.studio.db(), run.id, not run.is_favorite)
            self.reload()

    def _on_note(self) -> None:
        self._ask_one(self._on_noted)

    def _on_noted(self, run: SteeringRunRow | None) -> None:
        if run is None:
            return
        about = "A note beside the run"
        text, given = ask.text(self, "Note", about, run.note or "")
        if given:
            steering.note(self._services.studio.db(), run.id, text)
            self.reload()

    def _on_compare(self) -> None:
        chosen = self.selected()
        self._services.query.ask(lambda db: steering.runs(db, chosen), self._on_two, key="two")

    def _on_two(self, runs: list[SteeringRunRow | None]) -> None:
        found = [run for run in runs if run is not None]
        if len(found) == 2:
            CompareRuns(found, features_of, self.window()).show()

    def ask_export(self, ending: str, of: Sequence[str] = ()) -> None:
        """Let the user choose a file for the selected runs, or for those of these ids."""
        chosen = list(of) or self.selected()
        runs = [r for r in steering.runs(self._services.studio.db(), chosen) if r]
        if not runs:
            return
        name = steering_report.file_name(runs, ending)
        filters = f"{steering_report.FORMATS[ending]} (*.{ending})"
        path, _ = QFileDialog.getSaveFileName(self, "Export", name, filters)
        if path:
            self.export(runs, Path(path), ending)

    def export(self, runs: list[SteeringRunRow], path: Path, ending: str) -> None:
        """Write runs to a file off this thread."""
        self._services.query.ask(
            lambda _: f"{steering_report.write(runs, path, ending).name} is written.",
            self._on_written,
            on_error=self._on_error,
        )

    def _on_written(self, sentence: str) -> None:
        self._services.banner(sentence)

    def _on_error(self, sentence: str, details: str) -> None:
        self._services.banner(sentence, level="error", details=details)

    def _on_delete(self) -> None:
        chosen = self.selected()
        words = "this run" if len(chosen) == 1 else f"{len(chosen):,} runs"
        if chosen and confirm(self, f"Delete {words}?", "Texts and figures go with it."):
            studio = self._services.studio
            delete_undoably(
                self._services,
                lambda: [set_aside(studio, "steering_runs", run_id) for run_id in chosen],
                f"Deleted {words}.",
                "steering_runs",
                self.reload,
            )
