"""A combo of things in the library, which are read after the form is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PySide6.QtWidgets import QWidget

from mistudio.gui.widgets.editors import ChoiceEditor


class LibraryChoice(ChoiceEditor):
    """A combo whose entries come later: a value that is not offered yet is taken once it is."""

    def __init__(self, prompt: str, parent: QWidget | None = None) -> None:
        self._wanted = ""
        self._prompt = prompt
        super().__init__([("", prompt)], parent)

    def offer(self, pairs: Sequence[tuple[str, str]], default: str = "") -> None:
        """Offer these values; `default` is taken if none was chosen."""
        wanted = self.value() or self._wanted or default
        self.set_choices([("", self._prompt), *pairs])
        self.set_value(wanted)

    def set_value(self, value: Any) -> None:
        self._wanted = str(value)
        super().set_value(value)
