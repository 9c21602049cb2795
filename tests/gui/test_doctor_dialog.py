"""Help ▸ Doctor: the checks as cards, and the menu entry made from here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QWidget
from pytestqt.qtbot import QtBot

from mistudio.gui import doctor_dialog
from mistudio.gui.doctor_dialog import DoctorDialog
from mistudio.gui.services import Services
from mistudio.system import desktop, doctor


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's data folder; of the checks only that of the menu is made."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(doctor_dialog, "checks", lambda home: list(doctor.menu_entry()))
    return tmp_path / "data"


@pytest.fixture
def dialog(services: Services, data: Path, qtbot: QtBot) -> Iterator[DoctorDialog]:
    parent = QWidget()
    made = DoctorDialog(services, parent)
    made.show()
    qtbot.waitUntil(lambda: made.copy_button.isEnabled())
    yield made
    made.close()
    parent.deleteLater()


def test_the_program_is_put_into_the_menu(dialog: DoctorDialog, data: Path, qtbot: QtBot) -> None:
    assert dialog.menu_button.isVisible()
    qtbot.mouseClick(dialog.menu_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not dialog.menu_button.isVisible())
    assert desktop.installed_program(data) is not None
    dialog.copy()
    assert "ok       Menu: The desktop's menu starts" in QGuiApplication.clipboard().text()


def test_a_folder_that_refuses_is_told(
    dialog: DoctorDialog, data: Path, qtbot: QtBot, window_stub: Any
) -> None:
    data.parent.mkdir(exist_ok=True)
    data.write_text("")
    qtbot.mouseClick(dialog.menu_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: bool(window_stub.banners))
    assert "Set XDG_DATA_HOME" in window_stub.banners[0]
    assert dialog.menu_button.isEnabled()
