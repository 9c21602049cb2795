"""The windows of the menu: each control says what it is, and Tab goes from one to the next."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtWidgets import QApplication, QHBoxLayout, QLineEdit, QPushButton, QWidget
from pytestqt.qtbot import QtBot

from mistudio.core.paths import Paths
from mistudio.core.settings import SettingsFile
from mistudio.gui.main_window import MainWindow
from mistudio.jobs.runner import Studio
from tests.helpers.looks import nameless, tab_faults
from tests.helpers.scenes import DIALOGS, Stage

OF_THE_MENU = ("settings", "storage", "shortcuts", "about", "help", "error", "system")


@pytest.fixture
def stage(styled: QApplication, qtbot: QtBot, tmp_path: Path) -> Iterator[Stage]:
    studio = Studio(Paths.at(tmp_path / "home"))
    made = MainWindow(studio, SettingsFile(studio.paths.settings))
    made.resize(1280, 720)
    made.show()
    yield Stage(made, lambda: qtbot.waitUntil(made.query.is_idle, timeout=30_000), qtbot.waitUntil)
    with qtbot.waitSignal(made.ended, timeout=30_000):
        made.close()
    studio.close()


def test_windows_of_the_menu(stage: Stage, qtbot: QtBot) -> None:
    wrong = {}
    for name in OF_THE_MENU:
        before = set(QApplication.topLevelWidgets())
        DIALOGS[name](stage)
        stage.settle()
        (dialog,) = (w for w in QApplication.topLevelWidgets() if w not in before and w.isVisible())
        wrong[name] = [*nameless(dialog), *tab_faults(dialog)]
        dialog.close()
        qtbot.wait(1)
    assert wrong == {name: [] for name in OF_THE_MENU}


def test_what_is_wrong_is_found(styled: QApplication, qtbot: QtBot) -> None:
    """A field without a name, and a row that Tab goes through from right to left."""
    window = QWidget()
    qtbot.addWidget(window)
    line = QHBoxLayout(window)
    parts = [QPushButton("One"), QPushButton("Two"), QLineEdit()]
    for part in parts:
        line.addWidget(part)
    QWidget.setTabOrder(parts[1], parts[0])
    window.show()
    assert nameless(window) == ["QLineEdit in QWidget has no name"]
    assert tab_faults(window) == ["Tab goes from QPushButton 'Two' back to QPushButton 'One'"]
