"""The Storage window: the disk, what of it is ours by kind, and every item with who uses it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PySide6.QtCore import Slot
from PySide6.QtWidgets import QCheckBox, QGridLayout, QWidget

from mistudio.core.units import EM_DASH, format_bytes
from mistudio.gui.dialog import Dialog
from mistudio.gui.services import Services
from mistudio.gui.tabs.library.deleting import Deleter
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import MetricTile, button, label, row
from mistudio.gui.widgets.elided import Combo
from mistudio.gui.widgets.layout import SearchField, guard_wheel
from mistudio.gui.widgets.progress import ProgressBar
from mistudio.gui.widgets.row_table import BlockTableModel, Column, RowTable
from mistudio.jobs import storage
from mistudio.jobs.storage import KINDS, StoredItem, Usage

COLUMNS = (
    Column("Name", lambda item: item.name, "name", tip=lambda item: item.name),
    Column("Kind", lambda item: item.kind_name, "kind", 230, tip=lambda item: item.kind_name),
    Column("Size", lambda item: format_bytes(item.size_bytes), "size", 110, numeric=True),
    Column(
        "Used by",
        lambda item: item.used_by or "nothing",
        "used",
        220,
        tip=lambda item: item.used_by or "Nothing needs it",
    ),
    Column("Made", lambda item: item.created_at[:10] or EM_DASH, "made", 120, numeric=True),
)
SORTS = {
    "name": lambda item: item.name.casefold(),
    "kind": lambda item: (item.kind_name, -item.size_bytes),
    "size": lambda item: item.size_bytes,
    "used": lambda item: (not item.used_by, item.used_by),
    "made": lambda item: item.created_at,
}
TILE_COLUMNS = 7


class StorageDialog(Dialog):
    """Reads the disk when it opens and after every deletion."""

    def __init__(self, services: Services, parent: QWidget) -> None:
        super().__init__("Storage", parent, width=1152, height_share=0.95, scroll=False)
        self._services = services
        self._items: dict[str, StoredItem] = {}
        self._sort, self._descending = "size", True
        self.disk = label("Measuring…", "muted")
        self.bar = ProgressBar("blue", percent=False)
        self.tiles = {kind: MetricTile(name) for kind, name in KINDS.items()}
        self.search = SearchField("Search by name")
        self.kind = Combo()
        self.unused = QCheckBox("Only what nothing uses")
        self.model = BlockTableModel(COLUMNS, self._rows, services.query, self)
        self.table = RowTable(self.model)
        self.table.setAccessibleName("Stored items")
        self.delete = button("Delete", self._ask_delete, icon="trash")
        self.again = button("Measure again", self.refresh, icon="retry")
        self._deleter = Deleter(services, "storage", storage.dependants_of, self, storage.put_aside)
        self._build()
        self._connect()
        self.refresh()

    def _build(self) -> None:
        px = appearance().px
        self.box.addWidget(self.disk)
        self.box.addWidget(self.bar)
        grid = QGridLayout()
        grid.setSpacing(px(8))
        for column in range(TILE_COLUMNS):
            grid.setColumnStretch(column, 1)
        for position, tile in enumerate(self.tiles.values()):
            tile.keep_narrow()
            tile.box.addStretch(1)
            grid.addWidget(tile, position // TILE_COLUMNS, position % TILE_COLUMNS)
        self.box.addLayout(grid)
        self.kind.setAccessibleName("Kind")
        self.kind.setToolTip("Which kind of files is listed")
        self.unused.setToolTip("List what can be deleted without a loss to anything else")
        self.again.setToolTip("Read the disk again")
        self.kind.addItem("All kinds", "")
        for kind, name in KINDS.items():
            self.kind.addItem(name, kind)
        guard_wheel(self.kind)
        filters = row(self.search, self.kind, self.unused)
        filters.setStretch(0, 1)
        self.box.addLayout(filters)
        self.box.addWidget(self.table, 1)
        self.buttons.insertWidget(0, self.delete)
        self.buttons.insertWidget(1, self.again)
        self.add_close()
        self._offer()

    def _connect(self) -> None:
        self.search.searched.connect(self._show_items)
        self.kind.currentIndexChanged.connect(self._show_items)
        self.unused.toggled.connect(self._show_items)
        self.model.sort_requested.connect(self._on_sort)
        self.model.block_loaded.connect(self._offer)
        self.table.chosen.connect(self._offer)
        self._deleter.deleted.connect(self._on_deleted)

    @Slot()
    def refresh(self) -> None:
        """Measure the disk again."""
        studio = self._services.studio
        self.again.setEnabled(False)
        self._services.query.ask(lambda _: storage.usage(studio), self._on_usage, key="usage")

    def _on_usage(self, found: Usage) -> None:
        self.again.setEnabled(True)
        used = found.disk_total - found.disk_free
        share = 100 * used / found.disk_total if found.disk_total else 0.0
        self.disk.setText(
            f"{format_bytes(used)} of {format_bytes(found.disk_total)} are in use ({share:.0f} %), "
            f"{format_bytes(found.disk_free)} are free; {format_bytes(found.ours)} are miStudio's."
        )
        self.bar.set_color("red" if found.is_nearly_full else "blue")
        self.bar.set_value(share)
        for kind, tile in self.tiles.items():
            tile.set_value(format_bytes(found.by_kind[kind]))
        self._items = {item.key: item for item in found.items}
        self._show_items()

    @Slot()
    def _show_items(self, *_: object) -> None:
        words, kind = self.search.text().casefold().split(), self.kind.currentData()
        shown = [
            item
            for item in self._items.values()
            if kind in ("", item.kind)
            and not (self.unused.isChecked() and item.used_by)
            and all(word in f"{item.name} {item.kind_name}".casefold() for word in words)
        ]
        shown.sort(key=SORTS[self._sort], reverse=self._descending)
        self.model.set_ids([item.key for item in shown])
        self._offer()

    def _rows(self, _: Any, keys: np.ndarray) -> Sequence[StoredItem | None]:
        items = self._items
        return [items.get(str(key)) for key in keys]

    @Slot(str, bool)
    def _on_sort(self, key: str, descending: bool) -> None:
        self._sort, self._descending = key, descending
        self._show_items()

    def current(self) -> StoredItem | None:
        """The selected item."""
        index = self.table.currentIndex()
        return self.model.row(index.row()) if index.isValid() else None

    @Slot()
    def _offer(self, *_: object) -> None:
        item = self.current()
        self.delete.setEnabled(item is not None and item.can_delete)
        if item is None:
            self.delete.setToolTip("Select an item first")
        else:
            self.delete.setToolTip("" if item.can_delete else "Look into their folder for these")

    def _ask_delete(self) -> None:
        if (item := self.current()) is not None:
            self._deleter.ask(item.key)

    @Slot(str)
    def _on_deleted(self, key: str) -> None:
        for kind in ("datasets", "models", "tokenizations", "trainings", "saes", "feature_sets"):
            self._services.publisher.publish(kind, key.partition(":")[2])
        self.refresh()
