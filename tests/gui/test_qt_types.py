"""Qt's types are made in the window's thread before another thread may ask for one."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import pytest
from pytestqt.qtbot import QtBot

from mistudio.core.settings import SettingsFile
from mistudio.gui import main_window, tab_pages
from mistudio.gui.main_window import REST_MS, MainWindow
from mistudio.gui.qt_types import TypeMaker
from mistudio.gui.services import Services
from mistudio.gui.tab_pages import TabPages, TabSpec
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


@pytest.mark.window
def test_no_tab_is_built_while_a_module_of_the_tabs_is_imported(
    studio: Studio, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main_window, "warm_up_for", lambda *_: None)
    window = MainWindow(studio, SettingsFile(studio.paths.settings))
    qtbot.addWidget(window)
    beside: list[bool] = []
    build = TabPages._build

    def watched(self: TabPages, spec: TabSpec, services: Services) -> None:
        taken: list[bool] = []
        other = threading.Thread(target=lambda: taken.append(_try(tab_pages._importing)))
        other.start()
        other.join()
        beside.extend(taken)
        build(self, spec, services)

    monkeypatch.setattr(TabPages, "_build", watched)
    window.tabs.show_tab("Models")
    window.tabs._on_ahead()
    assert beside
    assert not any(beside), "a lane could have imported meanwhile"
    assert _try(tab_pages._importing), "it may go on afterwards"
    window.close()


def _try(lock: Any) -> bool:
    if taken := lock.acquire(blocking=False):
        lock.release()
    return taken


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
