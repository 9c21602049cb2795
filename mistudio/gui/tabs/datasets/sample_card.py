"""One document of a dataset: three lines of its text or tokens, more on request, hits marked."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QWidget

from mistudio.core.units import format_count
from mistudio.gui.tabs.datasets.token_chips import ChipLike, TokenChips
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import Card, button, label, row
from mistudio.jobs.dataset_pages import Sample

_SHORT = 360  # characters that about fill three lines
_LONG = 20_000  # characters of an opened sample
_LONG_TOKENS = 6000  # characters of an opened sample shown as tokens
_LEAD = 80  # characters before the first hit
_METADATA = 240  # characters of the other columns
_TERM = re.compile(r'"([^"]+)"|(\S+)')


class SampleCard(Card):
    """Sample number, split, length, copy, expand, the text and the other columns."""

    tokens_wanted = Signal(int)  # index of the sample, whose `token_text` is to be cut into tokens

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("nested", parent, padding=12)
        self.box.setSpacing(appearance().px(4))
        self._sample = Sample(0, "", "", {}, 0)
        self._words, self._open, self._in_tokens = "", False, False
        self.title = label("", "label")
        self.length = label("", "small")
        self.copy_button = button(
            "Copy", self.copy, variant="ghost", icon="copy", tip="Copy the whole text"
        )
        self.more = button("Expand", self._toggle, variant="ghost", tip="Show more or less of it")
        self.box.addLayout(row(self.title, self.length, None, self.more, self.copy_button))
        self.body = label("", wrap=True, selectable=True)
        self.body.setTextFormat(Qt.TextFormat.RichText)
        self.box.addWidget(self.body)
        self.chips: TokenChips | None = None
        self.metadata = label("", "small", wrap=True, selectable=True)
        self.metadata.hide()
        self.box.addWidget(self.metadata)
        appearance().changed.connect(self._draw)

    def index(self) -> int:
        """Number of the document, counted from 0."""
        return self._sample.index

    def show_sample(self, sample: Sample, words: str, *, in_tokens: bool = False) -> None:
        """Show a document with `words` marked; its tokens come by `show_tokens`."""
        self._sample, self._words, self._open = sample, words, False
        self._in_tokens = in_tokens
        if self.chips is not None:
            self.chips.hide()
        name = f"Sample {sample.index + 1:,}"
        self.title.setText(f"{name} · {sample.split}" if sample.split else name)
        self.length.setText(f"{format_count(sample.length)} characters")
        self.copy_button.setAccessibleName(f"Copy sample {sample.index + 1}")
        self.more.setVisible(excerpt(sample.text, words) != sample.text)
        self.metadata.setText(metadata_line(sample))
        self.metadata.setVisible(bool(sample.metadata))
        self._draw()

    def token_text(self) -> str:
        """The text whose tokens are to be shown: about the first hit, or more of an opened one."""
        text = self._sample.text
        if self._open:
            return text[:_LONG_TOKENS]
        start = _start(text.casefold(), self._words)
        space = text.find(" ", start, start + _LEAD)  # where a token begins
        return text[space if start and space >= 0 else start :][:_SHORT]

    def show_tokens(self, chips: Sequence[ChipLike]) -> None:
        """Show the tokens of `token_text`."""
        if not self._in_tokens:
            return
        if self.chips is None:
            self.chips = TokenChips()
            self.box.insertWidget(2, self.chips)
        self.chips.set_chips(chips)
        self.chips.show()
        self.body.hide()

    def copy(self) -> None:
        """Put the whole text on the clipboard."""
        QGuiApplication.clipboard().setText(self._sample.text)

    def _toggle(self) -> None:
        self._open = not self._open
        self._draw()
        if self._in_tokens:
            self.tokens_wanted.emit(self._sample.index)

    def _draw(self) -> None:
        self.more.setText("Collapse" if self._open else "Expand")
        if self.chips is not None and not self.chips.isHidden():
            return
        self.body.show()
        text = self._sample.text
        shown = text if self._open else excerpt(text, self._words)
        if self._open and len(shown) > _LONG:
            shown = shown[:_LONG] + f" … ({len(text) - _LONG:,} more characters; Copy has all)"
        self.body.setText(marked(shown, self._words))


def terms_of(words: str) -> list[str]:
    """What a search looks for: words, phrases in quotes, and beginnings of words with a *."""
    found = [quoted or word for quoted, word in _TERM.findall(words)]
    return [term for term in (part.rstrip("*") for part in found) if term.strip('"')]


def metadata_line(sample: Sample) -> str:
    """ "title: The fox · id: 12", cut where it grows long."""
    line = " · ".join(
        f"{name}: {' '.join(value.split())}" for name, value in sample.metadata.items()
    )
    return line if len(line) <= _METADATA else line[:_METADATA] + "…"


def excerpt(text: str, words: str) -> str:
    """Three lines or so of a text on one, around the first hit."""
    line = " ".join(text[: 40 * _SHORT].split()) if not words else " ".join(text.split())
    start = _start(line.casefold(), words)
    end = start + _SHORT
    return ("… " if start else "") + line[start:end] + (" …" if end < len(line) else "")


def _start(folded: str, words: str) -> int:
    """Where an excerpt begins that holds the first hit; 0 where the first characters do."""
    places = [folded.find(word.casefold()) for word in terms_of(words)]
    first = min((place for place in places if place >= 0), default=0)
    return first - _LEAD if first > _SHORT - _LEAD else 0


def marked(text: str, words: str) -> str:
    """The text as HTML that keeps its line breaks, with every word marked, whatever its case."""
    colors = appearance().colors
    parts = [re.escape(word) for word in sorted(terms_of(words), key=len, reverse=True)]
    pieces = re.split(f"({'|'.join(parts)})", text, flags=re.IGNORECASE) if parts else [text]
    found: list[str] = []
    for number, piece in enumerate(pieces):
        escaped = html.escape(piece).replace("\n", "<br>")
        style = f"background:{colors.emerald_fill};color:{colors.on_fill}"
        found.append(f'<span style="{style}">{escaped}</span>' if number % 2 else escaped)
    return "".join(found)
