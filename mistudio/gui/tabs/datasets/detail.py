"""The window of one dataset: overview, samples, tokenisations, statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

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


class _Page(NamedTuple):
    """A page of the dialog: its name and how it is made and filled."""

    name: str
    make: Callable[[Services, ListedDataset], QWidget]


PAGES = (
    _Page("Overview", lambda services, _: OverviewPage(services)),
    _Page("Samples", SamplesPage),
    _Page("Tokenization", lambda services, listed: TokenizationPage(services, listed.row)),
    _Page("Statistics", lambda _, __: StatisticsPage()),
)


class DatasetDialog(Dialog):
    """Shows a dataset and follows its changes; closes when the dataset is gone.

    A page is made when it is first looked at, so that the dialog opens at once.
    """

    delete_asked = Signal(str)

    def __init__(
        self, services: Services, listed: ListedDataset, parent: QWidget | None = None
    ) -> None:
        super().__init__(listed.row.name, parent, width=1152, height_share=0.9, scroll=False)
        self._services = services
        self.dataset_id = listed.row.id
        self._listed = listed
        self._made: dict[str, Any] = {}
        self.pages = QTabWidget()
        for page in PAGES:
            self.pages.addTab(QWidget(), page.name)
        self.page("Overview")
        self.pages.currentChanged.connect(self._on_visited)
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
        self.refresh()

    def page(self, name: str) -> Any:
        """The page of that name, made now if nobody has looked at it yet."""
        if name not in self._made:
            at = next(i for i, page in enumerate(PAGES) if page.name == name)
            self._made[name] = PAGES[at].make(self._services, self._listed)
            self._put(at, self._made[name])
            self._made[name].show_dataset(self._listed)
        return self._made[name]

    def _put(self, at: int, made: QWidget) -> None:
        """Let a page take the place of what stood for it."""
        stand_in, current = self.pages.widget(at), self.pages.currentIndex()
        blocked = self.pages.blockSignals(True)
        self.pages.removeTab(at)
        self.pages.insertTab(at, made, PAGES[at].name)
        self.pages.setCurrentIndex(current)
        self.pages.blockSignals(blocked)
        if stand_in is not None:
            stand_in.deleteLater()

    def _on_visited(self, at: int) -> None:
        self.page(PAGES[at].name)

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
            return
        self._listed = listed
        for page in self._made.values():
            page.show_dataset(listed)

    def _ask_delete(self) -> None:
        self.delete_asked.emit(self.dataset_id)
