"""The window of the user's lists: make, rename, delete; what each holds, with notes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import (
    QAbstractItemView,
    QHBoxLayout,
    QHeaderView,
    QListWidget,
    QListWidgetItem,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from mistudio.core.units import EM_DASH
from mistudio.gui import ask
from mistudio.gui.dialog import Dialog, confirm
from mistudio.gui.services import Services
from mistudio.gui.theme import appearance
from mistudio.gui.undo import Undo
from mistudio.gui.widgets.cards import button, label, row
from mistudio.store import feature_lists, feature_views
from mistudio.store.feature_lists import FeatureList, ListItem
from mistudio.store.removed import Removed, put_back

MOST_SHOWN = 1000
TITLES = ("Feature", "SAE", "Label", "Note in this list")
NOTE = 3


class ListsDialog(Dialog):
    """Lists on the left, the features of the chosen one on the right; `opened(sae, index)`."""

    opened = Signal(str, int)

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__("Lists of features", parent, width=960, scroll=False)
        self._services = services
        self._lists: list[FeatureList] = []
        self._items: list[ListItem] = []
        self.names = QListWidget()
        self.names.setAccessibleName("Lists")
        self.names.setMaximumWidth(appearance().px(280))
        self.table = QTableWidget(0, len(TITLES))
        self.table.setTabKeyNavigation(False)  # Tab leaves it
        self.table.setHorizontalHeaderLabels(TITLES)
        self.table.setAccessibleName("Features of the list")
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.verticalHeader().hide()
        self.table.setShowGrid(False)
        header = self.table.horizontalHeader()
        header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        for column in range(len(TITLES)):
            stretches = column in (2, NOTE)
            mode = QHeaderView.ResizeMode
            header.setSectionResizeMode(
                column, mode.Stretch if stretches else mode.ResizeToContents
            )
        self.about = label("", "muted", wrap=True)
        self.problem = label("", "error", wrap=True)
        self.problem.hide()
        self._lay_out()
        self.names.currentRowChanged.connect(self._on_list)
        self.table.itemChanged.connect(self._on_edited)
        self.table.itemDoubleClicked.connect(self._on_double_clicked)
        services.publisher.changed.connect(self._on_changed)
        self.read()

    def _lay_out(self) -> None:
        px = appearance().px
        self.rename_button = button(
            "Rename…", self._on_rename, icon="edit", tip="Give the list another name"
        )
        self.delete_button = button(
            "Delete…", self._on_delete, icon="trash", tip="Delete the list; its features stay"
        )
        self.remove_button = button("Take out", self.remove, icon="minus_circle")
        self.remove_button.setToolTip("Take the selected features out of the list")
        left = QVBoxLayout()
        left.setSpacing(px(8))
        left.addWidget(self.names, 1)
        new = button("New list…", self._on_new, icon="plus", tip="Make an empty list")
        left.addWidget(new)
        right = QVBoxLayout()
        right.setSpacing(px(8))
        right.addWidget(self.about)
        right.addWidget(self.table, 1)
        right.addWidget(self.problem)
        right.addLayout(row(self.remove_button, None, self.rename_button, self.delete_button))
        both = QHBoxLayout()
        both.setSpacing(px(16))
        both.addLayout(left)
        both.addLayout(right, 1)
        self.box.addLayout(both, 1)
        self.setTabOrder(self.names, new)
        self.setTabOrder(new, self.table)
        self.add_close()

    def current(self) -> FeatureList | None:
        """The chosen list."""
        at = self.names.currentRow()
        return self._lists[at] if 0 <= at < len(self._lists) else None

    def read(self) -> None:
        """Read the lists again, keeping the choice."""
        self._services.query.ask(feature_lists.lists, self._show_lists, key="lists")

    def _show_lists(self, lists: list[FeatureList]) -> None:
        before = self.current()
        self._lists = lists
        self.names.blockSignals(True)
        self.names.clear()
        for found in lists:
            self.names.addItem(QListWidgetItem(f"{found.name}  ({found.count:,})"))
        ids = [found.id for found in lists]
        kept = ids.index(before.id) if before and before.id in ids else 0
        self.names.setCurrentRow(kept if lists else -1)
        self.names.blockSignals(False)
        self._on_list()

    def _on_list(self) -> None:
        chosen = self.current()
        for one in (self.rename_button, self.delete_button, self.remove_button):
            one.setEnabled(chosen is not None)
        if chosen is None:
            self._show_items([])
            self.about.setText(
                "There is no list yet. Select features in the table and choose “Add to list”."
            )
        else:
            list_id = chosen.id
            self._services.query.ask(
                lambda db: feature_lists.items(db, list_id), self._show_items, key="items"
            )

    def _show_items(self, items: list[ListItem]) -> None:
        chosen = self.current()
        self._items = items[:MOST_SHOWN]
        if chosen is not None:
            more = len(items) - len(self._items)
            parts = (
                chosen.description,
                f"{len(items):,} features",
                f"the first {MOST_SHOWN:,} are shown" if more else "",
            )
            self.about.setText(" · ".join(part for part in parts if part))
        self.table.blockSignals(True)
        self.table.setRowCount(len(self._items))
        for place, item in enumerate(self._items):
            texts = (f"#{item.feature}", item.sae_name, item.label or EM_DASH, item.note)
            for column, text in enumerate(texts):
                cell = QTableWidgetItem(text)
                if column != NOTE:
                    cell.setFlags(cell.flags() & ~Qt.ItemFlag.ItemIsEditable)
                self.table.setItem(place, column, cell)
        self.table.blockSignals(False)

    def _on_double_clicked(self, cell: QTableWidgetItem) -> None:
        if cell.column() != NOTE:
            item = self._items[cell.row()]
            self.opened.emit(item.sae_id, item.feature)

    def _on_edited(self, cell: QTableWidgetItem) -> None:
        chosen = self.current()
        if chosen is not None and cell.column() == NOTE:
            item, text, list_id = self._items[cell.row()], cell.text(), chosen.id
            self._write(
                lambda db: feature_lists.set_note(db, list_id, item.sae_id, item.feature, text)
            )

    def remove(self) -> None:
        """Take the selected features out of the list."""
        chosen = self.current()
        rows = {index.row() for index in self.table.selectionModel().selectedRows()}
        items = [self._items[place] for place in sorted(rows)]
        if chosen is None or not items:
            return
        list_id = chosen.id

        def take_out(db: Any) -> None:
            for item in items:
                feature_lists.remove(db, list_id, item.sae_id, [item.feature])

        self._write(take_out)

    def _on_new(self) -> None:
        name, given = ask.text(self, "New list", "Name of the list")
        if given:
            self._write(lambda db: feature_lists.create(db, name))

    def _on_rename(self) -> None:
        chosen = self.current()
        if chosen is None:
            return
        name, given = ask.text(self, "Rename list", "New name", chosen.name)
        if given:
            self._write(lambda db: feature_lists.rename(db, chosen.id, name))

    def _on_delete(self) -> None:
        chosen = self.current()
        if chosen is None:
            return
        self._services.query.ask(
            lambda db: (chosen, feature_views.using_list(db, chosen.id)), self._ask_delete
        )

    def _ask_delete(self, found: tuple[FeatureList, list[str]]) -> None:
        chosen, used = found
        said = f"Its {chosen.count:,} features stay; the notes of the list are lost."
        if used:
            said += f" Views that narrow by it will leave that out: {', '.join(used)}."
        if confirm(self, f"Delete list “{chosen.name}”?", said):
            self._services.query.ask(
                lambda db: (chosen.name, feature_lists.delete(db, chosen.id)),
                self._on_deleted,
                on_error=self._on_error,
            )

    def _on_deleted(self, found: tuple[str, Removed]) -> None:
        name, removed = found
        publish = partial(self._services.publisher.publish, "feature_lists", "")
        publish()
        said = f"The list “{name}” is deleted."
        Undo(self._services, said, lambda db: put_back(db, removed), publish)

    def _write(self, change: Callable[[Any], Any]) -> None:
        self.problem.hide()
        self._services.query.ask(change, self._on_written, on_error=self._on_error)

    def _on_written(self, _: Any) -> None:
        self._services.publisher.publish("feature_lists", "")

    def _on_error(self, sentence: str, details: str) -> None:
        self.problem.setText(sentence)
        self.problem.show()

    def _on_changed(self, kind: str, object_id: str) -> None:
        if kind == "feature_lists":
            self.read()
