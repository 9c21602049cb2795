"""The pages beside the one that is shown are read in a rest, and never before one asked for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PySide6.QtCore import Qt
from pytestqt.qtbot import QtBot
from shiboken6 import isValid

from mistudio.gui.services import Services
from mistudio.gui.tabs.features.detail import FeatureDetail
from mistudio.jobs import feature_pages
from tests.gui import feature_world


class Reads:
    """The features whose pages were read, in order; one can be held up."""

    def __init__(self) -> None:
        self.features: list[tuple[int, int]] = []
        self.held: int | None = None
        self.begun, self.free = threading.Event(), threading.Event()

    def page(self, studio: Any, sae: Any, index: int, **options: Any) -> Any:
        self.features.append((index, options["before"]))
        if index == self.held:
            self.begun.set()
            assert self.free.wait(10)
        return feature_world.page(studio, sae, index, **options)

    def take(self) -> list[int]:
        """Those since the last call."""
        found, self.features = [index for index, _ in self.features], []
        return found


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    made = Reads()
    monkeypatch.setattr(feature_pages, "page", made.page)
    return made


@pytest.fixture
def detail(services: Services, qtbot: QtBot, reads: Reads) -> Iterator[FeatureDetail]:
    made = FeatureDetail(services)
    made.show()
    sae = feature_world.add_world(services.studio.db()).sae
    made.show_feature(sae, 12, np.array([40, 12, 33, 9, 21]))
    rest(made, qtbot, 12)
    yield made
    if isValid(made):
        made.close()


def rest(detail: FeatureDetail, qtbot: QtBot, index: int) -> None:
    qtbot.waitUntil(lambda: detail.page is not None and detail.page.row.index == index)
    qtbot.waitUntil(detail.ahead.is_idle)


def test_the_next_page_and_the_one_before_are_read_when_a_page_stands(
    detail: FeatureDetail, qtbot: QtBot, reads: Reads
) -> None:
    assert reads.take() == [12, 33, 40]
    qtbot.keyClick(detail, Qt.Key.Key_Right, Qt.KeyboardModifier.AltModifier)
    rest(detail, qtbot, 33)
    assert reads.take() == [33, 9, 12]
    qtbot.keyClick(detail, Qt.Key.Key_Left, Qt.KeyboardModifier.AltModifier)
    rest(detail, qtbot, 12)
    assert reads.take() == [12, 40, 33], "first the one in the direction of the step"
    detail.head.previous.click()
    rest(detail, qtbot, 40)
    assert reads.take() == [40, 12], "there is none before the first"


def test_they_are_read_as_wide_as_the_page_is_shown(
    detail: FeatureDetail, qtbot: QtBot, reads: Reads
) -> None:
    reads.take()
    detail.examples.widths.buttons()[2].click()
    qtbot.waitUntil(lambda: len(reads.features) == 3)
    assert reads.features == [(12, 200), (33, 200), (40, 200)]


def test_a_page_that_is_asked_for_waits_for_none_that_has_not_begun(
    detail: FeatureDetail, qtbot: QtBot, reads: Reads
) -> None:
    reads.held = 9
    reads.take()
    detail.go_next()
    qtbot.waitUntil(reads.begun.is_set)  # 33 is shown and 9 is being read ahead
    detail.open_partner(50)
    reads.free.set()
    rest(detail, qtbot, 50)
    assert reads.take() == [33, 9, 50], "not 12, and nothing beside a feature out of the table"


def test_one_that_waits_for_its_turn_is_left_out_when_another_page_is_asked_for(
    detail: FeatureDetail, qtbot: QtBot, reads: Reads
) -> None:
    reads.take()
    detail.go_next()
    qtbot.waitUntil(lambda: detail.page is not None and detail.page.row.index == 33)
    free = threading.Event()
    detail._services.query.ask(lambda _db: free.wait(10), detail.ahead._on_read)
    detail.ahead._reading += 1
    qtbot.waitUntil(lambda: detail.ahead._reading == 2)  # asked for, behind what is under way
    detail.open_partner(50)
    free.set()
    rest(detail, qtbot, 50)
    assert reads.take() == [33, 50]


def test_nothing_is_read_after_the_window_is_closed(
    detail: FeatureDetail, qtbot: QtBot, reads: Reads
) -> None:
    reads.take()
    detail.go_next()
    qtbot.waitUntil(lambda: detail.page is not None and detail.page.row.index == 33)
    detail.close()
    assert detail.ahead.is_idle()
    assert not detail.ahead._rest.isActive()
    assert reads.take() == [33]


def test_what_cannot_be_read_ahead_says_nothing(
    detail: FeatureDetail, qtbot: QtBot, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(studio: Any, sae: Any, index: int, **options: Any) -> Any:
        if index == 9:
            raise RuntimeError("gone")
        return reads.page(studio, sae, index, **options)

    told: list[str] = []
    detail._services.query.failed.connect(lambda sentence, _details: told.append(sentence))
    monkeypatch.setattr(feature_pages, "page", fails)
    monkeypatch.setattr("mistudio.gui.query_lane.log.exception", lambda *_args: None)
    detail.go_next()
    rest(detail, qtbot, 33)
    assert not detail.problem.isVisible()
    assert told == []
