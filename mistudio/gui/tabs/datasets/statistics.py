"""The Statistics page of a dataset: counts of its text, or of one of its tokenisations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QFrame,
    QGridLayout,
    QHeaderView,
    QScrollArea,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from mistudio.core.units import (
    EM_DASH,
    format_bytes,
    format_count,
    format_percent,
)
from mistudio.gui.style import mono_font
from mistudio.gui.tabs.datasets.titles import title_of
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import MetricTile, label, row
from mistudio.gui.widgets.elided import Combo
from mistudio.gui.widgets.layout import guard_wheel
from mistudio.jobs.library_pages import ListedDataset
from mistudio.store.records import TokenizationRow

if TYPE_CHECKING:
    from mistudio.gui.widgets.histogram_plot import HistogramPlot

_TILES = (
    ("Samples", "emerald"),
    ("Tokens", "blue"),
    ("Mean per sample", "purple"),
    ("Unique tokens", "yellow"),
)
_LINES = 10  # of a table before it scrolls


class StatisticsPage(QScrollArea):
    """Tiles, length histogram, parts and most frequent tokens, all counted."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._listed: ListedDataset | None = None
        self.plot: HistogramPlot | None = None
        px = appearance().px
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        content = QWidget()
        content.setObjectName("column")
        self._box = QVBoxLayout(content)
        self._box.setContentsMargins(0, px(16), px(8), 0)
        self._box.setSpacing(px(12))
        self.of = Combo()
        self.of.setAccessibleName("Statistics of")
        self.of.setToolTip("The text itself, or one of its tokenisations")
        guard_wheel(self.of)
        self.of.currentIndexChanged.connect(self._draw)
        self._box.addLayout(row(label("Statistics of", "label"), self.of, None))
        self.tiles = {name: MetricTile(name, color=color) for name, color in _TILES}
        self._box.addLayout(row(*self.tiles.values(), spacing=12))
        self.lengths = label("", "muted", wrap=True)
        self._box.addWidget(self.lengths)
        self._place = QVBoxLayout()
        self._box.addLayout(self._place)
        self.parts = _table(("Split", "Rows", "Share"), "Splits")
        self.storage = _table(("Storage", "Size"), "Storage")
        self.tokens = _table(("Token", "Id", "Count", "Share"), "Most frequent tokens")
        tables = QGridLayout()
        tables.setSpacing(px(12))
        self._parts_title = label("Splits", "label")
        self._tokens_title = label("50 most frequent tokens, then special ones", "label")
        tables.addWidget(self._parts_title, 0, 0)
        tables.addWidget(self.parts, 1, 0, Qt.AlignmentFlag.AlignTop)
        tables.addWidget(label("On disk", "label"), 2, 0)
        tables.addWidget(self.storage, 3, 0, Qt.AlignmentFlag.AlignTop)
        tables.addWidget(self._tokens_title, 0, 1)
        tables.addWidget(self.tokens, 1, 1, 4, 1)
        tables.setRowStretch(4, 1)
        tables.setColumnStretch(0, 1)
        tables.setColumnStretch(1, 1)
        self._box.addLayout(tables)
        self._box.addStretch(1)
        self.setWidget(content)

    def show_dataset(self, listed: ListedDataset) -> None:
        """Offer the text and every ready tokenisation; the choice stays if it still exists."""
        self._listed = listed
        kept = self.of.currentData()
        self.of.blockSignals(True)
        self.of.clear()
        for tokenization in listed.tokenizations:
            if tokenization.status == "ready":
                self.of.addItem(title_of(tokenization, listed.model_names), tokenization.id)
        self.of.addItem("The text as imported", "")
        self.of.setCurrentIndex(max(0, self.of.findData(kept)))
        self.of.blockSignals(False)
        if self.isVisible():
            self._draw()

    def showEvent(self, event: object) -> None:
        self._draw()

    def _draw(self, *told: object) -> None:
        if self._listed is None:
            return
        wanted = self.of.currentData()
        found = next((t for t in self._listed.tokenizations if t.id == wanted), None)
        if found is None:
            self._draw_text(self._listed)
        else:
            self._draw_tokens(self._listed, found)
        _fill(self.storage, storage_lines(self._listed))

    def _draw_text(self, listed: ListedDataset) -> None:
        found: Mapping[str, Any] = listed.row.statistics or {}
        values = (
            listed.row.num_samples,
            found.get("estimated_tokens"),
            found.get("length_mean"),
            None,
        )
        self._set_tiles(values, "estimate", "characters")
        names = ("length_min", "length_median", "length_mean", "length_max")
        self._set_lengths("characters", [found.get(name) for name in names])
        self._histogram(
            "characters", found.get("histogram_edges", []), found.get("histogram_counts", [])
        )
        _fill(self.parts, part_lines(found.get("splits", {}), listed.row.num_samples or 0))
        self.parts.setHorizontalHeaderLabels(["Split", "Samples", "Share"])
        self._show_tokens(False)

    def _draw_tokens(self, listed: ListedDataset, row_: TokenizationRow) -> None:
        found: Mapping[str, Any] = row_.statistics or {}
        lengths = found.get("document_tokens", {})
        values = (
            found.get("documents"),
            row_.tokens,
            lengths.get("mean"),
            found.get("unique_tokens"),
        )
        self._set_tiles(values, "counted", "tokens")
        self._set_lengths(
            "tokens", [lengths.get(name) for name in ("min", "median", "mean", "max")]
        )
        self._histogram(
            "tokens", lengths.get("histogram_edges", []), lengths.get("histogram_counts", [])
        )
        self._show_tokens(True)
        self.parts.setHorizontalHeaderLabels(["Split", "Rows", "Share"])
        rows, total = row_.rows or 0, row_.tokens or 0
        _fill(self.parts, part_lines(found.get("parts", {}), rows))
        _fill(self.tokens, token_lines(found, total))

    def _set_tiles(self, values: Sequence[float | None], tokens: str, unit: str) -> None:
        details = ("in all", tokens, unit, "different ones")
        for tile, value, detail in zip(self.tiles.values(), values, details, strict=True):
            tile.set_value(format_count(value), "not known" if value is None else detail)

    def _set_lengths(self, unit: str, values: Sequence[float | None]) -> None:
        names = ("shortest", "median", "mean", "longest")
        parts = [
            f"{name} {EM_DASH if v is None else f'{v:,.0f}'}"
            for name, v in zip(names, values, strict=True)
        ]
        self.lengths.setText(f"Length of a sample in {unit}: {', '.join(parts)}.")

    def _histogram(self, unit: str, edges: Sequence[float], counts: Sequence[int]) -> None:
        # plots come with a charting library that the window's start does without
        from mistudio.gui.widgets.histogram_plot import HistogramPlot

        if self.plot is not None:
            self._place.removeWidget(self.plot)
            self.plot.hide()
            self.plot.deleteLater()
        self.plot = HistogramPlot("Samples by length", unit, color="blue")
        self.plot.setMinimumHeight(appearance().px(280))
        self._place.addWidget(self.plot)
        self.plot.set_counts(edges, counts)

    def _show_tokens(self, shown: bool) -> None:
        for part in (self._tokens_title, self.tokens):
            part.setVisible(shown)


