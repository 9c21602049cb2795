"""One example of a feature: its number, its activation, its text with highlighted tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from PySide6.QtWidgets import QWidget

from mistudio.gui.widgets.cards import Card, button, label, row
from mistudio.gui.widgets.token_layout import LINEAR, MARKS, TokenPiece
from mistudio.gui.widgets.token_text import TokenText


def token_pieces(example: Any) -> tuple[TokenPiece, ...]:
    """The pieces of a `feature_pages.Example` as the token view takes them."""
    return tuple(TokenPiece(p.text, p.value, p.masked) for p in example.pieces)


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
    """Shows a `feature_pages.Example`; cards are reused from page to page."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("nested", parent, padding=10)
        self._number = label("", "label")
        self._value = label("", "text-emerald", selectable=True)
        self._token = label("", "mono")
        self.tokens = TokenText()
        copy = button("", self.tokens.copy, variant="ghost", icon="copy", tip="Copy the text")
        self.box.setSpacing(4)
        self.box.addLayout(row(self._number, self._value, self._token, None, copy))
        self.box.addWidget(self.tokens)

    def show_example(self, number: int, example: Any, maximum: float, view: View) -> None:
        """Show an example; `maximum` is the activation at which the highlight is full."""
        self._number.setText(f"Example #{number}")
        # a window around a sampled token may hold stronger ones
        name = "Activation" if strongest([example]) > example.value else "Max activation"
        self._value.setText(f"{name} {example.value:.3f}")
        peak = example.pieces[example.peak].text if example.pieces else ""
        self._token.setText(f"at “{marked(peak)}”")
        self.tokens.set_view(line_breaks=view.breaks, marks=view.marks, curve=view.curve)
        self.tokens.set_tokens(token_pieces(example), maximum, example.peak)
