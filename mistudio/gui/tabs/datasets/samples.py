"""The Samples page of a dataset: its documents page by page, with search."""

from __future__ import annotations

from typing import NamedTuple

from PySide6.QtWidgets import QComboBox, QFrame, QScrollArea, QVBoxLayout, QWidget

from mistudio.gui.services import Services
from mistudio.gui.tabs.datasets.sample_card import SampleCard
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label, row
from mistudio.gui.widgets.layout import SearchField, guard_wheel
from mistudio.jobs import dataset_pages
from mistudio.jobs.runner import Studio
from mistudio.store.records import DatasetRow

MOST_HITS = 1000
_PAGE_SIZES = (10, 50, 100)


class _Page(NamedTuple):
    """Documents to show: their indices and texts; `hits` is what a search found, None without."""

    indices: list[int]
    texts: list[str]
    hits: list[int] | None


class SamplesPage(QWidget):
    """Fifty documents at a time; the text search keeps those that hold every word."""

    def __init__(
        self, services: Services, dataset: DatasetRow, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._services, self._dataset = services, dataset
        self._start = 0
        self._hits: list[int] | None = None
        self._searched = ""
        self._cards: list[SampleCard] = []
        self._build()
        self._read()

    def _build(self) -> None:
        px = appearance().px
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, px(16), 0, 0)
        outer.setSpacing(px(12))
        self.search = SearchField("Search samples")
        self.search.searched.connect(self._on_searched)
        self.page_size = QComboBox()
        self.page_size.setAccessibleName("Samples per page")
        for count in _PAGE_SIZES:
            self.page_size.addItem(f"{count} per page", count)
        self.page_size.setCurrentIndex(1)
        guard_wheel(self.page_size)
        self.page_size.currentIndexChanged.connect(self._first_page)
        self.place = label("", "muted")
        self.previous = button("Previous", self._back, icon="chevron_left")
        self.next = button("Next", self._forth, icon="chevron_right")
        line = row(self.search, self.page_size, self.place, self.previous, self.next)
        line.setStretch(0, 1)
        outer.addLayout(line)
        self.notice = label("", "muted", wrap=True)
        self.notice.hide()
        outer.addWidget(self.notice)
        self.area = QScrollArea()
        self.area.setWidgetResizable(True)
        self.area.setFrameShape(QFrame.Shape.NoFrame)
        content = QWidget()
        content.setObjectName("column")
        self._list = QVBoxLayout(content)
        self._list.setContentsMargins(0, 0, px(8), 0)
        self._list.setSpacing(px(8))
        self._list.addStretch(1)
        self.area.setWidget(content)
        outer.addWidget(self.area, 1)

    def total(self) -> int:
        """How many documents there are to page through."""
        return (self._dataset.num_samples or 0) if self._hits is None else len(self._hits)

    def _read(self) -> None:
        """Ask for the page at `_start`."""
        studio, dataset, count = self._services.studio, self._dataset, self.page_size.currentData()
        start, hits, words = self._start, self._hits, self._searched

        def read(_: object) -> _Page:
            return _read_page(studio, dataset, words, hits, start, count)

        self._services.query.ask(read, self._on_page, on_error=self._on_error, key="page")

    def _on_page(self, page: _Page) -> None:
        self._hits = page.hits
        self._fill(page)
        total, shown = self.total(), len(page.indices)
        first = self._start + 1 if shown else 0
        self.place.setText(f"{first:,}–{self._start + shown:,} of {total:,}")
        self.previous.setEnabled(self._start > 0)
        self.next.setEnabled(self._start + shown < total)
        self._tell(page)

    def _fill(self, page: _Page) -> None:
        while len(self._cards) < len(page.texts):
            card = SampleCard()
            self._cards.append(card)
            self._list.insertWidget(self._list.count() - 1, card)
        for card in self._cards[len(page.texts) :]:
            card.hide()
        for card, index, text in zip(self._cards, page.indices, page.texts, strict=False):
            card.show_sample(index, text, self._searched)
            card.show()
        self.area.verticalScrollBar().setValue(0)

    def _tell(self, page: _Page) -> None:
        sentence = ""
        if page.hits is not None and not page.hits:
            sentence = f"No sample holds “{self._searched}”."
        elif page.hits is not None and len(page.hits) == MOST_HITS:
            sentence = f"The first {MOST_HITS:,} samples that hold it; more words narrow it down."
        self._say(sentence)

    def _on_error(self, sentence: str, details: str) -> None:
        self._say(sentence)

    def _say(self, sentence: str) -> None:
        self.notice.setText(sentence)
        self.notice.setVisible(bool(sentence))

    def _on_searched(self, words: str) -> None:
        self._searched = words
        self._hits = None
        self._first_page()

    def _first_page(self, *told: object) -> None:
        self._start = 0
        self._read()

    def _back(self) -> None:
        self._start = max(0, self._start - self.page_size.currentData())
        self._read()

    def _forth(self) -> None:
        self._start += self.page_size.currentData()
        self._read()


def _read_page(
    studio: Studio, dataset: DatasetRow, words: str, hits: list[int] | None, start: int, count: int
) -> _Page:
    if not words:
        texts = dataset_pages.samples(studio, dataset, start, count)
        return _Page(list(range(start, start + len(texts))), texts, None)
    if hits is None:
        hits = dataset_pages.find_samples(studio, dataset, words, MOST_HITS)
    indices = hits[start : start + count]
    return _Page(indices, dataset_pages.samples_at(studio, dataset, indices), hits)
