"""The card that imports text of this machine: settings, and what they would read, before it is."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QWidget

from mistudio.core.dataset_configs import TEXT_FORMATS, ImportDatasetConfig
from mistudio.core.errors import InvalidInput
from mistudio.core.units import format_bytes, format_count
from mistudio.gui.services import Services
from mistudio.gui.tabs.datasets.columns_editor import ColumnsEditor
from mistudio.gui.tabs.datasets.rows_table import RowsTable
from mistudio.gui.tabs.library.importing import ImportCard
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import Card, label
from mistudio.gui.widgets.editors import ChoiceEditor, PathEditor

if TYPE_CHECKING:
    from mistudio.jobs.import_preview import ImportPreview

_FILES = (
    "Text (*.txt *.md *.jsonl *.ndjson *.json *.csv *.tsv *.parquet *.arrow *.gz);;All files (*)"
)
_FORMATS = (
    ("auto", "By its ending"),
    ("saved", "save_to_disk folder"),
    ("folder", "folder of text files"),
)
_UNITS = (("auto", "Automatic"), ("paragraph", "Paragraph"), ("line", "Line"), ("file", "File"))
_WAIT_MS = 300


class ImportDatasetCard(ImportCard):
    """Imports files and folders; the first samples appear as soon as a path is there."""

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        known = [value for value, _ in _FORMATS]
        plain = [(name, name) for name in TEXT_FORMATS if name not in known]
        self.columns = ColumnsEditor()
        super().__init__(
            services,
            "import_dataset",
            ImportDatasetConfig,
            title="Import from this machine",
            hint="txt, md, csv, tsv, json, jsonl, parquet or arrow, a save_to_disk folder or a "
            "folder of text files, of any size. Drop it here or choose it.",
            editors={
                "path": PathEditor("either", _FILES),
                "format": ChoiceEditor([_FORMATS[0], *plain, *_FORMATS[1:]]),
                "text_column": self.columns,
                "sample_unit": ChoiceEditor(_UNITS),
            },
            command="dataset import",
            columns=2,
            parent=parent,
        )
        self.preview = ImportPreviewPanel()
        self.notice = label("", "muted", wrap=True)
        self.box.addWidget(self.notice)
        self.box.addWidget(self.preview)
        self.notice.hide()
        self.preview.hide()
        self._of: ImportDatasetConfig | None = None
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(_WAIT_MS)
        self._soon.timeout.connect(self.read)
        self.form.changed.connect(self._on_edited)

    def read(self) -> None:
        """Read the beginning of what the form names."""
        config = self._config()
        self._of = config
        if config is None:
            self._show_nothing("")
            return

        def look(_: object) -> ImportPreview:
            from mistudio.jobs import import_preview

            return import_preview.preview_file(config)

        self._services.query.ask(
            look,
            self._on_preview,
            on_error=self._on_preview_error,
            key="preview",
        )

    def _on_edited(self) -> None:
        if self._config() != self._of:
            self._soon.start()

    def _config(self) -> ImportDatasetConfig | None:
        """The settings that a preview depends on, None without a path."""
        try:
            config = self.form.values()
        except InvalidInput:
            return None
        if not isinstance(config, ImportDatasetConfig) or not config.path:
            return None
        return dataclasses.replace(config, name="", validation_share=0.0, test_share=0.0)

    def _on_preview(self, found: ImportPreview) -> None:
        self.notice.hide()
        self.columns.offer(found.columns, found.text_column)
        self.preview.show_preview(found)
        self.preview.show()

    def _on_preview_error(self, sentence: str, details: str) -> None:
        self._show_nothing(sentence)

    def _show_nothing(self, sentence: str) -> None:
        self.columns.forget()
        self.preview.hide()
        self.notice.setText(sentence)
        self.notice.setVisible(bool(sentence))


class ImportPreviewPanel(Card):
    """How a file would be read, and its first samples."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("nested", parent, padding=16)
        self.box.setSpacing(appearance().px(8))
        self.facts = label("", "label", wrap=True)
        self.columns = label("", "muted", wrap=True)
        self.warning = label("", "warning", wrap=True)
        self.table = RowsTable("First samples of the file")
        for part in (self.facts, self.columns, self.warning, self.table):
            self.box.addWidget(part)

    def show_preview(self, found: ImportPreview) -> None:
        """Show a preview."""
        self.facts.setText(facts_line(found))
        names = [
            f"{name} ({kind}, read)" if name in found.text_column else f"{name} ({kind})"
            for name, kind in found.columns.items()
        ]
        self.columns.setText(f"Columns: {', '.join(names)}")
        self.columns.setVisible(bool(names))
        self.warning.setText(found.warning)
        self.warning.setVisible(bool(found.warning))
        title = f"First {len(found.samples)} samples" if len(found.samples) > 1 else "First sample"
        self.table.show_rows([title], [{title: text} for text in found.samples])


def facts_line(found: ImportPreview) -> str:
    """ "jsonl · utf-8 · 12.3 MB · 2 files"."""
    parts = [found.format, found.encoding]
    if found.delimiter:
        parts.append(f"separated by {found.delimiter}")
    if found.sample_unit:
        parts.append(f"one sample per {found.sample_unit}")
    parts.append(format_bytes(found.bytes))
    if found.files > 1:
        parts.append(f"{format_count(found.files)} files")
    return " · ".join(part for part in parts if part)
