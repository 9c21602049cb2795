"""Calls beside the forward passes: their order, the memory they hold, what they raise."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial

import pytest

from mistudio.core.errors import Cancelled, DiskFull
from mistudio.ml.activations.lines import DirectLines, ThreadLines


class Stop:
    """Asks for an end once it is told to."""

    def __init__(self) -> None:
        self.wanted = False

    def __call__(self) -> None:
        if self.wanted:
            raise Cancelled


@pytest.fixture
def stop() -> Stop:
    return Stop()


@pytest.fixture
def lines(stop: Stop) -> Iterator[ThreadLines]:
    made = ThreadLines(2, 100, stop)
    yield made
    made.close()


def test_each_line_keeps_its_order(lines: ThreadLines) -> None:
    found: dict[int, list[int]] = {line: [] for line in range(5)}
    for number in range(200):
        for line, numbers in found.items():
            lines.put(line, partial(numbers.append, number), 10)
    lines.wait(lambda: all(len(numbers) == 200 for numbers in found.values()))
    assert all(numbers == list(range(200)) for numbers in found.values())
    lines.wait(lambda: lines.waiting_bytes == 0)


def test_no_more_memory_than_allowed_is_held(lines: ThreadLines) -> None:
    go_on, most = threading.Event(), 0

    def call() -> None:
        nonlocal most
        most = max(most, lines.waiting_bytes)
        go_on.wait(30)

    lines.put(0, call, 60)
    lines.put(1, call, 40)
    filler = threading.Thread(target=lines.put, args=(0, call, 1))
    filler.start()
    filler.join(0.2)
    assert filler.is_alive(), "it had to wait for room"
    assert lines.waiting_bytes == 100
    go_on.set()
    filler.join(30)
    lines.put(0, call, 1000)  # larger than the bound: it goes alone
    lines.wait(lambda: lines.waiting_bytes == 0)
    assert most == 1000


def test_a_failure_reaches_who_puts_or_waits(lines: ThreadLines) -> None:
    ran: list[int] = []

    def fail() -> None:
        raise DiskFull("no room")

    lines.put(0, fail)
    with pytest.raises(DiskFull):
        lines.wait(lambda: False)
    with pytest.raises(DiskFull):
        lines.put(1, lambda: ran.append(1))
    with pytest.raises(DiskFull):
        lines.check()
    assert ran == []


def test_who_waits_hears_a_cancel(lines: ThreadLines, stop: Stop) -> None:
    go_on = threading.Event()
    lines.put(0, lambda: go_on.wait(30), 100)
    stop.wanted = True
    with pytest.raises(Cancelled):
        lines.put(0, lambda: None, 1)
    go_on.set()


def test_closing_skips_what_waits(stop: Stop) -> None:
    lines = ThreadLines(1, 100, stop)
    go_on, began = threading.Event(), threading.Event()
    ran: list[str] = []

    def first() -> None:
        began.set()
        go_on.wait(30)
        ran.append("first")

    lines.put(0, first)
    lines.put(0, lambda: ran.append("second"))
    assert began.wait(30)
    closing = threading.Thread(target=lines.close)
    closing.start()
    go_on.set()
    closing.join(30)
    assert ran == ["first"]
    with pytest.raises(RuntimeError):
        lines.check()


def test_direct_lines_run_at_once(stop: Stop) -> None:
    lines = DirectLines(stop)
    ran: list[int] = []
    lines.put(3, lambda: ran.append(1), 10**12)
    assert ran == [1]
    lines.wait(lambda: False)
    stop.wanted = True
    with pytest.raises(Cancelled):
        lines.check()
    lines.close()
