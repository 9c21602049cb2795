"""The measurement of the event loop's gaps."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, cast

from PySide6.QtCore import QTimer
from pytestqt.qtbot import QtBot

from mistudio.gui.heartbeat import Heartbeat
from mistudio.system.run_queue import Turns


def test_a_blocked_loop_is_seen(qtbot: QtBot, tmp_path: Path) -> None:
    heartbeat = Heartbeat(file=tmp_path / "gaps.json")
    heartbeat.start()
    qtbot.waitUntil(lambda: heartbeat.summary()["ticks"] > 5)
    QTimer.singleShot(0, lambda: time.sleep(0.12))
    ticks = heartbeat.summary()["ticks"]
    qtbot.waitUntil(lambda: heartbeat.summary()["ticks"] > ticks + 2)
    heartbeat.stop()
    stored = json.loads((tmp_path / "gaps.json").read_text())
    assert stored["max_ms"] >= 100
    assert stored["p50_ms"] < 100
    assert stored["over_100"] >= 1
    assert stored["own_max_ms"] == stored["max_ms"]  # nobody told of other programs


def test_what_other_programs_took_is_left_out_but_not_the_thread_s_own_work(qtbot: QtBot) -> None:
    heartbeat = Heartbeat(turns=cast("Any", Told(Turns(0.0, 0.0), Turns(0.03, 0.11))))
    heartbeat.start()
    time.sleep(0.12)
    heartbeat._tick()
    heartbeat.stop()
    found = heartbeat.summary()
    assert found["max_ms"] >= 100
    assert 30 <= found["own_max_ms"] <= found["max_ms"] - 50


class Told:
    """Gives the turns one after the other, the last again and again."""

    def __init__(self, *turns: Turns) -> None:
        self._turns = list(turns)

    def take(self) -> Turns:
        return self._turns.pop(0) if len(self._turns) > 1 else self._turns[0]
