"""On a remote screen repaints are gathered, nothing blinks, and repaints can be counted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QPaintEvent
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QLabel, QVBoxLayout, QWidget
from pytestqt.qtbot import QtBot

from mistudio.gui import remote
from mistudio.gui.paint_counter import PaintCounter
from mistudio.gui.remote import Pacer, still_desktop
from mistudio.gui.theme import Appearance


class Board(QWidget):
    """Counts its paints; has one label."""

    def __init__(self) -> None:
        super().__init__()
        self.painted = 0
        self.line = QLabel("0")
        QVBoxLayout(self).addWidget(self.line)
        self.pacer = Pacer(self)

    def paintEvent(self, event: QPaintEvent) -> None:
        self.painted += 1


@pytest.fixture
def board(qtbot: QtBot, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    monkeypatch.setattr(remote, "BEAT_MS", 200)
    made = Board()
    qtbot.addWidget(made)
    made.show()
    qtbot.waitExposed(made)
    qtbot.waitUntil(lambda: made.painted > 0)
    yield made
    made.pacer.stop()


def test_changes_are_painted_together_on_the_next_beat(qtbot: QtBot, board: Board) -> None:
    board.pacer.set_on(True)
    board.update()
    qtbot.waitUntil(lambda: not board.pacer._hand.isActive())
    board.painted = 0
    for _ in range(5):
        board.update()
        QApplication.processEvents()
    assert board.painted <= 1
    qtbot.waitUntil(lambda: board.painted == 2 or not board.pacer._held, timeout=2000)
    QApplication.processEvents()
    assert 1 <= board.painted <= 2
    assert not board.pacer._held


def test_a_local_window_is_painted_at_once(qtbot: QtBot, board: Board) -> None:
    board.painted = 0
    for number in range(1, 4):
        board.update()
        qtbot.waitUntil(lambda number=number: board.painted == number)


def test_a_hand_on_the_keyboard_is_followed_at_once(qtbot: QtBot, board: Board) -> None:
    board.pacer.set_on(True)
    handle = board.windowHandle()
    assert handle is not None
    QTest.keyClick(handle, Qt.Key.Key_A)
    board.painted = 0
    for number in range(1, 4):
        board.update()
        qtbot.waitUntil(lambda number=number: board.painted >= number, timeout=150)


def test_leaving_the_profile_paints_what_was_held(qtbot: QtBot, board: Board) -> None:
    board.pacer.set_on(True)
    board.update()
    QApplication.processEvents()
    board.painted = 0
    board.update()
    QApplication.processEvents()
    board.pacer.set_on(False)
    qtbot.waitUntil(lambda: board.painted == 1)


def test_nothing_blinks_on_a_remote_screen(qapp: QApplication) -> None:
    before = qapp.cursorFlashTime()
    still_desktop(qapp, True)
    assert qapp.cursorFlashTime() == 0
    still_desktop(qapp, False)
    assert qapp.cursorFlashTime() == before


def test_the_profile_is_announced_once(qtbot: QtBot) -> None:
    look, told = Appearance(), []
    look.changed.connect(lambda: told.append(look.remote))
    look.set_remote(True)
    look.set_remote(True)
    look.set_remote(False)
    assert told == [True, False]


def test_repaints_are_counted_by_widget_and_size(qtbot: QtBot, board: Board) -> None:
    counter = PaintCounter(board)
    counter.start()
    board.line.setText("1")
    qtbot.waitUntil(lambda: counter._updates == 1)
    board.line.setText("1")  # nothing to repaint
    QApplication.processEvents()
    told = counter.stop()
    assert told["repaints"] == 1
    seen = {row["widget"]: row for row in told["widgets"]}
    assert seen["QLabel"]["times"] == 1
    assert 0 < seen["QLabel"]["pixels"] <= board.line.width() * board.line.height()
    board.repaint()
    assert counter._updates == 1  # it has ended
