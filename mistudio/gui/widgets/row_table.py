"""A table over any number of rows: ordered ids at once, the rows themselves in blocks when seen."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PySide6.QtCore import (
    QAbstractTableModel,
    QModelIndex,
    QPersistentModelIndex,
    Qt,
    Signal,
    Slot,
)
from PySide6.QtGui import (
    QColor,
    QCursor,
    QFont,
    QKeyEvent,
    QPaintEvent,
    QRegion,
    QResizeEvent,
)
from PySide6.QtWidgets import QAbstractItemView, QHeaderView, QTableView, QWidget

from mistudio.gui.query_lane import QueryLane
from mistudio.gui.style import mono_font
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.row_paint import LATE, RowPainter
from mistudio.gui.widgets.token_text import TOKENS_ROLE, TokenTextDelegate

Index = QModelIndex | QPersistentModelIndex
LEAST = 144  # px at a 16-px font that a column has that takes the room left
ROW_ROLE = Qt.ItemDataRole.UserRole + 11
# made once: a view asks for thousands of these while it scrolls
_SIDES = {
    False: Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter,
    True: Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter,
}
_ROLES = frozenset(
    (
        Qt.ItemDataRole.DisplayRole,
        Qt.ItemDataRole.ForegroundRole,
        Qt.ItemDataRole.ToolTipRole,
        TOKENS_ROLE,
        ROW_ROLE,
    )
)


@dataclass(frozen=True)
class Column:
    """A column: its heading, what a row shows in it, and the key that sorts by it ("": none)."""

    title: str
    show: Callable[[Any], str]
    sort_key: str = ""
    width: int = 0  # pixels at a 16-px font; 0 shares what is left
    numeric: bool = False  # right-aligned, fixed-width font
    role: str | Callable[[Any], str] = ""  # colour role of the text, or what a row's is
    tip: Callable[[Any], str] | None = None
    tokens: Callable[[Any], Any] | None = None  # row -> TokenLine: painted by the token delegate
    help: str = ""


class BlockTableModel(QAbstractTableModel):
    """Rows of an ordered id array, read in blocks on the query lane and kept in an LRU cache.

    `load(db, ids)` runs in the query thread and returns one row object per id, in that order
    (None for a row that is gone).
    """

    sort_requested = Signal(str, bool)  # sort key, descending
    block_loaded = Signal()

    def __init__(
        self,
        columns: Sequence[Column],
        load: Callable[[Any, np.ndarray], Sequence[Any]],
        query: QueryLane,
        parent: Any = None,
        *,
        block: int = 128,
        keep: int = 64,
    ) -> None:
        super().__init__(parent)
        self.columns = tuple(columns)
        self._load, self._query = load, query
        self._block, self._keep = block, keep
        self._ids = np.empty(0, dtype=np.int64)
        self._blocks: OrderedDict[int, Sequence[Any]] = OrderedDict()
        self._asked: set[int] = set()
        self._generation = 0
        self._fonts = {True: mono_font(14)}

    def set_ids(self, ids: np.ndarray | Sequence[Any]) -> None:
        """Show these rows in this order; what was loaded is dropped."""
        self.beginResetModel()
        self._ids = np.asarray(ids)
        self._drop()
        self.endResetModel()

    def refresh(self, object_id: Any = None) -> None:
        """Read the rows again (all, or the block of one id), keeping order and selection."""
        if object_id is None:
            self._drop()
            first, last = 0, len(self._ids) - 1
        else:
            first = last = self.position(object_id)
            if first < 0:
                return
            self._blocks.pop(first // self._block, None)
            self._asked.discard(first // self._block)
        if last >= 0:
            right = len(self.columns) - 1
            self.dataChanged.emit(self.index(first, 0), self.index(last, right))

    def _drop(self) -> None:
        self._generation += 1
        self._blocks.clear()
        self._asked.clear()

    def ids(self) -> np.ndarray:
        """The ids in order; not to be written to."""
        return self._ids

    def number_font(self) -> QFont:
        """The font of figures."""
        return self._fonts[True]

    def id_at(self, position: int) -> Any:
        """The id of the row at a position, as a Python value."""
        return self._ids[position].item() if self._ids.dtype != object else self._ids[position]

    def position(self, object_id: Any) -> int:
        """Where an id stands, -1 if it is not shown."""
        found = np.flatnonzero(self._ids == object_id)
        return int(found[0]) if len(found) else -1

    def has(self, position: int) -> bool:
        """Whether the row at a position is loaded; asks for nothing."""
        return position // self._block in self._blocks

    def row(self, position: int) -> Any | None:
        """The row object at a position; None while it is not loaded, which this call starts."""
        number = position // self._block
        block = self._blocks.get(number)
        if block is not None:
            self._blocks.move_to_end(number)
            return block[position - number * self._block]
        if number not in self._asked:
            self._asked.add(number)
            self._ask(number)
        return None

    def _ask(self, number: int) -> None:
        start = number * self._block
        ids, load, generation = self._ids[start : start + self._block], self._load, self._generation
        self._query.ask(lambda db: (generation, number, list(load(db, ids))), self._on_loaded)

    @Slot(object)
    def _on_loaded(self, answer: tuple[int, int, list[Any]]) -> None:
        generation, number, rows = answer
        if generation != self._generation:
            return
        self._asked.discard(number)
        self._blocks[number] = rows
        while len(self._blocks) > self._keep:
            self._blocks.popitem(last=False)
        start = number * self._block
        stop = start + len(rows) - 1
        self.dataChanged.emit(self.index(start, 0), self.index(stop, len(self.columns) - 1))
        self.block_loaded.emit()

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008 - Qt's own signature
        return 0 if parent.isValid() else len(self._ids)

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(self.columns)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        column = self.columns[index.column()]
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _SIDES[column.numeric]
        if role == Qt.ItemDataRole.FontRole:
            return self._fonts[True] if column.numeric else None
        if role not in _ROLES:
            return None
        return self._content(column, self.row(index.row()), role)

    def _content(self, column: Column, row: Any | None, role: int) -> Any:
        if row is None:
            return LATE if role == Qt.ItemDataRole.DisplayRole else None
        if role == ROW_ROLE:
            return row
        if role == TOKENS_ROLE:
            return column.tokens(row) if column.tokens else None
        if role == Qt.ItemDataRole.ToolTipRole:
            return column.tip(row) if column.tip else None
        if role == Qt.ItemDataRole.ForegroundRole:
            told = column.role if isinstance(column.role, str) else column.role(row)
            return _color(told) if told else None
        return column.show(row)

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        if orientation != Qt.Orientation.Horizontal:
            return None
        column = self.columns[section]
        if role == Qt.ItemDataRole.DisplayRole:
            return column.title
        if role == Qt.ItemDataRole.ToolTipRole:
            return column.help or None
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _SIDES[column.numeric]
        return None

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        if 0 <= column < len(self.columns) and self.columns[column].sort_key:
            descending = order == Qt.SortOrder.DescendingOrder
            self.sort_requested.emit(self.columns[column].sort_key, descending)


def _color(role: str) -> QColor:
    return _made(appearance().colors.role(role))


@lru_cache(maxsize=64)
def _made(color: str) -> QColor:
    return QColor(color)


class RowTable(QTableView):
    """The view: whole-row selection, header clicks ask the model to sort, Return opens a row."""

    opened = Signal(object)  # id: double click or Return
    chosen = Signal(object)  # id of the current row

    def __init__(
        self, model: BlockTableModel, parent: QWidget | None = None, *, sorted_by: int = -1
    ) -> None:
        """`sorted_by`: the column whose descending order the ids arrive in at first."""
        super().__init__(parent)
        self.setTabKeyNavigation(False)  # Tab leaves it
        self.rows = model
        header = self.horizontalHeader()
        header.setSortIndicator(sorted_by, Qt.SortOrder.DescendingOrder)
        header.setSortIndicatorClearable(False)
        header.setSortIndicatorShown(sorted_by >= 0)
        header.setSectionsClickable(True)
        self._order = (sorted_by, Qt.SortOrder.DescendingOrder)
        self.setModel(model)
        header.sortIndicatorChanged.connect(self._on_indicator)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.verticalHeader().hide()
        self.verticalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        self.verticalHeader().setDefaultSectionSize(appearance().px(40))
        header.setHighlightSections(False)
        self._delegate = TokenTextDelegate(self)
        self._painter = RowPainter(self, self._delegate.draw)
        self._wide = [at for at, column in enumerate(model.columns) if not column.width]
        for position, column in enumerate(model.columns):
            if column.tokens is not None:
                self.setItemDelegateForColumn(position, self._delegate)
            if column.width:
                header.resizeSection(position, appearance().px(column.width))
            else:
                header.setSectionResizeMode(position, QHeaderView.ResizeMode.Stretch)
        self.doubleClicked.connect(self._on_double_clicked)
        self.selectionModel().currentRowChanged.connect(self._on_current)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """What takes the room that is left keeps some, too: then the table is scrolled sideways."""
        super().resizeEvent(event)
        header, least = self.horizontalHeader(), appearance().px(LEAST)
        taken = sum(header.sectionSize(at) for at in range(header.count()) if at not in self._wide)
        modes = QHeaderView.ResizeMode
        fits = self.viewport().width() - taken >= least * len(self._wide)
        for at in self._wide:
            if header.sectionResizeMode(at) != (wanted := modes.Stretch if fits else modes.Fixed):
                header.setSectionResizeMode(at, wanted)
            if not fits:
                header.resizeSection(at, least)

    def current_id(self) -> Any | None:
        """Id of the current row, None without one."""
        index = self.currentIndex()
        return self.rows.id_at(index.row()) if index.isValid() else None

    def select_id(self, object_id: Any) -> bool:
        """Make the row of an id current and visible; False if it is not shown."""
        position = self.rows.position(object_id)
        if position < 0:
            return False
        self.selectRow(position)
        self.scrollTo(self.rows.index(position, 0))
        return True

    def selected_ids(self) -> list[Any]:
        """Ids of the selected rows, in table order; without a selection that of the current row."""
        ids, found = self.rows.ids(), list[Any]()
        selection: Any = self.selectionModel().selection()
        ranges = sorted(selection, key=lambda part: part.top())
        for part in ranges:
            found += ids[part.top() : part.bottom() + 1].tolist()
        current = self.current_id()
        return list(dict.fromkeys(found)) or ([] if current is None else [current])

    def step(self, by: int) -> None:
        """Move the current row down (or up, if negative)."""
        position = self.currentIndex().row() + by
        if 0 <= position < self.rows.rowCount():
            self.selectRow(position)

    def paintEvent(self, event: QPaintEvent) -> None:
        region = event.region()
        if self.isEnabled():
            region = self._painter.paint(region, self._marked_rows(region))
        if not region.isEmpty():
            super().paintEvent(QPaintEvent(region))

    def _marked_rows(self, region: QRegion) -> set[int]:
        """Rows in view that are selected, current or under the mouse: the style draws those."""
        viewport = self.viewport()
        box = region.boundingRect()
        marked = {self.currentIndex().row()}
        if viewport.underMouse():
            marked.add(self.rowAt(viewport.mapFromGlobal(QCursor.pos()).y()))
        chosen = self.selectionModel()
        if chosen.hasSelection():
            first, last = self.rowAt(box.top()), self.rowAt(box.bottom())
            last = self.rows.rowCount() - 1 if last < 0 else last
            selection: Any = chosen.selection()
            for part in selection:
                marked.update(range(max(first, part.top()), min(last, part.bottom()) + 1))
        return marked

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and not event.modifiers():
            found = self.current_id()
            if found is not None:
                self.opened.emit(found)
        else:
            super().keyPressEvent(event)

    def _on_indicator(self, column: int, order: Qt.SortOrder) -> None:
        """Sort by a column that can be sorted by; else put the mark back."""
        if (column, order) == self._order:
            return
        header = self.horizontalHeader()
        if self.rows.columns[column].sort_key:
            self._order = (column, order)
            header.setSortIndicatorShown(True)
            self.rows.sort(column, order)
        else:
            header.setSortIndicator(*self._order)

    def _on_double_clicked(self, index: QModelIndex) -> None:
        self.opened.emit(self.rows.id_at(index.row()))

    def _on_current(self, current: QModelIndex, previous: QModelIndex) -> None:
        if current.isValid():
            self.chosen.emit(self.rows.id_at(current.row()))
