"""Small questions with one field: a text, a number, or one of several; they look as all others."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtWidgets import QComboBox, QDialog, QLineEdit, QVBoxLayout, QWidget

from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label, row
from mistudio.gui.widgets.editors import NumberBox

WIDTH = 440  # px at a 16-px font


class Ask(QDialog):
    """A title, what is asked for, the field, Cancel and OK; Return in the field agrees."""

    def __init__(self, parent: QWidget | None, title: str, caption: str, field: QWidget) -> None:
        super().__init__(parent)
        self.setWindowTitle(title)
        self.setModal(True)
        px = appearance().px
        box = QVBoxLayout(self)
        box.setContentsMargins(*(px(24),) * 4)
        box.setSpacing(px(16))
        self.field = field
        field.setAccessibleName(caption)
        field.setToolTip(caption)
        field.setMinimumWidth(px(WIDTH))
        told = label(caption, "label")
        told.setBuddy(field)
        asked = QVBoxLayout()
        asked.setSpacing(px(6))
        asked.addWidget(told)
        asked.addWidget(field)
        self.cancel_button = button("Cancel", self.reject)
        self.ok_button = button("OK", self.accept, variant="primary")
        self.ok_button.setDefault(True)
        box.addWidget(label(title, "card"))
        box.addLayout(asked)
        box.addLayout(row(None, self.cancel_button, self.ok_button))
        field.setFocus()

    def agreed(self) -> bool:
        """Ask, and tell whether OK was chosen; the dialog goes."""
        try:
            return self.exec() == QDialog.DialogCode.Accepted
        finally:
            self.deleteLater()


def text(parent: QWidget | None, title: str, caption: str, shown: str = "") -> tuple[str, bool]:
    """Ask for a line of text; `shown` is selected. The text, and whether it was given."""
    field = QLineEdit(shown)
    field.selectAll()
    given = Ask(parent, title, caption, field).agreed()
    return field.text(), given


def number(
    parent: QWidget | None, title: str, caption: str, shown: float, least: float, most: float
) -> tuple[float, bool]:
    """Ask for a number between two others, and whether it was given."""
    field = NumberBox(whole=False, minimum=least, maximum=most)
    field.set_number(shown)
    field.lineEdit().selectAll()
    dialog = Ask(parent, title, caption, field)

    def value() -> float | None:
        try:
            found = float(field.text_value())
        except ValueError:
            return None
        return found if least <= found <= most else None

    def offer() -> None:
        dialog.ok_button.setEnabled(value() is not None)
        dialog.ok_button.setToolTip("" if value() is not None else f"From {least:g} to {most:g}")

    field.lineEdit().textChanged.connect(offer)
    given = dialog.agreed()
    found = value()
    return (shown, False) if found is None else (found, given)


def choice(
    parent: QWidget | None, title: str, caption: str, choices: Sequence[str]
) -> tuple[str, bool]:
    """Ask for one of several, the first chosen at first, and whether it was given."""
    field = QComboBox()
    field.addItems(list(choices))
    given = Ask(parent, title, caption, field).agreed()
    return field.currentText(), given
