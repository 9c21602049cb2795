"""The measurement of the event loop's gaps."""

from __future__ import annotations

import json
import time
from pathlib import Path

from PySide6.QtCore import QTimer
from pytestqt.qtbot import QtBot

from mistudio.gui.heartbeat import Heartbeat


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
