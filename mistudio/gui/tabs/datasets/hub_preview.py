"""What a dataset of the Hub holds, shown below the download form before anything is stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from PySide6.QtWidgets import QWidget

from mistudio.core.units import EM_DASH, format_bytes, format_count
from mistudio.gui.tabs.datasets.rows_table import RowsTable
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import Card, MetricTile, label, row
from mistudio.gui.widgets.pill import Pill

if TYPE_CHECKING:
    from mistudio.jobs.dataset_preview import DatasetPreview, SplitInfo

_DESCRIPTION = 600  # characters


class HubPreview(Card):
    """Facts, description, splits, columns, and the first rows."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("nested", parent, padding=16)
        self.box.setSpacing(appearance().px(10))
        self.title = label("", "card", selectable=True)
        self.gated = Pill("interrupted", "Gated")
        self.commit = label("", "mono", selectable=True)
        self.box.addLayout(row(self.title, self.gated, None, self.commit))
        self.warning = label("", "warning", wrap=True)
        self.box.addWidget(self.warning)
        self.description = label("", "muted", wrap=True, selectable=True)
        self.box.addWidget(self.description)
        self.tiles = {
            "Rows": MetricTile("Rows", color="emerald"),
            "Download": MetricTile("Download", color="blue"),
            "Columns": MetricTile("Columns", color="purple"),
            "Licence": MetricTile("Licence"),
        }
        self.box.addLayout(row(*self.tiles.values(), spacing=12))
        self.splits = label("", wrap=True)
        self.columns = label("", wrap=True)
        self.box.addWidget(self.splits)
        self.box.addWidget(self.columns)
        self.room = label("", wrap=True)
        self.box.addWidget(self.room)
        self.box.addWidget(label("First rows", "label"))
        self.table = RowsTable("First rows of the dataset")
        self.box.addWidget(self.table)

    def show_preview(self, found: DatasetPreview, room: str) -> None:
        """Show a preview; `room` is a line about the disk."""
        self.title.setText(found.id)
        self.gated.setVisible(found.gated)
        self.commit.setText(found.sha[:10])
        self.commit.setToolTip(f"Commit {found.sha}")
        self.warning.setText(found.warning)
        self.warning.setVisible(bool(found.warning))
        text = " ".join(found.description.split())
        self.description.setText(text[:_DESCRIPTION] + ("…" if len(text) > _DESCRIPTION else ""))
        self.description.setVisible(bool(text))
        self.tiles["Rows"].set_value(format_count(found.rows))
        self.tiles["Download"].set_value(format_bytes(found.size_bytes))
        self.tiles["Columns"].set_value(format_count(len(found.columns)))
        self.tiles["Licence"].set_value(found.licence or "not stated")
        self.splits.setText(f"Splits: {splits_line(found.splits)}")
        self.columns.setText(f"Columns: {columns_line(found)}")
        self.room.setText(f"Disk: {room}.")
        self.room.setVisible(bool(room))
        read = found.text_column[0] if found.text_column else ""
        self.table.show_rows(list(found.columns), found.first, read)


def splits_line(splits: Sequence[SplitInfo]) -> str:
    """ "train 10,000 rows (2.1 MB), test 500 rows (0.1 MB)"."""
    parts = [
        f"{split.name} "
        + ("" if split.rows is None else f"{format_count(split.rows)} rows ")
        + f"({format_bytes(split.bytes)})"
        for split in splits
    ]
    return ", ".join(parts) or EM_DASH


def columns_line(found: DatasetPreview) -> str:
    """ "text (text, read), id (number)"."""
    parts = [
        f"{name} ({kind}, read)" if name in found.text_column else f"{name} ({kind})"
        for name, kind in found.columns.items()
    ]
    return ", ".join(parts) or EM_DASH
