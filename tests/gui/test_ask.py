"""Small questions: what is typed is given, what is out of range cannot be."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import Qt, QTimer
from PySide6.QtWidgets import QApplication, QComboBox, QLineEdit
from pytestqt.qtbot import QtBot

from mistudio.gui import ask
from mistudio.gui.ask import Ask
from mistudio.gui.widgets.editors import NumberBox
from tests.helpers.looks import faults


def answered(answer: Callable[[Ask], None]) -> list[str]:
    """Answer the question that comes next; what is wrong with its look comes into the list."""
    wrong: list[str] = []

    def look() -> None:
        dialog = QApplication.activeModalWidget()
        assert isinstance(dialog, Ask)
        wrong.extend(faults(dialog))
        answer(dialog)

    QTimer.singleShot(0, look)
    return wrong


def test_a_text(styled: QApplication, qtbot: QtBot) -> None:
    def type_it(dialog: Ask) -> None:
        assert isinstance(dialog.field, QLineEdit)
        qtbot.keyClicks(dialog.field, "new")  # in place of what is selected
        qtbot.keyClick(dialog.field, Qt.Key.Key_Return)

    wrong = answered(type_it)
    assert ask.text(None, "Rename list", "New name", "old") == ("new", True)
    assert wrong == []
    answered(lambda dialog: dialog.reject())
    assert ask.text(None, "Rename list", "New name", "old") == ("old", False)


def test_a_number(styled: QApplication, qtbot: QtBot) -> None:
    def type_it(dialog: Ask) -> None:
        assert isinstance(dialog.field, NumberBox)
        line = dialog.field.lineEdit()
        line.setText("20")
        assert not dialog.ok_button.isEnabled()
        assert dialog.ok_button.toolTip() == "From 0.001 to 10"
        line.setText("0.25")
        dialog.ok_button.click()

    answered(type_it)
    assert ask.number(None, "Strength", "Mean KL", 0.1, 0.001, 10.0) == (0.25, True)


def test_a_choice(styled: QApplication, qtbot: QtBot) -> None:
    def choose(dialog: Ask) -> None:
        assert isinstance(dialog.field, QComboBox)
        dialog.field.setCurrentIndex(1)
        dialog.ok_button.click()

    answered(choose)
    assert ask.choice(None, "Export", "Which text", ["first", "second"]) == ("second", True)
