"""The Overview page of a dataset: what it is, where it lies, who uses it, what was found."""

from __future__ import annotations

from PySide6.QtCore import QUrl
from PySide6.QtGui import QDesktopServices
from PySide6.QtWidgets import QFrame, QGridLayout, QLabel, QScrollArea, QVBoxLayout, QWidget

from mistudio.core.units import EM_DASH, format_bytes, format_count
from mistudio.gui.services import Services
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import Card, MetricTile, button, label, row
from mistudio.jobs.library_pages import ListedDataset

_TILES = (
    ("Samples", "emerald"),
    ("Characters per sample", "blue"),
    ("Vocabulary", "purple"),
    ("State", "text"),
    ("Source", "text"),
    ("Format", "text"),
    ("Size on disk", "text"),
)
_COLUMNS = 4


class OverviewPage(QScrollArea):
    """Tiles, description and facts of a dataset."""

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._services = services
        self._folder = ""
        px = appearance().px
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        content = QWidget()
        content.setObjectName("column")
        outer = QVBoxLayout(content)
        outer.setContentsMargins(0, px(16), px(8), 0)
        outer.setSpacing(px(12))
        tiles = QGridLayout()
        tiles.setSpacing(px(12))
        self.tiles = {name: MetricTile(name, color=color) for name, color in _TILES}
        for place, tile in enumerate(self.tiles.values()):
            tiles.addWidget(tile, place // _COLUMNS, place % _COLUMNS)
        outer.addLayout(tiles)
        self.description = label("", wrap=True, selectable=True)
        outer.addWidget(self.description)
        card = Card("settings")
        self._grid = QGridLayout()
        self._grid.setHorizontalSpacing(px(24))
        self._grid.setVerticalSpacing(px(8))
        self._grid.setColumnStretch(1, 1)
        self.facts: dict[str, QLabel] = {}
        card.box.addLayout(self._grid)
        self.open_folder = button(
            "Open folder", self._open, icon="folder", tip="Show the files in the file manager"
        )
        card.box.addLayout(row(self.open_folder, None))
        outer.addWidget(card)
        outer.addStretch(1)
        self.setWidget(content)

    def show_dataset(self, listed: ListedDataset) -> None:
        """Show what is known of a dataset now."""
        row_, found = listed.row, listed.row.statistics or {}
        newest = next((t.statistics for t in listed.tokenizations if t.statistics), None) or {}
        self.tiles["Samples"].set_value(format_count(row_.num_samples))
        self.tiles["Characters per sample"].set_value(format_count(found.get("length_mean")))
        self.tiles["Vocabulary"].set_value(format_count(newest.get("vocab_size")))
        self.tiles["State"].set_value(row_.status)
        self.tiles["Source"].set_value(row_.source)
        self.tiles["Format"].set_value(str(found.get("format", EM_DASH)))
        self.tiles["Size on disk"].set_value(format_bytes(listed.size_bytes))
        self.description.setText(row_.description or "")
        self.description.setVisible(bool(row_.description))
        self._folder = str(self._services.studio.paths.dataset(row_.id))
        self._show_facts(facts_of(listed, self._folder))

    def _show_facts(self, facts: dict[str, str]) -> None:
        for line, (name, text) in enumerate(facts.items()):
            value = self.facts.get(name)
            if value is None:
                value = label("", "mono", wrap=True, selectable=True)
                value.setAccessibleName(name)
                self.facts[name] = value
                self._grid.addWidget(label(name, "label"), line, 0)
                self._grid.addWidget(value, line, 1)
            value.setText(text)

    def _open(self) -> None:
        QDesktopServices.openUrl(QUrl.fromLocalFile(self._folder))


def facts_of(listed: ListedDataset, folder: str) -> dict[str, str]:
    """Every fact of a dataset by its name, in order; what is not known is an em-dash."""
    row_, found = listed.row, listed.row.statistics or {}
    others = [name for name in found.get("columns", []) if name != row_.text_column]
    hub = " · ".join(
        part
        for part in (
            row_.repo_id or "",
            f"config {row_.config}" if row_.config else "",
            f"split {row_.split}" if row_.split else "",
            f"revision {row_.revision}" if row_.revision else "",
            f"commit {row_.commit_sha[:10]}" if row_.commit_sha else "",
        )
        if part
    )
    users = listed.used_by.get(row_.id)
    return {
        "Used by": EM_DASH if users is None else ", ".join(users) or "nothing",
        "Folder": folder,
        "On the Hub": hub or "no",
        "Licence": row_.licence or "not stated",
        "Text column": row_.text_column or EM_DASH,
        "Other columns": ", ".join(others) or "none",
        "Characters": format_count(found.get("characters")),
        "Tokens, estimated": format_count(found.get("estimated_tokens")),
        "Left out as empty": format_count(found.get("empty_documents")),
        "Left out as unreadable": format_count(found.get("skipped_rows")),
        "Bytes replaced": format_count(found.get("bad_bytes")),
        "Word index": "built" if row_.is_indexed else "not built",
        "Imported": row_.created_at[:19].replace("T", " ") + " UTC",
    }
