"""The token view of a sample shows the part that a search has found."""

from __future__ import annotations

from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from mistudio.gui.tabs.datasets.sample_card import SampleCard
from mistudio.jobs.dataset_pages import Sample


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
