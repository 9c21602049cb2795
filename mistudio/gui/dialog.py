"""Plain dialog windows: content scrolls, actions stay below it, Esc closes."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QDialog,
    QFrame,
    QHBoxLayout,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label


class Dialog(QDialog):
    """A non-modal dialog; fill `box`, put buttons into `buttons`. It is destroyed when closed."""

    def __init__(
        self,
        title: str,
        parent: QWidget | None = None,
        *,
        width: float = 768,
        height_share: float = 0.8,
        scroll: bool = True,
    ) -> None:
        """`width` at a 16-px font; `height_share` of the parent window's height."""
        super().__init__(parent)
        self.setWindowTitle(title)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        px = appearance().px
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.setSpacing(0)
        content = QWidget()
        content.setObjectName("column")
        self.box = QVBoxLayout(content)
        self.box.setContentsMargins(px(24), px(20), px(24), px(16))
        self.box.setSpacing(px(16))
        if scroll:
            area = QScrollArea()
            area.setWidgetResizable(True)
            area.setFrameShape(QFrame.Shape.NoFrame)
            area.setWidget(content)
            outer.addWidget(area, 1)
        else:
            outer.addWidget(content, 1)
        self.buttons = QHBoxLayout()
        self.buttons.setContentsMargins(px(24), px(12), px(24), px(16))
        self.buttons.setSpacing(px(8))
        self.buttons.addStretch(1)
        outer.addLayout(self.buttons)
        window = parent.window() if parent is not None else None
        room = window.size() if window is not None else self.screen().availableSize()
        self.resize(min(px(width), room.width()), max(px(240), round(room.height() * height_share)))

    def add_close(self, text: str = "Close") -> QPushButton:
        """Put a button that closes at the end of the row."""
        made = button(text, self.reject, tip="Close this window (Esc)")
        self.buttons.addWidget(made)
        return made


class Confirm(QDialog):
    """A decision: title, sentence, one action and Cancel, which is the default."""

    def __init__(
        self,
        parent: QWidget | None,
        title: str,
        sentence: str,
        action: str,
        *,
        danger: bool,
    ) -> None:
        super().__init__(parent)
        self.setWindowTitle(title)
        self.setModal(True)
        px = appearance().px
        box = QVBoxLayout(self)
        box.setContentsMargins(*(px(24),) * 4)
        box.setSpacing(px(16))
        box.addWidget(label(title, "card"))
        text = label(sentence, wrap=True)
        text.setMinimumWidth(px(360))
        box.addWidget(text)
        self.cancel_button = button("Cancel", self.reject)
        self.action_button = button(action, self.accept, variant="danger" if danger else "primary")
        self.cancel_button.setDefault(True)
        line = QHBoxLayout()
        line.addStretch(1)
        line.addWidget(self.cancel_button)
        line.addWidget(self.action_button)
        box.addLayout(line)


def confirm(
    parent: QWidget | None,
    title: str,
    sentence: str,
    action: str = "Delete",
    *,
    danger: bool = True,
) -> bool:
    """Ask for a decision; True if the action was chosen."""
    dialog = Confirm(parent, title, sentence, action, danger=danger)
    try:
        return dialog.exec() == QDialog.DialogCode.Accepted
    finally:
        dialog.deleteLater()
