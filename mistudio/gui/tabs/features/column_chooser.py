"""Which columns of the feature table are shown, in which order and how wide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PySide6.QtCore import QEvent, QObject, Qt, Signal
from PySide6.QtGui import QMouseEvent
from PySide6.QtWidgets import QHeaderView, QMenu, QWidget
from shiboken6 import isValid

from mistudio.gui.tabs.features.columns import DEFAULT, MATCH, name_of
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.row_table import RowTable

_LEAST, _TEXT = 56, 180  # least width; that of a column of words where none is left to share


class StayingMenu(QMenu):
    """A menu that stays open while its check marks are set."""

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        action = self.actionAt(event.position().toPoint())
        if action is not None and action.isCheckable() and action.isEnabled():
            action.trigger()
        else:
            super().mouseReleaseEvent(event)


class ColumnChooser(QObject):
    """Shows and hides columns of a view; `changed` follows what the user does to them."""

    changed = Signal()

    def __init__(self, view: RowTable, parent: QWidget) -> None:
        super().__init__(parent)
        self._view = view
        self._header = view.horizontalHeader()
        self._names = [name_of(column) for column in view.rows.columns]
        self._shown = set(DEFAULT)
        self._absent: frozenset[str] = frozenset()
        self._ranked = False
        self._quiet = False
        self.menu = StayingMenu(parent)
        self.menu.aboutToShow.connect(self._fill_menu)
        self._header.setSectionsMovable(True)
        self._header.setMinimumSectionSize(appearance().px(_LEAST))
        self._header.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self._header.customContextMenuRequested.connect(self._on_asked)
        self._header.sectionMoved.connect(self._tell)
        self._header.sectionResized.connect(self._on_resized)
        view.viewport().installEventFilter(self)
        self._apply()

    def set_absent(self, columns: frozenset[str]) -> None:
        """Columns that hold nothing yet, as no analysis filled them."""
        if columns != self._absent:
            self._absent = columns
            self._apply()

    def set_ranked(self, on: bool) -> None:
        """Whether the rows answer a search that gives each a score."""
        if on != self._ranked:
            self._ranked = on
            self._apply()

    def shown(self) -> list[str]:
        """Names of the columns seen, from left to right."""
        order = [self._header.logicalIndex(place) for place in range(self._header.count())]
        return [self._names[i] for i in order if not self._view.isColumnHidden(i)]

    def state(self) -> dict[str, Any]:
        """What to remember: the chosen columns in their order, and widths that were set."""
        order = [self._names[self._header.logicalIndex(i)] for i in range(self._header.count())]
        fixed = QHeaderView.ResizeMode.Interactive
        widths = {
            name: round(self._header.sectionSize(i) / appearance().px(1000) * 1000)
            for i, name in enumerate(self._names)
            if name in self._shown
            and not self._view.isColumnHidden(i)
            and self._view.rows.columns[i].width
            and self._header.sectionResizeMode(i) == fixed
        }
        return {"shown": [n for n in order if n in self._shown], "order": order, "widths": widths}

    def restore(self, stored: Any) -> None:
        """Show what `state` gave earlier; what is unknown is left as it is."""
        if not isinstance(stored, Mapping):
            stored = {"shown": DEFAULT, "order": self._names, "widths": {}}
        shown, order, widths = stored.get("shown"), stored.get("order"), stored.get("widths")
        self._quiet = True
        if isinstance(shown, Sequence):
            known = {name for name in shown if name in self._names}
            self._shown = known or set(DEFAULT)
        place = 0
        for name in order if isinstance(order, Sequence) else ():
            if name in self._names:
                at = self._header.visualIndex(self._names.index(name))
                self._header.moveSection(at, place)
                place += 1
        for i, (name, column) in enumerate(zip(self._names, self._view.rows.columns, strict=True)):
            wide = widths.get(name, column.width) if isinstance(widths, Mapping) else column.width
            if column.width and isinstance(wide, (int, float)) and 20 <= wide <= 2000:
                self._header.resizeSection(i, appearance().px(wide))
        self._quiet = False
        self._apply()

    def choose(self, name: str, on: bool) -> None:
        """Show a column or hide it; one is always left."""
        chosen = self._shown | {name} if on else self._shown - {name}
        if chosen:
            self._shown = chosen
            self._apply()
            self.changed.emit()

    def _apply(self) -> None:
        self._quiet = True
        for i, name in enumerate(self._names):
            seen = self._ranked if name == MATCH else name in self._shown
            self._view.setColumnHidden(i, not seen or name in self._absent)
        self._quiet = False
        self._fit()

    def _fit(self) -> None:
        """Share what is left among columns of words, or give each its width and let it scroll."""
        px, header = appearance().px, self._header
        seen = [i for i in range(len(self._names)) if not self._view.isColumnHidden(i)]
        flexible = [i for i in seen if not self._view.rows.columns[i].width]
        taken = sum(header.sectionSize(i) for i in seen if i not in flexible)
        room = self._view.viewport().width() - taken
        scrolls = room < px(_TEXT) * len(flexible)
        mode = QHeaderView.ResizeMode.Interactive if scrolls else QHeaderView.ResizeMode.Stretch
        self._quiet = True
        for i in flexible:
            if header.sectionResizeMode(i) != mode:
                header.setSectionResizeMode(i, mode)
            if scrolls and header.sectionSize(i) < px(_TEXT):
                header.resizeSection(i, px(_TEXT))
        self._quiet = False

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() == QEvent.Type.Resize and isValid(self._header):
            self._fit()
        return False

    def _fill_menu(self) -> None:
        self.menu.clear()
        for column, name in zip(self._view.rows.columns, self._names, strict=True):
            if name == MATCH or name in self._absent:
                continue
            title = "Favourite" if column.title == "★" else column.title
            action = self.menu.addAction(title)
            action.setCheckable(True)
            action.setChecked(name in self._shown)
            action.setToolTip(column.help)
            action.setData(name)
            action.triggered.connect(self._on_chosen)
        self.menu.setToolTipsVisible(True)
        self.menu.addSeparator()
        self.menu.addAction("The usual columns").triggered.connect(self._on_usual)

    def _on_chosen(self, on: bool) -> None:
        action: Any = self.sender()
        self.choose(action.data(), on)
        action.setChecked(action.data() in self._shown)

    def _on_usual(self) -> None:
        self.restore(None)
        self.changed.emit()

    def _on_asked(self, at: Any) -> None:
        self.menu.popup(self._header.mapToGlobal(at))

    def _on_resized(self, section: int, old: int, new: int) -> None:
        # the header's last words come while the table is taken down
        if self._quiet or not old or not new or not isValid(self._header):
            return
        self._fit()
        self._tell()

    def _tell(self) -> None:
        if not self._quiet:
            self.changed.emit()
