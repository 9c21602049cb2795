"""A sortable table of figures: strengths of a sweep, variants, or the prompts of a batch."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QHeaderView,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from mistudio.core.atomic import atomic_file
from mistudio.core.errors import StudioError, from_os_error
from mistudio.core.steering_shown import PromptRun, Variant, over_steering
from mistudio.core.units import EM_DASH
from mistudio.gui.services import Services
from mistudio.gui.style import mono_font
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label, row

FIGURES = (
    ("KL", "kl", "{:.4f}"),
    ("Perplexity", "perplexity_delta", "{:+.2f}"),
    ("Similarity", "similarity", "{:.2f}"),
    ("Overlap", "word_overlap", "{:.2f}"),
    ("‖Δ‖/‖x‖", "delta_ratio", "{:.3f}"),
)
WIDTHS = {"KL": 84, "Overlap": 92, "‖Δ‖/‖x‖": 92, "Strength": 100, "Mark": 140}


class Line(NamedTuple):
    """A row: what it opens, its texts by column name, its figures."""

    key: str
    texts: dict[str, str]
    numbers: dict[str, float | None]


class _Item(QTableWidgetItem):
    """Sorts by its number; the unknown counts as the largest."""

    def __init__(self, number: float | None, form: str) -> None:
        super().__init__(EM_DASH if number is None else form.format(number).replace("-", "−"))
        self.number = number
        self.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self.setFont(mono_font(14))

    def __lt__(self, other: QTableWidgetItem) -> bool:
        mine = self.number
        theirs = other.number if isinstance(other, _Item) else None
        if mine is None or theirs is None:
            return mine is not None
        return mine < theirs


class FiguresTable(QWidget):
    """Rows of `Line`, sorted by a click on a heading; `opened(key)` on double click or Return."""

    opened = Signal(str)

    def __init__(
        self,
        services: Services,
        title: str,
        texts: Sequence[str],
        parent: QWidget | None = None,
        *,
        first: tuple[str, str] | None = None,
    ) -> None:
        """`texts` are the columns of words; `first` a number (column, format) before the others."""
        super().__init__(parent)
        self._services, self._name = services, title
        self._texts = tuple(texts)
        head = [(first[0], first[0], first[1])] if first else []
        self._figures = [*head, *FIGURES]
        self.lines: list[Line] = []
        titles = [*(name for name, _, _ in head), *self._texts]
        titles += [name for name, _, _ in FIGURES]
        self.table = QTableWidget(0, len(titles))
        self.table.setHorizontalHeaderLabels(titles)
        self._titles = titles
        self.table.setAccessibleName(title)
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.setShowGrid(False)
        self.table.setWordWrap(False)
        self.table.setTabKeyNavigation(False)
        self.table.verticalHeader().hide()
        self.table.verticalHeader().setDefaultSectionSize(appearance().px(32))
        header = self.table.horizontalHeader()
        header.setHighlightSections(False)
        modes = QHeaderView.ResizeMode
        for place, name in enumerate(titles):
            is_words = name in self._texts and name != "Mark"
            header.setSectionResizeMode(place, modes.Stretch if is_words else modes.Interactive)
            header.resizeSection(place, appearance().px(WIDTHS.get(name, 110)))
        header.setSortIndicator(0 if first else -1, Qt.SortOrder.AscendingOrder)
        self.csv_button = button("CSV", self.ask_csv, icon="download", tip="Write as CSV")
        self.csv_button.setAccessibleName(f"Write as CSV: {title}")
        self.table.cellDoubleClicked.connect(self._on_cell)
        self.table.installEventFilter(self)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(appearance().px(4))
        box.addLayout(row(label(title, "label"), None, self.csv_button))
        box.addWidget(self.table)

    def set_lines(self, lines: Sequence[Line]) -> None:
        """Show these rows, in the order chosen by the heading if there is one."""
        self.lines = list(lines)
        table = self.table
        table.setSortingEnabled(False)
        table.setRowCount(len(lines))
        for place, line in enumerate(lines):
            for column, name in enumerate(self._titles):
                if name in self._texts:
                    item = QTableWidgetItem(line.texts.get(name, "").replace("\n", " "))
                    item.setToolTip(line.texts.get(name, ""))
                else:
                    _, key, form = next(f for f in self._figures if f[0] == name)
                    item = _Item(line.numbers.get(key), form)
                item.setData(Qt.ItemDataRole.UserRole, line.key)
                table.setItem(place, column, item)
        shown = max(1, min(8, len(lines)))
        height = table.verticalHeader().defaultSectionSize() * shown
        bar = table.horizontalScrollBar().sizeHint().height()
        table.setFixedHeight(height + table.horizontalHeader().sizeHint().height() + bar + 4)
        table.setSortingEnabled(True)

    def shown(self) -> list[list[str]]:
        """What the table says, row by row."""
        table = self.table
        return [
            [item.text() if (item := table.item(r, c)) else "" for c in range(table.columnCount())]
            for r in range(table.rowCount())
        ]

    def ask_csv(self) -> None:
        """Let the user choose a file, then write every number in full."""
        chosen, _ = QFileDialog.getSaveFileName(self, "Write as CSV", "steering.csv", "CSV (*.csv)")
        if chosen:
            try:
                self.write_csv(Path(chosen))
                self._services.banner(f"{Path(chosen).name} is written.")
            except StudioError as error:
                self._services.banner(error.sentence, level="error", details=error.details)

    def write_csv(self, path: Path) -> None:
        """Write the rows as they were given; raises what the disk says."""
        try:
            with atomic_file(path) as made, made.open("w", encoding="utf-8", newline="") as file:
                out = csv.writer(file)
                out.writerow([*self._texts, *(key for _, key, _ in self._figures)])
                for line in self.lines:
                    numbers = [line.numbers.get(key) for _, key, _ in self._figures]
                    words = [line.texts.get(name, "") for name in self._texts]
                    out.writerow([*words, *("" if n is None else repr(n) for n in numbers)])
        except OSError as error:
            raise from_os_error(error, f"write {path.name}") from error

    def eventFilter(self, watched: object, event: object) -> bool:
        if isinstance(event, QKeyEvent) and event.type() == QKeyEvent.Type.KeyPress:
            row_ = self.table.currentRow()
            if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and row_ >= 0:
                self._on_cell(row_, 0)
                return True
        return False

    def _on_cell(self, place: int, _column: int) -> None:
        item = self.table.item(place, 0)
        if item is not None:
            self.opened.emit(str(item.data(Qt.ItemDataRole.UserRole)))


def figures_line(variant: Variant) -> str:
    """The chief figures of a variant in one line; what was not measured is left out."""
    shown = (("KL", "kl", "{:.4f}"), ("PPL", "perplexity_delta", "{:+.2f}"))
    parts: list[str] = []
    for name, key, form in (*shown, ("‖Δ‖/‖x‖", "delta_ratio", "{:.3f}")):
        value = variant.metrics.get(key)
        if value is not None:
            parts.append(f"{name} {form.format(value)}".replace("-", "−"))
    return " · ".join(parts)


def variant_line(variant: Variant, name: str = "Variant") -> Line:
    """A variant as a row."""
    numbers: dict[str, float | None] = {key: variant.metrics.get(key) for _, key, _ in FIGURES}
    numbers["Strength"] = variant.strength
    over = "over-steered" if over_steering(variant.metrics) else ""
    text = variant.texts[0].text if variant.texts else ""
    return Line(variant.name, {name: variant.title, "Text": text, "Mark": over}, numbers)


def prompt_line(key: str, run: PromptRun) -> Line:
    """A prompt of a batch as a row: its first steered text with its figures."""
    steered = next(iter(run.steered), None)
    metrics = steered.metrics if steered else {}
    numbers: dict[str, float | None] = {k: metrics.get(k) for _, k, _ in FIGURES}
    texts = {"Prompt": run.prompt}
    for column, variant in (("Baseline", run.baseline), ("Steered", steered)):
        texts[column] = variant.texts[0].text if variant and variant.texts else ""
    return Line(key, texts, numbers)
