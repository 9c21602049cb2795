"""The window of one dataset: overview, samples, tokenisations, statistics."""

from __future__ import annotations

from PySide6.QtCore import QTimer, Signal
from PySide6.QtWidgets import QTabWidget, QWidget

from mistudio.gui.dialog import Dialog
from mistudio.gui.services import Services
from mistudio.gui.tabs.datasets.overview import OverviewPage
from mistudio.gui.tabs.datasets.samples import SamplesPage
from mistudio.gui.tabs.datasets.statistics import StatisticsPage
from mistudio.gui.tabs.datasets.tokenization import TokenizationPage
from mistudio.gui.widgets.cards import button
from mistudio.jobs import library_pages
from mistudio.jobs.library_pages import ListedDataset

PAGES = ("Overview", "Samples", "Tokenization", "Statistics")


class DatasetDialog(Dialog):
    """Shows a dataset and follows its changes; closes when the dataset is gone."""

    delete_asked = Signal(str)

    def __init__(
        self, services: Services, listed: ListedDataset, parent: QWidget | None = None
    ) -> None:
        super().__init__(listed.row.name, parent, width=1152, height_share=0.9, scroll=False)
        self._services = services
        self.dataset_id = listed.row.id
        self.overview = OverviewPage(services)
        self.samples = SamplesPage(services, listed)
        self.tokenization = TokenizationPage(services, listed.row)
        self.statistics = StatisticsPage()
        self.pages = QTabWidget()
        for name, page in zip(PAGES, self._all_pages(), strict=True):
            self.pages.addTab(page, name)
        self.box.addWidget(self.pages, 1)
        delete = button(
            "Delete dataset",
            self._ask_delete,
            icon="trash",
            tip="Delete its text and tokenisations; asks first",
        )
        self.buttons.insertWidget(0, delete)
        self.add_close()
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(50)
        self._soon.timeout.connect(self.refresh)
        services.publisher.changed.connect(self._on_changed)
        services.lanes.started.connect(self._on_job)
        services.lanes.finished.connect(self._on_job)
        self._show(listed)
        self.refresh()

    def _all_pages(self) -> tuple[QWidget, QWidget, QWidget, QWidget]:
        return self.overview, self.samples, self.tokenization, self.statistics

    def refresh(self) -> None:
        """Read the dataset again."""
        studio, wanted = self._services.studio, self.dataset_id
        self._services.query.ask(
            lambda _: library_pages.dataset(studio, wanted), self._on_dataset, key="dataset"
        )

    def _on_changed(self, kind: str, object_id: str) -> None:
        if kind in ("datasets", "tokenizations", "models", "jobs"):
            self._soon.start()

    def _on_job(self, *told: object) -> None:
        self._soon.start()

    def _on_dataset(self, listed: ListedDataset | None) -> None:
        if listed is None:
            self.close()
        else:
            self._show(listed)

    def _show(self, listed: ListedDataset) -> None:
        self.overview.show_dataset(listed)
        self.samples.show_dataset(listed)
        self.tokenization.show_dataset(listed)
        self.statistics.show_dataset(listed)

    def _ask_delete(self) -> None:
        self.delete_asked.emit(self.dataset_id)
