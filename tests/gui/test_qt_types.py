"""Qt's types are made in the window's thread before another thread may ask for one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pytestqt.qtbot import QtBot

from mistudio.core.settings import SettingsFile
from mistudio.gui import main_window
from mistudio.gui.main_window import REST_MS, MainWindow
from mistudio.gui.qt_types import TypeMaker
from mistudio.jobs.runner import Studio

MADE = """
import importlib
from mistudio.gui.qt_types import MODULES, TypeMaker

def missing():
    found = [importlib.import_module("PySide6." + name) for name in MODULES]
    return [name for module in found for name in dir(module) if name not in vars(module)]

assert "QWizard" in missing(), "made before it is asked for"
maker, turns = TypeMaker(), 1
while not maker.make_some():
    turns += 1
assert missing() == []
assert turns > 1, "all at once"
"""


def test_every_type_is_made_in_several_turns() -> None:
    subprocess.run([sys.executable, "-c", MADE], check=True, timeout=60)


WINDOW = """
import os, sys, threading, time
os.environ["QT_QPA_PLATFORM"] = "offscreen"
elsewhere, started = [], []

def look(event, given):
    if event == "import" and given[0].startswith(("mistudio.gui", "pyqtgraph", "PySide6")):
        if threading.current_thread() is not threading.main_thread():
            elsewhere.append(given[0])

sys.addaudithook(look)
from pathlib import Path
from PySide6.QtCore import QTimer
from mistudio.core.paths import Paths
from mistudio.gui import app
from mistudio.gui.main_window import MainWindow
start = MainWindow.start

def watch(self, note=""):
    start(self, note)
    timer, until = QTimer(self), time.monotonic() + 60
    def end():
        if not self.tabs._ahead.isActive() and self.tabs.is_complete() or time.monotonic() > until:
            started.append(self.tabs.is_complete() and not self.tabs._later)
            self.end_without_asking()
    timer.timeout.connect(end)
    timer.start(100)

MainWindow.start = watch
app.run(Paths.at(Path(sys.argv[1])))
assert started == [True], started
assert "pyqtgraph" in sys.modules
assert "mistudio.jobs.registry" in sys.modules
assert not elsewhere, elsewhere
"""


@pytest.mark.window
def test_classes_of_qt_s_are_made_in_the_window_s_thread_alone(tmp_path: Path) -> None:
    words = [sys.executable, "-c", WINDOW, str(tmp_path / "home")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.window
def test_no_lane_starts_before_the_types_are_made(
    studio: Studio, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main_window, "warm_up_for", lambda *_: None)
    turns: list[int] = []
    begun: list[int] = []

    def make_some(self: TypeMaker) -> bool:
        turns.append(len(turns))
        return len(turns) > 3

    monkeypatch.setattr(TypeMaker, "make_some", make_some)
    window = MainWindow(studio, SettingsFile(studio.paths.settings))
    qtbot.addWidget(window)
    start = window.lanes.start
    monkeypatch.setattr(window.lanes, "start", lambda: (begun.append(len(turns)), start()))
    window.start()
    qtbot.waitUntil(lambda: bool(begun), timeout=100 * REST_MS)
    assert begun == [4]
    window.close()
