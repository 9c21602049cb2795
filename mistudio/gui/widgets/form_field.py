"""A setting on screen: its label with the unit, its control, and what is wrong with it."""

from __future__ import annotations

from PySide6.QtWidgets import QVBoxLayout, QWidget

from mistudio.core.config import Option, Setting
from mistudio.gui.style import set_property
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import label
from mistudio.gui.widgets.editors import CheckEditor, Editor


def caption_of(option: Option) -> str:
    """A setting's label with its unit, unless the label says that already ("Tokens")."""
    if not option.unit or option.label.lower().endswith(option.unit.lower()):
        return option.label
    return f"{option.label} ({option.unit})"


class Field(QWidget):
    """A setting on screen: label with unit, control, and the sentence about what is wrong."""

    def __init__(self, setting: Setting, editor: Editor, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setting, self.editor = setting, editor
        described = setting.option
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(appearance().px(4))
        if not isinstance(editor, CheckEditor):
            self.caption = label(caption_of(described), "label")
            self.caption.setBuddy(editor.control)
            box.addWidget(self.caption)
        else:
            box.addStretch(1)  # level with the controls beside it, below their labels
        box.addWidget(editor)
        self.problem = label("", "error", wrap=True)
        self.problem.hide()
        box.addWidget(self.problem)
        if not isinstance(editor, CheckEditor):
            box.addStretch(1)
        self.setToolTip(described.help)
        editor.control.setAccessibleName(described.label)
        editor.control.setAccessibleDescription(described.help)

    def show_problem(self, sentence: str) -> None:
        """Show a sentence below the control, or none."""
        self.problem.setText(sentence)
        self.problem.setVisible(bool(sentence))
        set_property(self.editor.control, "invalid", bool(sentence))
