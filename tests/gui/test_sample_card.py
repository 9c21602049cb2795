"""The token view of a sample shows the part that a search has found."""

from __future__ import annotations

import pytest
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from mistudio.gui.services import Services
from mistudio.gui.tabs.datasets.sample_card import SampleCard
from mistudio.gui.tabs.datasets.samples import SamplesPage
from mistudio.jobs import dataset_pages
from mistudio.jobs.dataset_pages import Sample, SamplePage
from mistudio.jobs.library_pages import ListedDataset
from mistudio.store.tables import DATASETS


def test_tokens_are_those_about_the_first_hit(styled: QApplication, qtbot: QtBot) -> None:
    card = SampleCard()
    qtbot.addWidget(card)
    far = "filler words " * 100 + "then the KING came " + "and more " * 100
    card.show_sample(Sample(0, "train", far, {}, len(far)), "king", in_tokens=True)
    assert "KING" in card.token_text()
    assert card.token_text().startswith(" ")
    assert len(card.token_text()) <= 360
    close = "a king " + far
    card.show_sample(Sample(0, "train", close, {}, len(close)), "king", in_tokens=True)
    assert card.token_text() == close[:360]
    solid = "x" * 1000 + "king" + "y" * 1000
    card.show_sample(Sample(0, "train", solid, {}, len(solid)), "king", in_tokens=True)
    assert "king" in card.token_text()
    card.show_sample(Sample(0, "train", far, {}, len(far)), "", in_tokens=True)
    assert card.token_text() == far[:360]


def test_a_page_is_filled_a_few_cards_at_a_time(
    qtbot: QtBot, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = SamplePage([Sample(n, "train", f"text {n}", {}, 6) for n in range(50)], 50)
    monkeypatch.setattr(dataset_pages, "sample_page", lambda *_, **__: found)
    row = DATASETS.insert(services.studio.db(), name="d", source="local", status="ready")
    page = SamplesPage(services, ListedDataset(row, [], {}))
    qtbot.addWidget(page)
    page._on_page(found)
    assert 0 < len(page._cards) <= 10  # so far
    qtbot.waitUntil(lambda: len(page._cards) == 50)
    assert [card.index() for card in page._cards] == list(range(50))
    page._on_page(SamplePage(found.samples[:3], 3))
    assert [card.index() for card in page._cards if not card.isHidden()] == [0, 1, 2]
    qtbot.waitUntil(services.query.is_idle)