def storage_lines(listed: ListedDataset) -> list[tuple[str, ...]]:
    """Bytes of the text, of all tokenisations, of both."""
    text, total = listed.row.size_bytes, listed.size_bytes
    tokens = None if text is None or total is None else total - text
    return [
        ("Text", format_bytes(text)),
        ("Tokenisations", format_bytes(tokens)),
        ("Total", format_bytes(total)),
    ]


def part_lines(parts: Mapping[str, Sequence[int]], rows: int) -> list[tuple[str, ...]]:
    """Name, rows and share of each part of a tokenisation."""
    counts = {name: behind - first for name, (first, behind) in parts.items()}
    return [
        (name, format_count(count), format_percent(count / rows if rows else None))
        for name, count in counts.items()
    ]


def token_lines(found: Mapping[str, Any], total: int) -> list[tuple[str, ...]]:
    """The most frequent tokens, then the special ones, with their share of all tokens."""

    def share(count: int) -> str:
        return format_percent(count / total if total else None, 2)

    lines = [
        (
            repr(token["text"])[1:-1],
            str(token["id"]),
            format_count(token["count"]),
            share(token["count"]),
        )
        for token in found.get("top_tokens", [])
    ]
    return lines + [
        (f"{name} (special)", EM_DASH, format_count(count), share(count))
        for name, count in found.get("special_tokens", {}).items()
    ]


def _table(headings: Sequence[str], name: str) -> QTableWidget:
    table = QTableWidget(0, len(headings))
    table.setTabKeyNavigation(False)  # Tab leaves it
    table.setAccessibleName(name)
    table.setHorizontalHeaderLabels(list(headings))
    table.verticalHeader().hide()
    table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
    table.setSelectionBehavior(QTableWidget.SelectionBehavior.SelectRows)
    table.setAlternatingRowColors(True)
    header = table.horizontalHeader()
    header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
    for column in range(1, len(headings)):
        header.setSectionResizeMode(column, QHeaderView.ResizeMode.ResizeToContents)
    return table


def _fill(table: QTableWidget, lines: Sequence[Sequence[str]]) -> None:
    table.setRowCount(len(lines))
    for number, line in enumerate(lines):
        for column, text in enumerate(line):
            item = QTableWidgetItem(text)
            item.setFont(mono_font())
            if column:
                item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
            table.setItem(number, column, item)
    high = table.horizontalHeader().sizeHint().height() + 4
    lines_shown = min(max(1, len(lines)), _LINES)
    table.setFixedHeight(high + lines_shown * table.verticalHeader().defaultSectionSize())
