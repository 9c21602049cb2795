"""The Datasets tab: ways to get text, the datasets there are, one dialog for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from PySide6.QtGui import QDropEvent
from PySide6.QtWidgets import QVBoxLayout, QWidget

from mistudio.core.units import format_bytes, format_count
from mistudio.gui.services import Services
from mistudio.gui.tabs.datasets.download_card import DownloadCard
from mistudio.gui.tabs.library.cached_card import CachedRepositories
from mistudio.gui.tabs.library.cards import ObjectCard
from mistudio.gui.tabs.library.source_switch import SourceSwitch
from mistudio.gui.tabs.library.tab import LibraryTab
from mistudio.gui.theme import appearance
from mistudio.jobs import library_pages
from mistudio.jobs.dependants import of_dataset
from mistudio.jobs.library_pages import DatasetList, ListedDataset
from mistudio.store.records import DatasetRow, JobRow

if TYPE_CHECKING:
    from mistudio.gui.tabs.datasets.import_card import ImportDatasetCard


class DatasetsTab(LibraryTab):
    """Every dataset of the data folder; a click opens its samples, tokens and counts."""

    kinds = ("datasets", "tokenizations")
    noun = "dataset"
    icon = "database"
    color = "blue"
    columns = 2

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        self.download = DownloadCard(services)
        self.sources = SourceSwitch(services.settings, "get_datasets")
        self.cached = CachedRepositories(
            services, "dataset", "Choose", "Preview it above; what is in the cache is not fetched"
        )
        self.cached.add_asked.connect(self.download.choose)
        self.sources.add("hub", "Download from the Hub", "download", self._hub_page())
        self.sources.add("files", "Import from this machine", "upload", self._make_importer)
        super().__init__(
            services,
            lambda: cast("ImportDatasetCard", self.sources.made("files")),
            of_dataset,
            title="Datasets",
            subtitle="Text to train on and to look through.",
            getter=self.sources,
            parent=parent,
            every="All sources",
        )
        self.sources.restore()
        self.empty.sentence.setText(
            "No datasets yet. Download or import one above, or let the bundled sample show the "
            "whole way: its text, its small model, a trained SAE and its features."
        )

        self.cached.read()

    def _make_importer(self) -> QWidget:
        from mistudio.gui.tabs.datasets.import_card import ImportDatasetCard

        return ImportDatasetCard(self.services)

    def _hub_page(self) -> QWidget:
        page = QWidget()
        box = QVBoxLayout(page)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(appearance().px(8))
        box.addWidget(self.download)
        box.addWidget(self.cached)
        return page

    def load(self, db: Any) -> DatasetList:
        return library_pages.datasets(self.services.studio)

    def take(self, answer: DatasetList) -> tuple[Sequence[ListedDataset], Sequence[JobRow]]:
        self.cached.leave_out(entry.row for entry in answer.datasets)
        return answer.datasets, answer.jobs

    def work_row(self, entry: ListedDataset) -> DatasetRow:
        return entry.row

    def fill_card(self, card: ObjectCard, entry: ListedDataset) -> None:
        row = entry.row
        facts = " · ".join(
            (row.source, format_bytes(entry.size_bytes), f"{format_count(row.num_samples)} samples")
        )
        ready = sum(t.status == "ready" for t in entry.tokenizations)
        shown = f"{ready} tokenisation" if ready == 1 else f"{ready} tokenisations"
        card.show_object(row.name, facts, row.status, extra=shown if ready else "Not tokenised")

    def words(self, entry: ListedDataset) -> str:
        return f"{entry.row.name} {entry.row.source} {entry.row.description or ''}"

    def further(self, entry: ListedDataset) -> str:
        return entry.row.source

    def open_dialog(self, entry: ListedDataset) -> QWidget:
        from mistudio.gui.tabs.datasets.detail import DatasetDialog

        dialog = DatasetDialog(self.services, entry, self)
        dialog.delete_asked.connect(self.deleter.ask)
        return dialog

    def select(self, **selection: Any) -> None:
        if selection.get("dataset"):
            self.show_object(str(selection["dataset"]))
        if selection.get("import_file"):
            self.sources.open("files")
            self.importer.form.fields["path"].editor.setFocus()

    def run_primary(self) -> None:
        if self.sources.current() == "hub":
            self.download.submit()
        elif self.sources.current() == "files":
            self.importer.submit()

    def dropEvent(self, event: QDropEvent) -> None:
        self.sources.open("files")
        super().dropEvent(event)
