"""The feature table with its filters and footer: ids from sort keys, rows in blocks when seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtWidgets import QAbstractItemView, QStackedWidget, QVBoxLayout, QWidget

from mistudio.core.units import format_count
from mistudio.gui.services import Services
from mistudio.gui.tabs.features import columns
from mistudio.gui.tabs.features.column_chooser import ColumnChooser
from mistudio.gui.tabs.features.filters import FilterBar
from mistudio.gui.tabs.features.finder import Finder, Ranking
from mistudio.gui.tabs.features.hits_page import HitsPage
from mistudio.gui.tabs.features.list_menu import ListButton
from mistudio.gui.tabs.features.row_marks import RowMarks
from mistudio.gui.tabs.features.views_menu import ViewsButton
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import EmptyState, button, label, row
from mistudio.gui.widgets.row_table import BlockTableModel, RowTable
from mistudio.store import feature_lists
from mistudio.store.feature_conditions import Among
from mistudio.store.feature_keys import columns_of, keys_of
from mistudio.store.features import SORT_COLUMNS, feature_index_array
from mistudio.store.records import FeatureSetRow

if TYPE_CHECKING:
    from mistudio.gui.tabs.features.density_panel import DensityPanel

PAGE = 50
REMEMBERED = "features.table"
REST_MS = 400  # after a list is shown, before what it was made with is kept


class _Listed(NamedTuple):
    feature_set_id: str
    ids: np.ndarray
    absent: frozenset[str]
    lists: dict[str, str]


class FeatureTable(QWidget):
    """One continuous list of features; `opened(index)` asks for the detail of one."""

    opened = Signal(int)
    listed = Signal()  # other features, or another order
    lists_wanted = Signal()
    map_wanted = Signal()

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._services = services
        self._set: FeatureSetRow | None = None
        self._ranking: Ranking | None = None
        self._by_match = False  # in the order of a ranking, not of a column
        stored = services.settings.recall(REMEMBERED, {})
        stored = stored if isinstance(stored, dict) else {}
        sort = stored.get("sort")
        self._sort = sort if sort in SORT_COLUMNS else "frequency"
        self._descending = bool(stored.get("descending", True))
        self.filters = FilterBar(stored.get("filters"))
        self.filters.changed.connect(self._on_changed)
        self.filters.chips.dropped.connect(self._on_dropped)
        self.model = BlockTableModel(columns.columns(), self._load, services.query, self, block=64)
        self.model.sort_requested.connect(self._on_sort)
        self.view = RowTable(self.model, sorted_by=self._sorted_column())
        self.chooser = ColumnChooser(self.view, self)
        self.chooser.restore(stored.get("columns"))
        self.views = ViewsButton(services, self.state)
        self.lists = ListButton(services, self.selected, "Add to list")
        self.marks = RowMarks(services, self.view, self.model, self.selected, self.lists)
        self.finder = Finder(services)
        self.density: DensityPanel | None = None
        self.spread = button("Density", self._on_spread, variant="toggle", icon="curve")
        self.spread.setToolTip("How often features fire, with a brush that filters")
        self.mapper = button("Map", self.map_wanted.emit, icon="dot")
        self.mapper.setToolTip("Features by their decoder directions, with a lasso")
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.setInterval(REST_MS)
        self.problem = label("", "error", wrap=True)
        self._footer = label("", "muted")
        self._lay_out()
        self._connect()

    def _lay_out(self) -> None:
        self.view.setAccessibleName("Features")
        self.view.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.view.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.view.verticalHeader().setDefaultSectionSize(appearance().px(36))
        nothing = "No feature passes these filters."
        self._empty = EmptyState(
            "search", nothing, "Clear the filters", self.filters.clear, tip="Show all again"
        )
        self._pages = QStackedWidget()
        self._pages.addWidget(self.view)
        self._pages.addWidget(self._empty)
        self.hits = HitsPage(self._services)
        self.hits.opened.connect(self.opened)
        self._pages.addWidget(self.hits)
        chosen = button(
            "Columns", icon="table", tip="Choose the columns (also: right click on one)"
        )
        chosen.setMenu(self.chooser.menu)
        for tool in (self.spread, self.mapper, self.views):
            self.filters.tools.addWidget(tool)
        self.filters.tools.addWidget(chosen)
        before = button("Previous", self._page_up, icon="chevron_left", tip="50 features back")
        after = button("Next", self._page_down, icon="chevron_right", tip="50 features on")
        hint = label("Return opens · S stars · H hides", "small")
        self._of_rows = (self._footer, hint, self.lists, before, after)
        self.problem.hide()
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(appearance().px(8))
        box.addWidget(self.filters)
        box.addWidget(self.finder)
        self._under_filters = QVBoxLayout()
        box.addLayout(self._under_filters)
        box.addWidget(self.problem)
        box.addWidget(self._pages, 1)
        box.addLayout(row(self._footer, None, hint, self.lists, before, after))

    def _connect(self) -> None:
        self.view.opened.connect(self._on_opened)
        self.view.verticalScrollBar().valueChanged.connect(self._tell_range)
        self.view.selectionModel().selectionChanged.connect(self._tell_range)
        self.finder.ranked.connect(self.show_ranking)
        self.finder.examples.toggled.connect(self._show_page)
        self.chooser.changed.connect(self._remember)
        self.views.chosen.connect(self.apply_state)
        self.views.usual.connect(self._on_usual)
        self.views.problem.connect(self._tell_problem)
        self.lists.problem.connect(self._tell_problem)
        self.lists.manage.connect(self.lists_wanted)
        self.lists.lists_menu.aboutToShow.connect(self.lists.read)
        self.marks.opened.connect(self.opened)
        self._rest.timeout.connect(self._keep_keys)

    def show_set(self, feature_set: FeatureSetRow | None) -> None:
        """List the features of another set (or of the same, read again)."""
        if self._set is None or feature_set is None or feature_set.id != self._set.id:
            self._rank(None)
        self._set = feature_set
        self._find()
        self.reload()
        if self.density is not None and self.density.isVisible() and feature_set is not None:
            self.density.show_set(feature_set)

    def _on_spread(self, on: bool) -> None:
        """The chart, and the library that draws it, come when they are first looked at."""
        if self.density is None:
            from mistudio.gui.tabs.features.density_panel import DensityPanel

            self.density = DensityPanel(self._services)
            self.density.brushed.connect(self.filters.set_frequency)
            self._under_filters.addWidget(self.density)
        self.density.setVisible(on)
        if on and self._set is not None:
            self.density.show_set(self._set)

    def show_only(self, features: list[int], told: str) -> None:
        """Narrow the table to features that were chosen elsewhere."""
        self.filters.chips.choose(Among(tuple(features), told))

    def feature_set(self) -> FeatureSetRow | None:
        """The set whose features are listed."""
        return self._set

    def show_ranking(self, ranking: Ranking | None) -> None:
        """List only what answers a search, best first; None: all features again."""
        self._rank(ranking)
        self.reload()

    def _rank(self, ranking: Ranking | None) -> None:
        self._ranking, self._by_match = ranking, ranking is not None
        self.chooser.set_ranked(ranking is not None)
        self.view.horizontalHeader().setSortIndicatorShown(ranking is None)

    def reload(self) -> None:
        """Ask for the ids again with the filter and order in force."""
        found, ranking = self._set, self._ranking
        if found is None:
            self.model.set_ids(np.empty(0, dtype=np.int64))
            return
        wanted, sort, descending = self.filters.wanted(), self._sort, self._descending
        if ranking is not None:
            wanted = wanted._replace(text="", within=ranking.features)
        by_match = ranking if self._by_match else None

        def listed(db: Any) -> _Listed:
            ids = feature_index_array(db, found, wanted, sort=sort, descending=descending)
            if by_match is not None:
                order = np.array(by_match.features, np.int64)
                ids = order[np.isin(order, ids)]
            there = columns_of(db)
            absent = frozenset(n for n, column in columns.LATER.items() if column not in there)
            return _Listed(
                found.id, ids, absent, {known.id: known.name for known in feature_lists.lists(db)}
            )

        self._services.query.ask(listed, self._show, on_error=self._on_error, key="ids")

    def ids(self) -> np.ndarray:
        """Indices in table order."""
        return self.model.ids().copy()

    def refresh_feature(self, index: int | None) -> None:
        """Read one feature's row again, or all that are seen."""
        self.model.refresh(index)

    def selected(self) -> tuple[str, list[int]] | None:
        """The SAE and the selected features."""
        indices = [int(index) for index in self.view.selected_ids()]
        return (self._set.sae_id, indices) if self._set is not None and indices else None

    def state(self) -> dict[str, Any]:
        """What is remembered, and what a view keeps: columns, order, filters."""
        return {
            "sort": self._sort,
            "descending": self._descending,
            "filters": self.filters.state(),
            "columns": self.chooser.state(),
        }

    def apply_state(self, stored: Any) -> None:
        """Show the table as `state` told earlier."""
        stored = stored if isinstance(stored, dict) else {}
        sort = stored.get("sort")
        self._sort = sort if sort in SORT_COLUMNS else "frequency"
        self._descending = bool(stored.get("descending", True))
        self.chooser.restore(stored.get("columns"))
        header = self.view.horizontalHeader()
        header.blockSignals(True)
        order = Qt.SortOrder.DescendingOrder if self._descending else Qt.SortOrder.AscendingOrder
        header.setSortIndicator(self._sorted_column(), order)
        header.blockSignals(False)
        self.filters.restore(stored.get("filters"))

    def _on_dropped(self, name: str) -> None:
        said = f"The list “{name}” is gone; the filter by it was left out."
        self._services.banner(said, level="warning")

    def _on_usual(self) -> None:
        self.apply_state({})

    def _load(self, db: Any, ids: np.ndarray) -> list[Any]:
        if self._set is None:
            return [None] * len(ids)
        ranking = self._ranking
        matches = dict(zip(ranking.features, ranking.scores, strict=True)) if ranking else {}
        return columns.loader(self._set, matches)(db, ids)

    def _show(self, listed: _Listed) -> None:
        self.problem.hide()
        self.filters.chips.set_lists(listed.lists)
        self.filters.chips.set_absent(listed.absent)
        self.chooser.set_absent(listed.absent)
        if np.array_equal(listed.ids, self.model.ids()):
            self.model.refresh()
        else:
            kept = self.view.current_id()
            self.model.set_ids(listed.ids)
            if kept is None or not self.view.select_id(kept):
                self.view.scrollToTop()
        if self.density is not None:
            wanted = self.filters.wanted()
            self.density.set_range(wanted.min_frequency, wanted.max_frequency)
        self._show_page()
        self._tell_range()
        self._rest.start()
        self.listed.emit()

    def _keep_keys(self) -> None:
        """Let the next opening of the set find the sort keys that were read for this one."""
        found = self._set
        if found is not None:
            self._services.query.ask(lambda db: keys_of(db, found).keep(), self._on_kept)

    def _on_kept(self, _answer: None) -> None:
        """Nothing changes what is shown."""

    def _show_page(self) -> None:
        """The table; hits with examples while a search by meaning asks for them; or nothing."""
        ids, ranking, found = self.model.ids(), self._ranking, self._set
        examples = self.finder.shows_examples() and self._by_match
        if not len(ids):
            self._pages.setCurrentWidget(self._empty)
        elif examples and ranking is not None and found is not None:
            self._pages.setCurrentWidget(self.hits)
            self.hits.show_hits(found, ids, ranking)
        else:
            self._pages.setCurrentWidget(self.view)
        for part in self._of_rows:  # hits have pages of their own, and no selection
            part.setVisible(self._pages.currentWidget() is not self.hits)

    def _on_error(self, sentence: str, details: str) -> None:
        self._tell_problem(sentence)

    def _tell_problem(self, sentence: str) -> None:
        self.problem.setText(sentence)
        self.problem.show()

    def _tell_range(self) -> None:
        total = self.model.rowCount()
        first = self.view.rowAt(0)
        last = self.view.rowAt(self.view.viewport().height() - 1)
        last = total - 1 if last < 0 else last
        shown = f"{format_count(first + 1)}–{format_count(last + 1)} of {format_count(total)}"
        selection: Any = self.view.selectionModel().selection()
        ranges = list(selection)
        chosen = sum(part.height() for part in ranges)
        if chosen > 1:
            shown = f"{format_count(chosen)} selected · {shown}"
        self._footer.setText(shown if total else "0 features")

    def _on_changed(self) -> None:
        self._remember()
        self._find()
        self.reload()

    def _find(self) -> None:
        """Let a search of another kind than that of labels answer first."""
        if self._set is not None:
            mode, text = self.filters.mode.currentIndex(), self.filters.search.text().strip()
            self.finder.ask(self._set.sae_id, mode, text)

    def _on_sort(self, key: str, descending: bool) -> None:
        self._by_match = key == columns.MATCH
        if self._by_match:
            self.reload()
        elif key in SORT_COLUMNS:
            self._sort, self._descending = key, descending
            self._remember()
            self.reload()

    def _remember(self) -> None:
        self._services.settings.remember(REMEMBERED, self.state())

    def _sorted_column(self) -> int:
        keys = [column.sort_key for column in self.model.columns]
        return keys.index(self._sort) if self._sort in keys else -1

    def _on_opened(self, index: Any) -> None:
        self.opened.emit(int(index))

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
