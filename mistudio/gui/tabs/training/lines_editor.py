"""A list of names with a text each, such as settings with values or datasets with weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QHBoxLayout, QLineEdit, QVBoxLayout, QWidget

from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label, row
from mistudio.gui.widgets.editors import Editor
from mistudio.gui.widgets.library_choice import LibraryChoice

Pairs = Sequence[tuple[str, str]]


class Line(QWidget):
    """A name to choose, a text to write, and a button that takes the line away."""

    changed = Signal()

    def __init__(self, prompt: str, hint: str, noun: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.choice = LibraryChoice(prompt)
        self.choice.control.setAccessibleName(prompt)
        self.text = QLineEdit()
        self.text.setPlaceholderText(hint)
        self.text.setAccessibleName(hint)
        self.remove = button("", variant="ghost", icon="close", tip=f"Take this {noun} away")
        self.remove.setAccessibleName(self.remove.toolTip())
        box = QHBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(appearance().px(8))
        box.addWidget(self.choice, 1)
        box.addWidget(self.text, 1)
        box.addWidget(self.remove)
        self.choice.changed.connect(self.changed)
        self.text.textChanged.connect(self.changed)

    def value(self) -> str:
        """ "NAME=TEXT", "" while one of them is missing."""
        name, text = self.choice.value(), self.text.text().strip()
        return f"{name}={text}" if name and text else ""


class LinesEditor(Editor):
    """Lines of "NAME=TEXT"; `value()` is their list, without lines that are not complete."""

    def __init__(
        self,
        noun: str,
        *,
        prompt: str,
        hint: str,
        text: str = "",
        nothing: str = "",
        parent: QWidget | None = None,
    ) -> None:
        """
        noun: what a line is, such as "dataset".
        prompt, hint: what the empty combo and the empty text say.
        text: the text of a new line.
        nothing: the sentence shown while there is no line.
        """
        super().__init__(parent)
        self._noun, self._prompt, self._hint, self._text = noun, prompt, hint, text
        self._pairs: Pairs = []
        self.lines: list[Line] = []
        self._nothing = nothing
        self.nothing = label(nothing, "small", wrap=True)
        self.add_button = button(f"Add {noun}", self._add_empty, variant="secondary", icon="plus")
        holder = QWidget()
        self._column = QVBoxLayout(holder)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._column.setSpacing(appearance().px(6))
        foot = row(self.add_button, self.nothing)
        foot.setStretch(1, 1)
        self._column.addLayout(foot)
        self._hold(holder)
        self.setFocusProxy(self.add_button)

    def offer(self, pairs: Pairs) -> None:
        """Offer these (value, text); what was chosen stays if it is among them."""
        if list(pairs) != list(self._pairs):
            self._pairs = list(pairs)
            for line in self.lines:
                line.choice.offer(self._pairs)

    def value(self) -> list[str]:
        return [text for line in self.lines if (text := line.value())]

    def set_value(self, value: Any) -> None:
        wanted = [value] if isinstance(value, str) else list(value or ())
        for line in list(self.lines):
            self._drop(line)
        for text in wanted:
            name, equals, rest = str(text).rpartition("=")
            self._add(name if equals else rest, rest if equals else self._text)
        self.changed.emit()

    def _add(self, name: str, text: str) -> Line:
        line = Line(self._prompt, self._hint, self._noun)
        line.choice.offer(self._pairs)
        line.choice.set_value(name)
        line.text.setText(text)
        line.changed.connect(self.changed)
        line.remove.clicked.connect(lambda *_: self._remove(line))
        self._column.insertWidget(len(self.lines), line)
        self.lines.append(line)
        self._tell()
        return line

    def _add_empty(self) -> None:
        self._add("", self._text).choice.control.setFocus()

    def _remove(self, line: Line) -> None:
        self._drop(line)
        self.add_button.setFocus()
        self.changed.emit()

    def _drop(self, line: Line) -> None:
        self.lines.remove(line)
        self._column.removeWidget(line)
        line.hide()
        line.deleteLater()
        self._tell()

    def _tell(self) -> None:
        self.nothing.setText("" if self.lines else self._nothing)
