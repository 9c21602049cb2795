"""The feature table with its filters and footer: ids by SQL, rows in blocks, sort by header."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from PySide6.QtCore import QModelIndex, Signal
from PySide6.QtGui import QKeySequence, QShortcut
from PySide6.QtWidgets import QStackedWidget, QVBoxLayout, QWidget

from mistudio.core.units import format_count
from mistudio.gui.services import Services
from mistudio.gui.tabs.features import columns, edits
from mistudio.gui.tabs.features.filters import FilterBar
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import EmptyState, button, label, row
from mistudio.gui.widgets.row_table import BlockTableModel, RowTable
from mistudio.store.features import SORT_COLUMNS, feature_ids
from mistudio.store.records import FeatureSetRow

PAGE = 50
REMEMBERED = "features.table"


class _Listed(NamedTuple):
    feature_set_id: str
    ids: np.ndarray


class FeatureTable(QWidget):
    """One continuous list of features; `opened(index)` asks for the detail of one."""

    opened = Signal(int)

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._services = services
        self._set: FeatureSetRow | None = None
        stored = services.settings.recall(REMEMBERED, {})
        stored = stored if isinstance(stored, dict) else {}
        sort = stored.get("sort")
        self._sort = sort if sort in SORT_COLUMNS else "frequency"
        self._descending = bool(stored.get("descending", True))
        self.filters = FilterBar(stored.get("filters"))
        self.filters.changed.connect(self._on_changed)
        self.model = BlockTableModel(columns.columns(), self._load, services.query, self, block=64)
        self.model.sort_requested.connect(self._on_sort)
        self.view = RowTable(self.model, sorted_by=self._sorted_column())
        self._footer = label("", "muted")
        self._lay_out()
        self._connect()

    def _lay_out(self) -> None:
        self.view.setAccessibleName("Features")
        self.view.verticalHeader().setDefaultSectionSize(appearance().px(36))
        nothing = "No feature passes these filters."
        self._empty = EmptyState("search", nothing, "Clear the filters", self.filters.clear)
        self._pages = QStackedWidget()
        self._pages.addWidget(self.view)
        self._pages.addWidget(self._empty)
        before = button("Previous", self._page_up, icon="chevron_left", tip="50 features back")
        after = button("Next", self._page_down, icon="chevron_right", tip="50 features on")
        hint = label("Return opens · S stars · H hides", "small")
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(appearance().px(8))
        box.addWidget(self.filters)
        box.addWidget(self._pages, 1)
        box.addLayout(row(self._footer, None, hint, before, after))

    def _connect(self) -> None:
        self.view.opened.connect(self._on_opened)
        self.view.clicked.connect(self._on_clicked)
        self.view.verticalScrollBar().valueChanged.connect(self._tell_range)
        for key, slot in (("S", self.star), ("H", self.hide_row)):
            QShortcut(QKeySequence(key), self.view, slot)

    def show_set(self, feature_set: FeatureSetRow | None) -> None:
        """List the features of another set (or of the same, read again)."""
        self._set = feature_set
        self.reload()

    def reload(self) -> None:
        """Ask for the ids again with the filter and order in force."""
        found = self._set
        if found is None:
            self.model.set_ids(np.empty(0, dtype=np.int64))
            return
        wanted, sort, descending = self.filters.wanted(), self._sort, self._descending

        def listed(db: Any) -> _Listed:
            ids = np.array(
                feature_ids(db, found, wanted, sort=sort, descending=descending), dtype=np.int64
            )
            return _Listed(found.id, ids)

        self._services.query.ask(listed, self._show, key="ids")

    def ids(self) -> np.ndarray:
        """Indices in table order."""
        return np.array([self.model.id_at(i) for i in range(self.model.rowCount())], dtype=np.int64)

    def refresh_feature(self, index: int) -> None:
        """Read one feature's row again."""
        self.model.refresh(index)

    def star(self) -> None:
        """Turn the star of the current feature."""
        self._edit(edits.turn_favorite)

    def hide_row(self) -> None:
        """Hide the current feature, or show it again."""
        self._edit(edits.turn_hidden)

    def _edit(self, what: Any) -> None:
        index = self.view.current_id()
        if self._set is not None and index is not None:
            sae_id = self._set.sae_id
            self._services.query.ask(lambda db: what(db, sae_id, index), self._on_edited)

    def _on_edited(self, edited: str) -> None:
        self._services.publisher.publish("features", edited)

    def _load(self, db: Any, ids: np.ndarray) -> list[Any]:
        return columns.loader(self._set)(db, ids) if self._set else [None] * len(ids)

    def _show(self, listed: _Listed) -> None:
        same = np.array_equal(listed.ids, self._ids_now())
        if same:
            self.model.refresh()
        else:
            kept = self.view.current_id()
            self.model.set_ids(listed.ids)
            if kept is None or not self.view.select_id(kept):
                self.view.scrollToTop()
        self._pages.setCurrentIndex(0 if len(listed.ids) else 1)
        self._tell_range()

    def _ids_now(self) -> np.ndarray:
        return self.ids() if self.model.rowCount() else np.empty(0, dtype=np.int64)

    def _tell_range(self) -> None:
        total = self.model.rowCount()
        first = self.view.rowAt(0)
        last = self.view.rowAt(self.view.viewport().height() - 1)
        last = total - 1 if last < 0 else last
        shown = f"{format_count(first + 1)}–{format_count(last + 1)} of {format_count(total)}"
        self._footer.setText(shown if total else "0 features")

    def _on_changed(self) -> None:
        self._remember()
        self.reload()

    def _on_sort(self, key: str, descending: bool) -> None:
        self._sort, self._descending = key, descending
        self._remember()
        self.reload()

    def _remember(self) -> None:
        kept = {
            "sort": self._sort,
            "descending": self._descending,
            "filters": self.filters.state(),
        }
        self._services.settings.remember(REMEMBERED, kept)

    def _sorted_column(self) -> int:
        keys = [column.sort_key for column in columns.columns()]
        return keys.index(self._sort) if self._sort in keys else -1

    def _on_opened(self, index: Any) -> None:
        self.opened.emit(int(index))

    def _on_clicked(self, index: QModelIndex) -> None:
        if index.column() == columns.STAR:
            self.star()

    def _page_up(self) -> None:
        self._go(-PAGE)

    def _page_down(self) -> None:
        self._go(PAGE)

    def _go(self, by: int) -> None:
        last = self.model.rowCount() - 1
        target = min(last, max(0, self.view.rowAt(0) + by))
        if last >= 0:
            self.view.scrollTo(self.model.index(target, 0), self.view.ScrollHint.PositionAtTop)
            self.view.setCurrentIndex(self.model.index(target, 0))
