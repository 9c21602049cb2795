"""What own text is typed into and shown in: a box that Ctrl+Return runs, and tokens to click."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QPointF, Qt, Signal
from PySide6.QtGui import QKeyEvent, QMouseEvent
from PySide6.QtWidgets import QPlainTextEdit, QWidget

from mistudio.gui.theme import appearance
from mistudio.gui.widgets.token_text import TokenText


class OwnText(QPlainTextEdit):
    """A text of a few lines; Ctrl+Return runs it, Tab leaves it."""

    def __init__(self, run: Callable[[], object], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._run = run
        self.setTabChangesFocus(True)
        self.setAccessibleName("Your text")
        self.setPlaceholderText("Write or paste a text; Ctrl+Return reads it.")
        self.setToolTip("The text that is read with the model; Ctrl+Return reads it")
        self.setFixedHeight(appearance().px(76))

    def keyPressEvent(self, event: QKeyEvent) -> None:
        control = event.modifiers() & Qt.KeyboardModifier.ControlModifier
        if control and event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self._run()
        else:
            super().keyPressEvent(event)


class ClickedTokens(TokenText):
    """Highlighted tokens; a click tells which piece."""

    piece_clicked = Signal(int)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        found = self._current().piece_at(event.position() - QPointF(0, 2))
        if found is not None and event.button() == Qt.MouseButton.LeftButton:
            self.piece_clicked.emit(found)
        super().mouseReleaseEvent(event)
