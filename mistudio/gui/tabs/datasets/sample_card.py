"""One document of a dataset: three lines of its text, more on request, hits marked."""

from __future__ import annotations

import html
import re

from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QWidget

from mistudio.core.units import format_count
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import Card, button, label, row

_SHORT = 360  # characters that about fill three lines
_LONG = 20_000  # characters of an opened sample
_LEAD = 80  # characters before the first hit


class SampleCard(Card):
    """Sample number, length, copy, expand, and the text."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("nested", parent, padding=12)
        self.box.setSpacing(appearance().px(4))
        self._text, self._words, self._open = "", "", False
        self.title = label("", "label")
        self.length = label("", "small")
        self.copy_button = button("Copy", self.copy, variant="ghost", icon="copy")
        self.more = button("Expand", self._toggle, variant="ghost")
        self.box.addLayout(row(self.title, self.length, None, self.more, self.copy_button))
        self.body = label("", wrap=True, selectable=True)
        self.box.addWidget(self.body)
        appearance().changed.connect(self._draw)

    def show_sample(self, index: int, text: str, words: str) -> None:
        """Show document `index` (counted from 0), with `words` marked."""
        self._text, self._words, self._open = text, words, False
        self.title.setText(f"Sample {index + 1:,}")
        self.length.setText(f"{format_count(len(text))} characters")
        self.copy_button.setAccessibleName(f"Copy sample {index + 1}")
        self.more.setVisible(excerpt(text, words) != text)
        self._draw()

    def copy(self) -> None:
        """Put the whole text on the clipboard."""
        QGuiApplication.clipboard().setText(self._text)

    def _toggle(self) -> None:
        self._open = not self._open
        self._draw()

    def _draw(self) -> None:
        self.more.setText("Collapse" if self._open else "Expand")
        shown = self._text if self._open else excerpt(self._text, self._words)
        if self._open and len(shown) > _LONG:
            shown = (
                shown[:_LONG] + f" … ({len(self._text) - _LONG:,} more characters; Copy has all)"
            )
        self.body.setTextFormat(Qt.TextFormat.RichText)
        self.body.setText(marked(shown, self._words))


def excerpt(text: str, words: str) -> str:
    """Three lines or so of a text on one, around the first hit."""
    line = " ".join(text.split())
    folded = line.casefold()
    places = [folded.find(word) for word in words.casefold().split()]
    first = min((place for place in places if place >= 0), default=0)
    start = first - _LEAD if first > _SHORT - _LEAD else 0
    end = start + _SHORT
    return ("… " if start else "") + line[start:end] + (" …" if end < len(line) else "")


def marked(text: str, words: str) -> str:
    """The text as HTML that keeps its line breaks, with every word marked, whatever its case."""
    colors = appearance().colors
    parts = [re.escape(word) for word in sorted(words.split(), key=len, reverse=True)]
    pieces = re.split(f"({'|'.join(parts)})", text, flags=re.IGNORECASE) if parts else [text]
    found: list[str] = []
    for number, piece in enumerate(pieces):
        escaped = html.escape(piece).replace("\n", "<br>")
        style = f"background:{colors.emerald_fill};color:{colors.on_fill}"
        found.append(f'<span style="{style}">{escaped}</span>' if number % 2 else escaped)
    return "".join(found)
