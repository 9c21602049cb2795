"""The order of Tab for cards that come and go: where they stand, not when they were made."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QWidget


def follow(before: QWidget, cards: Sequence[QWidget]) -> None:
    """Put the controls of these cards, card by card, behind `before` in the order of Tab."""
    last = before
    for card in cards:
        for control in _controls(card):
            QWidget.setTabOrder(last, control)
            last = control


def _controls(card: QWidget) -> list[QWidget]:
    """Everything within a card that can have the focus, in the order in which it was put there.

    Not by walking the chain of focus: PySide takes each widget for a child of the one before, and
    frees it with it.
    """
    return [
        part
        for part in card.findChildren(QWidget)
        if part.focusPolicy() & Qt.FocusPolicy.TabFocus  # Qt leaves out an order of others
        and not part.objectName().startswith("qt_")  # the line within a number box
        and part.window() is card.window()  # not the list that a combo box pops up
    ]
