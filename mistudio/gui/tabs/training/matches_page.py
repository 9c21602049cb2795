"""Features of two compared SAEs: pairs, and those that only one has; a row opens its feature."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PySide6.QtCore import Signal, Slot
from PySide6.QtWidgets import QButtonGroup, QFileDialog, QVBoxLayout, QWidget

from mistudio.core.feature_match_figures import (
    MEANING,
    SHOWN,
    TITLES,
    MatchRow,
    Sides,
    match_sentence,
    sides,
    write_matches,
)
from mistudio.core.units import EM_DASH, format_count, format_decimal
from mistudio.gui.services import Services
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label, row
from mistudio.gui.widgets.row_table import BlockTableModel, Column, RowTable
from mistudio.jobs import feature_matches
from mistudio.store.feature_export import written_of
from mistudio.store.features import feature_rows, newest_set
from mistudio.store.records import SaeRow

BY = {"both": "direction and activation", "cosine": "direction", "correlation": "activation"}
SORTS: dict[str, Callable[[MatchRow], Any]] = {
    "a": lambda r: r.a,
    "b": lambda r: r.b,
    "cosine": lambda r: r.cosine,
    "correlation": lambda r: r.correlation,
    "firings_a": lambda r: r.firings_a,
    "firings_b": lambda r: r.firings_b,
}


class MatchLine(NamedTuple):
    """A row with what is known of its features in words."""

    row: MatchRow
    text_a: str
    text_b: str


class Loaded(NamedTuple):
    """The table of a comparison and its rows by kind."""

    found: dict[str, Any]
    sides: Sides


def columns() -> tuple[Column, ...]:
    """A, B, cosine, correlation, what matches them, firings of both."""
    return (
        Column("A", lambda m: _named(m.row.a, m.text_a), "a", help="Feature of A"),
        Column("B", lambda m: _named(m.row.b, m.text_b), "b", help="Feature of B"),
        Column(
            "Cosine",
            lambda m: format_decimal(m.row.cosine, 3),
            "cosine",
            96,
            numeric=True,
            role="blue",
            help="Of the two decoder rows; of a feature alone, the largest with any of the other.",
        ),
        Column(
            "Correlation",
            lambda m: format_decimal(m.row.correlation, 3),
            "correlation",
            116,
            numeric=True,
            role="emerald",
            help="Pearson's, of the activations over the same tokens, zeros included; of a feature "
            "alone, the largest with any of the other.",
        ),
        Column("Matched by", lambda m: BY.get(m.row.matched_by, EM_DASH), width=190),
        Column(
            "Fires (A)",
            lambda m: format_count(m.row.firings_a),
            "firings_a",
            96,
            numeric=True,
            help="Tokens on which A's feature is active.",
        ),
        Column(
            "Fires (B)",
            lambda m: format_count(m.row.firings_b),
            "firings_b",
            96,
            numeric=True,
            help="Tokens on which B's feature is active.",
        ),
    )


def _named(index: int | None, text: str) -> str:
    return EM_DASH if index is None else f"#{index}  {text}".rstrip()


class MatchesPage(QWidget):
    """Shows what a comparison kept of matched features; `opened(sae id, feature)` asks for one."""

    opened = Signal(str, int)

    def __init__(self, services: Services, pair: tuple[SaeRow, SaeRow]) -> None:
        super().__init__()
        self._services, self._pair = services, pair
        self._loaded: Loaded | None = None
        self._rows: list[MatchRow] = []
        self.kinds = QButtonGroup(self)
        for number, kind in enumerate(SHOWN):
            self.kinds.addButton(button(TITLES[kind], variant="toggle", tip=MEANING), number)
        self.kinds.button(0).setChecked(True)
        self.sentence = label("", wrap=True, selectable=True)
        self.model = BlockTableModel(columns(), self._load_block, services.query, self, block=64)
        self.view = RowTable(self.model)
        self.view.setAccessibleName("Matched features")
        self.view.setMinimumHeight(appearance().px(300))
        self.open_a = button(
            "Open A's feature",
            self._on_open_a,
            icon="features",
            tip="The feature of the first SAE, in the Features tab",
        )
        self.open_b = button(
            "Open B's feature",
            self._on_open_b,
            icon="features",
            tip="The feature of the second SAE, in the Features tab",
        )
        self.csv_button = button("Write CSV…", self._on_csv, icon="upload", tip="All three lists")
        box = QVBoxLayout(self)
        box.setContentsMargins(0, appearance().px(8), 0, 0)
        box.addWidget(self.sentence)
        box.addWidget(label(MEANING, "muted", wrap=True))
        box.addLayout(row(*self.kinds.buttons(), None, self.csv_button))
        box.addWidget(self.view, 1)
        box.addLayout(row(self.open_a, self.open_b, None))
        self.kinds.idClicked.connect(self._on_kind)
        self.model.sort_requested.connect(self._on_sort)
        self.view.opened.connect(self._on_row_opened)
        self.view.chosen.connect(self._on_chosen)
        self._on_chosen(None)

    def show_matches(self, kept: Mapping[str, Any]) -> None:
        """Read the table that a comparison kept."""
        told = dict(kept)

        def read(db: Any) -> Loaded:
            found = feature_matches.load(db, told)
            return Loaded(found, sides(found))

        self._services.query.ask(read, self._show, on_error=self._on_error, key="matches")

    @Slot(object)
    def _show(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self.sentence.setText(match_sentence(loaded.found, loaded.sides))
        for number, kind in enumerate(SHOWN):
            count = len(loaded.sides.lists[number])
            self.kinds.button(number).setText(f"{TITLES[kind]} ({count:,})")
        self._on_kind(self.kinds.checkedId())

    @Slot(str, str)
    def _on_error(self, sentence: str, details: str) -> None:
        self.sentence.setText(sentence)

    def _on_kind(self, number: int) -> None:
        if self._loaded is not None:
            self._list(self._loaded.sides.lists[number])

    def _list(self, rows: Sequence[MatchRow]) -> None:
        self._rows = list(rows)
        self.model.set_ids(np.arange(len(self._rows)))
        self._on_chosen(None)

    def _on_sort(self, key: str, descending: bool) -> None:
        value = SORTS[key]
        known = [row for row in self._rows if value(row) is not None]
        known.sort(key=value, reverse=descending)
        self._list([*known, *(row for row in self._rows if value(row) is None)])

    def _load_block(self, db: Any, ids: np.ndarray) -> list[MatchLine]:
        rows = [self._rows[int(number)] for number in ids]
        texts = [
            _texts(db, sae, sorted({index for index in indices if index is not None}))
            for sae, indices in zip(
                self._pair, ([r.a for r in rows], [r.b for r in rows]), strict=True
            )
        ]
        return [MatchLine(r, texts[0].get(r.a, ""), texts[1].get(r.b, "")) for r in rows]

    def _on_row_opened(self, number: Any) -> None:
        found = self._rows[int(number)]
        self._open(0 if found.a is not None else 1, found)

    def _on_open_a(self) -> None:
        self._open(0, self._current())

    def _on_open_b(self) -> None:
        self._open(1, self._current())

    def _open(self, side: int, found: MatchRow | None) -> None:
        index = None if found is None else found[side]
        if index is not None:
            self.opened.emit(self._pair[side].id, index)

    def _current(self) -> MatchRow | None:
        number = self.view.current_id()
        return None if number is None else self._rows[int(number)]

    def _on_chosen(self, number: Any) -> None:
        found = None if number is None else self._rows[int(number)]
        self.open_a.setEnabled(found is not None and found.a is not None)
        self.open_b.setEnabled(found is not None and found.b is not None)

    def _on_csv(self) -> None:
        name = str(self._services.studio.paths.exports / "matched_features.csv")
        chosen, _ = QFileDialog.getSaveFileName(self, "Write the matches", name, "CSV (*.csv)")
        if chosen:
            self.write(Path(chosen))

    def write(self, path: Path) -> None:
        """Write all three lists, away from this thread."""
        if self._loaded is not None:
            found = self._loaded.found
            self._services.query.ask(
                lambda _db: (write_matches(found, path), path),
                self._on_written,
                on_error=self._on_error,
            )

    @Slot(object)
    def _on_written(self, told: tuple[int, Path]) -> None:
        self._services.banner(f"{told[0]:,} rows are written to {told[1]}.")


def _texts(db: Any, sae: SaeRow, indices: Sequence[int]) -> dict[int | None, str]:
    """Label of each feature, else its top tokens where its features were found."""
    found = newest_set(db, sae.id)
    if found is None:
        return {i: told.label or "" for i, told in written_of(db, sae.id, indices).items()}
    rows = feature_rows(db, found, indices)
    return {r.index: r.label or " ".join((r.top_tokens or "").split()[:4]) for r in rows}
