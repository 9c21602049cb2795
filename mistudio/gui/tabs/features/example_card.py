"""One example of a feature: its number, its activation, its text with highlighted tokens."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from PySide6.QtCore import QRect, Signal
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QWidget

from mistudio.gui.widgets.cards import Card, button, label, row
from mistudio.gui.widgets.token_layout import LINEAR, MARKS, TokenPiece
from mistudio.gui.widgets.token_text import TokenText

_SHOWN = attrgetter("text", "value", "masked")
GAP = 4  # pixels between the head of a card and its text


def token_pieces(example: Any) -> tuple[TokenPiece, ...]:
    """The pieces of a `feature_pages.Example` as the token view takes them."""
    return tuple(itertools.starmap(TokenPiece, map(_SHOWN, example.pieces)))


def marked(text: str) -> str:
    """A token by itself, with signs for a leading space, newlines and tabs."""
    leading = "·" + text[1:] if text.startswith(" ") else text
    return leading.translate(MARKS)


def strongest(examples: Sequence[Any]) -> float:
    """The largest activation shown in any of the examples."""
    return max((p.value for e in examples for p in e.pieces if not p.masked), default=0.0)


class View(NamedTuple):
    """How the text of examples is drawn."""

    breaks: bool = False
    marks: bool = True
    curve: str = LINEAR


class ExampleCard(Card):
    """Shows a `feature_pages.Example`; cards are reused from page to page.

    The text stands below what the layout holds, where `heightForWidth` found room for it.
    `sample_wanted(example)` asks for the document around it, `try_wanted(text)` to read it again.
    """

    sample_wanted = Signal(object)
    try_wanted = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("nested", parent, padding=10)
        self._number = label("", "label")
        self._value = label("", "text-emerald", selectable=True)
        self._token = label("", "mono")
        self.tokens = TokenText(self)
        self.tokens.notes = self._where
        self._example: Any = None
        tip = "Show the whole sample that this was cut from"
        sample = button("", self._on_sample, variant="ghost", icon="file", tip=tip)
        tip = "Read this text in Try text, where it can be changed"
        again = button("", self._on_try, variant="ghost", icon="edit", tip=tip)
        copy = button("", self.tokens.copy, variant="ghost", icon="copy", tip="Copy the text")
        self._head = row(self._number, self._value, self._token, None, sample, again, copy)
        self.box.addLayout(self._head)
        self.box.addStretch(1)
        chain = (self._number, self._value, sample, again, copy)
        for one, other in itertools.pairwise(chain):
            self.setTabOrder(one, other)
        self.setTabOrder(copy, self.tokens)

    def show_example(self, number: int, example: Any, maximum: float, view: View) -> None:
        """Show an example; `maximum` is the activation at which the highlight is full."""
        self._example = example
        self._number.setText(f"Example #{number}")
        # a window around a sampled token may hold stronger ones
        value = example.value
        stronger = any(p.value > value and not p.masked for p in example.pieces)
        name = "Activation" if stronger else "Max activation"
        self._value.setText(f"{name} {value:.3f}")
        peak = example.pieces[example.peak].text if example.pieces else ""
        self._token.setText(f"at “{marked(peak)}”")
        self.tokens.show_tokens(
            token_pieces(example),
            maximum,
            example.peak,
            line_breaks=view.breaks,
            marks=view.marks,
            curve=view.curve,
        )

    def _where(self, piece: int) -> str:
        """Vocabulary ids and place of a piece, for its tooltip."""
        found = self._example.tokens_of(piece)
        if not found:
            return ""
        ids = ", ".join(str(token) for _, token in found)
        places = [position for position, _ in found]
        many = len(found) > 1
        at = f"positions {places[0]} to {places[-1]}" if many else f"position {places[0]}"
        return f"token id{'s' if many else ''} {ids} · {at} in its row"

    def _on_sample(self) -> None:
        self.sample_wanted.emit(self._example)

    def _on_try(self) -> None:
        self.try_wanted.emit(self.tokens.text())

    def lay_out(self, width: int) -> None:
        """Lay the text out for a width that the card will have."""
        self.tokens.lay_out(self._room(width).width())

    def _room(self, width: int) -> QRect:
        """Where the text stands on a card of that width; the height is not told."""
        margins, frame = self.box.contentsMargins(), self.contentsRect().left()
        top = frame + margins.top() + self._head.sizeHint().height() + GAP
        left = frame + margins.left()
        return QRect(left, top, width - 2 * left, 0)

    def heightForWidth(self, width: int) -> int:
        room = self._room(width)
        text = self.tokens.heightForWidth(room.width())
        return room.top() + text + self._below()

    def _below(self) -> int:
        return self.contentsRect().left() + self.box.contentsMargins().bottom()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        room = self._room(event.size().width())
        room.setHeight(max(event.size().height() - room.top() - self._below(), 0))
        self.tokens.setGeometry(room)
