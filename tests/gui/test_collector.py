"""Garbage is collected in the window's thread and in no other while lanes run."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import pytest
from PySide6.QtCore import QObject
from pytestqt.qtbot import QtBot

from mistudio.core import collecting
from mistudio.gui import collector
from mistudio.gui.collector import Collector, collect_anywhere, collect_here
from mistudio.gui.query_lane import QueryLane


class Cycle:
    """Holds itself, and tells in which thread it went."""

    def __init__(self, gone: list[str]) -> None:
        self.own = self
        self.gone = gone

    def __del__(self) -> None:
        self.gone.append(threading.current_thread().name)


class Asker(QObject):
    """Takes answers."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[object] = []

    def take(self, answer: object) -> None:
        self.answers.append(answer)


def litter(gone: list[str]) -> None:
    """Leave a cycle behind, and so many others that collections become due."""
    Cycle(gone)
    for _ in range(10_000):
        other: list[object] = []
        other.append(other)


@pytest.fixture
def by_itself(qtbot: QtBot) -> Iterator[None]:
    gc.enable()
    yield
    assert gc.isenabled()


@pytest.fixture
def lane(by_itself: None) -> Iterator[QueryLane]:
    made = QueryLane(lambda: None)
    yield made
    made.join()


@pytest.fixture
def often() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(100, 1, 1)
    yield
    gc.set_threshold(*before)


@pytest.mark.usefixtures("often")
def test_a_lane_destroys_no_garbage(qtbot: QtBot, lane: QueryLane) -> None:
    gone, asker = list[str](), Asker()
    lane.ask(lambda _: litter(gone), asker.take)
    qtbot.waitUntil(lambda: bool(gone))
    assert gone == [threading.main_thread().name]
    qtbot.waitUntil(lambda: bool(asker.answers))


def test_a_lane_that_asks_waits_for_the_window(qtbot: QtBot, lane: QueryLane) -> None:
    gone, asker = list[str](), Asker()

    def ask(_db: object) -> int:
        Cycle(gone)
        collecting.collect()
        return len(gone)

    lane.ask(ask, asker.take)
    qtbot.waitUntil(lambda: asker.answers == [1])
    assert gone == [threading.main_thread().name]


@pytest.mark.usefixtures("by_itself")
def test_python_collects_again_after_the_last_lane() -> None:
    first, second = QObject(), QObject()
    collect_here(first)
    collect_here(second)
    collect_anywhere(first)
    assert not gc.isenabled()
    with collecting.paused():
        assert collecting.is_paused()
    assert not gc.isenabled()
    collect_anywhere(second)
    collect_anywhere(second)
    assert gc.isenabled()
    with collecting.paused():
        assert not gc.isenabled()
    assert gc.isenabled()


class Busy(QObject):
    """Stands for a lane."""

    idle = False

    def is_idle(self) -> bool:
        return self.idle


@pytest.mark.usefixtures("qtbot", "often")
def test_all_is_collected_seldom_and_not_beside_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, now, many = list[int](), [1000.0], [100]
    made, lane = Collector(), Busy()
    monkeypatch.setattr(collector, "_holding", [lane])
    monkeypatch.setattr(collector.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(collector.gc, "collect", lambda generation=2: seen.append(generation))
    monkeypatch.setattr(collector.gc, "get_objects", lambda generation: [None] * many[0])

    def look(*count: int) -> list[int]:
        seen.clear()
        monkeypatch.setattr(collector.gc, "get_count", lambda: count)
        made.look()
        return [*seen]

    assert look(100, 9, 9) == []  # as many young objects as are let be
    assert look(101, 0, 1) == [1]
    assert look(101, 0, 2) == [1, 2]  # nothing was ever collected: all is new
    many[0] = 300
    assert look(101, 0, 2) == [1]  # a moment ago
    now[0] += collector.FULL_S
    assert look(101, 0, 2) == [1]  # a job would wait for it
    now[0] += collector.FULL_S
    lane.idle = True
    assert look(101, 0, 2) == [1, 2]
    now[0] += collector.FULL_S
    lane.idle, many[0] = False, 1300
    assert look(101, 0, 2) == [1, 2]  # too much by now
    with collecting.paused():
        assert look(101, 0, 2) == []
