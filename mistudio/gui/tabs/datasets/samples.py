"""The Samples page of a dataset: its documents page by page, searched, filtered, as tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QComboBox, QFrame, QScrollArea, QVBoxLayout, QWidget

from mistudio.core.config import from_dict
from mistudio.core.dataset_configs import IndexDatasetConfig, TokenizeConfig
from mistudio.core.errors import StudioError
from mistudio.gui.services import Services
from mistudio.gui.tabs.datasets.sample_card import SampleCard
from mistudio.gui.tabs.datasets.titles import title_of
from mistudio.gui.tabs.library.jobs import JobWatch, LiveProgress
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label, row
from mistudio.gui.widgets.editors import NumberBox
from mistudio.gui.widgets.elided import Combo
from mistudio.gui.widgets.layout import SearchField, guard_wheel
from mistudio.jobs import dataset_pages, tokenize_preview
from mistudio.jobs.dataset_pages import SamplePage
from mistudio.jobs.library_pages import ListedDataset
from mistudio.jobs.runner import Studio
from mistudio.jobs.tokenize_preview import Chip
from mistudio.store.records import JobRow, TokenizationRow

_PAGE_SIZES = (10, 50, 100)
_AT_ONCE = 8  # cards filled before the window may draw


class SamplesPage(QWidget):
    """Fifty documents at a time, of those that pass the search, the split and the lengths."""

    def __init__(
        self, services: Services, listed: ListedDataset, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._services, self._dataset = services, listed.row
        self._tokenizations: Mapping[str, TokenizationRow] = {}
        self._start = 0
        self._page = SamplePage()
        self._cards: list[SampleCard] = []
        self._index_job = ""
        self._build()
        self._watch = JobWatch(services, self)
        self._watch.ended.connect(self._on_indexed)
        self._live = LiveProgress(services, self)
        self._live.moved.connect(self._on_moved)
        self.show_dataset(listed)
        self._read()

    def _build(self) -> None:
        px = appearance().px
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, px(16), 0, 0)
        outer.setSpacing(px(8))
        self.search = SearchField("Search samples")
        self.search.setToolTip('Every word must be there; "in quotes" they stand together, fox* is '
                               "any word that begins so.")  # fmt: skip
        self.search.searched.connect(self._first_page)
        self.split = _combo("Split", [("", "All splits")])
        self.split.currentIndexChanged.connect(self._first_page)
        self.shortest, self.longest = _length("Shortest"), _length("Longest")
        for box in (self.shortest, self.longest):
            box.editingFinished.connect(self._on_lengths)
        self._lengths = ("", "")
        self.view = _combo("Show as", [("", "Text")])
        self.view.setFixedWidth(px(220))
        self.view.currentIndexChanged.connect(self._show_cards)
        line = row(self.search, self.split, label("Characters", "muted"), self.shortest)
        for part in (label("to", "muted"), self.longest, self.view):
            line.addWidget(part)
        line.setStretch(0, 1)
        outer.addLayout(line)
        self.page_size = _combo("Samples per page", [(n, f"{n} per page") for n in _PAGE_SIZES])
        self.page_size.setCurrentIndex(1)
        self.page_size.currentIndexChanged.connect(self._first_page)
        self.place = label("", "muted")
        self.previous = button(
            "Previous", self._back, icon="chevron_left", tip="The samples before these"
        )
        self.next = button("Next", self._forth, icon="chevron_right", tip="Further samples")
        self.notice = label("", "muted", wrap=True)
        self.build_index = button("Build the word index", self._build_index, icon="search")
        self.build_index.hide()
        line = row(self.notice, self.build_index, self.place, self.page_size, self.previous)
        line.addWidget(self.next)
        line.setStretch(0, 1)
        outer.addLayout(line)
        self._filled = 0  # cards that show the page's samples
        self._going_on = QTimer(self)
        self._going_on.setSingleShot(True)
        self._going_on.timeout.connect(self._show_some)
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

    def show_dataset(self, listed: ListedDataset) -> None:
        """Take over what is known of the dataset now."""
        was_indexed, self._dataset = self._dataset.is_indexed, listed.row
        splits = (listed.row.statistics or {}).get("splits", {})
        _offer(self.split, [("", "All splits"), *((name, name) for name in splits)])
        self.split.setVisible(len(splits) > 1)
        ready = [t for t in listed.tokenizations if t.status == "ready"]
        self._tokenizations = {t.id: t for t in ready}
        names = [(t.id, f"Tokens: {title_of(t, listed.model_names)}") for t in ready]
        _offer(self.view, [("", "Text"), *names])
        self.view.setVisible(bool(ready))
        if listed.row.is_indexed and not was_indexed:
            self._read()

    def _read(self) -> None:
        """Ask for the page at `_start`."""
        studio, dataset, limit = self._services.studio, self._dataset, self.page_size.currentData()
        words, split, start = self.search.text().strip(), self.split.currentData(), self._start
        shortest, longest = _number(self.shortest), _number(self.longest)

        def read(_: object) -> SamplePage:
            return dataset_pages.sample_page(
                studio,
                dataset,
                words=words,
                split=split,
                shortest=shortest,
                longest=longest,
                offset=start,
                limit=limit,
            )

        self._services.query.ask(read, self._on_page, on_error=self._on_error, key="page")

    def _on_page(self, page: SamplePage) -> None:
        self._page = page
        shown = len(page.samples)
        self.place.setText(place_text(page, self._start))
        self.previous.setEnabled(self._start > 0)
        more = page.total is not None and self._start + shown < page.total
        self.next.setEnabled(bool(shown) and (page.has_more or more))
        self._show_cards()
        self.area.verticalScrollBar().setValue(0)
        self._tell(page)

    def _show_cards(self, *told: object) -> None:
        for card in self._cards[len(self._page.samples) :]:
            card.hide()
        self._going_on.stop()
        self._filled = 0
        self._show_some()

    def _show_some(self) -> None:
        """Fill the next cards; a page of new ones at once would hold the window up."""
        words, in_tokens = self.search.text().strip(), bool(self.view.currentData())
        samples, first = self._page.samples, self._filled
        self._filled = min(first + _AT_ONCE, len(samples))
        while len(self._cards) < self._filled:
            card = SampleCard()
            card.tokens_wanted.connect(self._ask_tokens_of)
            self._cards.append(card)
            self._list.insertWidget(self._list.count() - 1, card)
        for position in range(first, self._filled):
            self._cards[position].show_sample(samples[position], words, in_tokens=in_tokens)
            self._cards[position].show()
        if self._filled < len(samples):
            self._going_on.start()
        elif in_tokens:
            self._ask_tokens(self._cards[: len(samples)])

    def _tell(self, page: SamplePage) -> None:
        words = self.search.text().strip()
        sentence = ""
        if page.searched is not None:
            sentence = f"Only the first {page.searched:,} samples were looked through."
        elif not page.samples:
            sentence = f"No sample holds “{words}”." if words else "No sample fits."
        self._say(sentence)
        slow = bool(words) and not self._dataset.is_indexed and not self._index_job
        self.build_index.setVisible(slow)

    def _on_error(self, sentence: str, details: str) -> None:
        self._page = SamplePage()
        self._show_cards()
        self.place.setText("")
        self._say(sentence)

    def _say(self, sentence: str) -> None:
        self.notice.setText(sentence)

    # Tokens.

    def _ask_tokens_of(self, index: int) -> None:
        self._ask_tokens([card for card in self._cards if card.index() == index])

    def _ask_tokens(self, cards: Sequence[SampleCard]) -> None:
        row_ = self._tokenizations.get(self.view.currentData() or "")
        if row_ is None:
            return
        studio, config = self._services.studio, bare_config(row_)
        texts = {card.index(): card.token_text() for card in cards}

        def cut(_: object) -> dict[int, list[Chip]]:
            return cut_texts(studio, config, texts)

        self._services.network.ask(
            cut, self._on_tokens, on_error=self._on_no_tokens, key=f"tokens{len(texts) > 1}"
        )

    def _on_tokens(self, chips: dict[int, list[Chip]]) -> None:
        for card in self._cards:
            if card.index() in chips and not card.isHidden():
                card.show_tokens(chips[card.index()])

    def _on_no_tokens(self, sentence: str, details: str) -> None:
        self._say(sentence)

    # The word index.

    def _build_index(self) -> None:
        self.build_index.hide()
        try:
            config = IndexDatasetConfig(dataset=self._dataset.id)
            self._index_job = self._watch.submit("index_dataset", config)
        except StudioError as error:
            self._say(error.sentence)
        else:
            self._say("The word index waits for its turn.")

    def _on_moved(self, job_id: str) -> None:
        told = self._live.of(job_id)
        if job_id == self._index_job and told is not None:
            self._say(f"{told[1]}, {told[0]:.1f} %")

    def _on_indexed(self, job: JobRow) -> None:
        self._index_job = ""
        self._say(job.error_message or "" if job.status == "failed" else "")
        self._services.publisher.publish("datasets", self._dataset.id)
        if job.status == "completed":
            self._dataset = dataclasses.replace(self._dataset, is_indexed=True)
            self._read()

    # Paging.

    def _on_lengths(self) -> None:
        lengths = (self.shortest.text_value(), self.longest.text_value())
        if lengths != self._lengths:
            self._lengths = lengths
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


def place_text(page: SamplePage, start: int) -> str:
    """ "51–80 of 80"; an em-dash stands for a number that nobody counted."""
    shown = len(page.samples)
    first = start + 1 if shown else 0
    total = "—" if page.total is None else f"{page.total:,}"
    if page.is_minimum and page.total is not None:
        total = f"more than {page.total:,}"
    return f"{first:,}–{start + shown:,} of {total}"


def bare_config(row_: TokenizationRow) -> TokenizeConfig:
    """The settings of a tokenisation for the bare tokens of a text."""
    made = from_dict(TokenizeConfig, {**row_.settings, "dataset": row_.dataset_id})
    named = "" if row_.model_id else str((row_.statistics or {}).get("tokenizer", ""))
    return dataclasses.replace(
        made,
        model=row_.model_id or "",
        tokenizer=named,
        context=4096,
        arrangement="packed",
        special_tokens=False,
    )


def cut_texts(
    studio: Studio, config: TokenizeConfig, texts: Mapping[int, str]
) -> dict[int, list[Chip]]:
    """The tokens of some texts; raises as `tokenize_preview.preview`."""
    return {
        index: tokenize_preview.preview(studio, config, text).chips for index, text in texts.items()
    }


def _combo(name: str, choices: Sequence[tuple[object, str]]) -> QComboBox:
    made = Combo()
    made.setAccessibleName(name)
    made.setToolTip(name)
    for value, shown in choices:
        made.addItem(shown, value)
    guard_wheel(made)
    return made


def _offer(combo: QComboBox, choices: Sequence[tuple[str, str]]) -> None:
    """Offer other choices; the present one stays if it is among them."""
    kept = combo.currentData()
    combo.blockSignals(True)
    combo.clear()
    for value, shown in choices:
        combo.addItem(shown, value)
    combo.setCurrentIndex(max(0, combo.findData(kept)))
    combo.blockSignals(False)


def _length(name: str) -> NumberBox:
    made = NumberBox(whole=True, minimum=0, maximum=10**9)
    made.setAccessibleName(f"{name} sample in characters")
    made.setToolTip(f"{name} sample that is listed, in characters; empty lists all")
    made.lineEdit().setPlaceholderText("any")
    made.setFixedWidth(appearance().px(110))
    return made


def _number(box: NumberBox) -> int:
    """What is written, 0 for nothing or no number."""
    try:
        return max(0, int(float(box.text_value() or 0)))
    except (ValueError, OverflowError):
        return 0
