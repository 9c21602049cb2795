"""The Overview page of a dataset: what it is, where it lies, what was found on import."""

from __future__ import annotations

from PySide6.QtWidgets import QGridLayout, QVBoxLayout, QWidget

from mistudio.core.units import EM_DASH, format_bytes, format_count
from mistudio.gui.services import Services
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import Card, MetricTile, label
from mistudio.jobs.library_pages import ListedDataset

_TILES = (
    ("Samples", "emerald"),
    ("Characters per sample", "blue"),
    ("Distinct tokens", "purple"),
    ("Size on disk", "text"),
    ("Source", "text"),
    ("Format", "text"),
)
_FACTS = (
    "Folder",
    "Licence",
    "Text column",
    "Other columns",
    "Characters",
    "Left out as empty",
    "Bytes that were not UTF-8",
    "Imported",
)


class OverviewPage(QWidget):
    """Tiles and facts of a dataset."""

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._services = services
        px = appearance().px
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, px(16), 0, 0)
        outer.setSpacing(px(16))
        tiles = QGridLayout()
        tiles.setSpacing(px(12))
        self.tiles = {name: MetricTile(name, color=color) for name, color in _TILES}
        for place, tile in enumerate(self.tiles.values()):
            tiles.addWidget(tile, place // 3, place % 3)
        outer.addLayout(tiles)
        card = Card("settings")
        grid = QGridLayout()
        grid.setHorizontalSpacing(px(24))
        grid.setVerticalSpacing(px(8))
        grid.setColumnStretch(1, 1)
        self.facts = {name: label(EM_DASH, "mono", wrap=True, selectable=True) for name in _FACTS}
        for line, (name, value) in enumerate(self.facts.items()):
            grid.addWidget(label(name, "label"), line, 0)
            value.setAccessibleName(name)
            grid.addWidget(value, line, 1)
        card.box.addLayout(grid)
        outer.addWidget(card)
        outer.addStretch(1)

    def show_dataset(self, listed: ListedDataset) -> None:
        """Show what is known of a dataset now."""
        row, found = listed.row, listed.row.statistics or {}
        newest = next((t.statistics for t in listed.tokenizations if t.statistics), None) or {}
        mean = found.get("length_mean")
        self.tiles["Samples"].set_value(format_count(row.num_samples))
        self.tiles["Characters per sample"].set_value(format_count(mean))
        self.tiles["Distinct tokens"].set_value(format_count(newest.get("unique_tokens")))
        self.tiles["Size on disk"].set_value(format_bytes(listed.size_bytes))
        self.tiles["Source"].set_value(row.source)
        self.tiles["Format"].set_value(str(found.get("format", EM_DASH)))
        folder = self._services.studio.paths.dataset(row.id)
        others = [name for name in found.get("columns", []) if name != row.text_column]
        values = (
            str(folder),
            row.licence or "not stated",
            row.text_column or EM_DASH,
            ", ".join(others) or "none",
            format_count(found.get("characters")),
            format_count(found.get("empty_documents")),
            format_count(found.get("bad_bytes")),
            row.created_at[:19].replace("T", " ") + " UTC",
        )
        for value, shown in zip(self.facts.values(), values, strict=True):
            value.setText(shown)
