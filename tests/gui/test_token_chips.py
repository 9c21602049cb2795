"""Chips wrap to the width they are given, and are measured once however often a layout asks."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from mistudio.gui.tabs.datasets import token_chips
from mistudio.gui.tabs.datasets.token_chips import TokenChips
from mistudio.gui.theme import appearance


class Token(NamedTuple):
    text: str
    token_id: int
    special: bool = False


@pytest.fixture
def chips(styled: QApplication, qtbot: QtBot) -> TokenChips:
    made = TokenChips()
    qtbot.addWidget(made)
    made.resize(300, 200)
    made.set_chips([Token(f" word{n}", n) for n in range(40)])
    return made


def test_a_layout_may_ask_for_heights_at_no_cost(
    chips: TokenChips, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[str]()
    first = [chips.heightForWidth(width) for width in (300, 600, 4000)]
    assert first[0] > first[1] > first[2] > 0
    monkeypatch.setattr(token_chips, "shown", lambda chip: asked.append(chip.text) or "x")
    places = chips._places
    monkeypatch.setattr(chips, "_places", lambda width: asked.append("placed") or places(width))
    assert [chips.heightForWidth(width) for width in (300, 600, 4000)] == first
    assert asked == []


def test_other_tokens_and_another_font_are_measured_anew(chips: TokenChips) -> None:
    tall = chips.heightForWidth(300)
    chips.set_chips([Token("a", 1)])
    short = chips.heightForWidth(300)
    assert short < tall
    look = appearance()
    look.set(look.colors, 28)
    assert chips.heightForWidth(300) > short
    look.set(look.colors, 14)
    assert chips.heightForWidth(300) == short
