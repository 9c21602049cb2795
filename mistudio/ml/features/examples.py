"""An example of a feature: a stretch of original text with the feature's value on each piece."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.ml.data.text import TextStore
from mistudio.ml.data.token_store import TokenStore


class ExamplePiece(NamedTuple):
    """Some original text and the largest activation among the tokens that make it.

    `kept` is False where no token of the piece counts (special, padding, skipped, extreme norm);
    `peak` marks the token that the example is about; `lo`, `hi` are positions in the row.
    """

    text: str
    value: float
    kept: bool
    peak: bool
    lo: int
    hi: int
    special: bool


class Example(NamedTuple):
    """One place where a feature fires.

    `row` counts the rows of the harvest, `position` the tokens in that row; `token_row` and
    `token_position` say where it is in the tokenisation, `document` in the dataset (-1: none).
    `value` is the activation at that token; `pieces` hold the window around it.
    """

    row: int
    position: int
    token_row: int
    token_position: int
    document: int
    value: float
    pieces: tuple[ExamplePiece, ...]

    @property
    def text(self) -> str:
        """The window as plain text."""
        return "".join(piece.text for piece in self.pieces)


class ExampleText:
    """Renders windows of tokens as original text; keeps the documents last used."""

    def __init__(self, tokens: TokenStore, texts: TextStore) -> None:
        self.tokens = tokens
        self.text = functools.lru_cache(maxsize=64)(tokens.reader(texts))

    def window(
        self,
        token_row: int,
        start: int,
        position: int,
        values_W: NDArray[np.float64],
        kept_W: NDArray[np.bool_],
    ) -> tuple[ExamplePiece, ...]:
        """Pieces of tokens start..start+W-1 of a tokenisation row; `position` is the peak's."""
        values, kept = values_W.tolist(), kept_W.tolist()
        peak = position - start
        pieces = self.tokens.pieces_of(self.text, token_row, start, start + len(values))
        if len(pieces) == len(values):  # no tokens share a piece
            return tuple(
                ExamplePiece(p.text, value, on, p.lo == position, p.lo, p.hi, p.special)
                for p, value, on in zip(pieces, values, kept, strict=True)
            )
        found = []
        for piece in pieces:
            lo, hi = piece.lo - start, piece.hi - start
            single = hi - lo == 1  # nearly all are
            found.append(
                ExamplePiece(
                    piece.text,
                    values[lo] if single else max(values[lo:hi]),
                    kept[lo] if single else any(kept[lo:hi]),
                    lo <= peak < hi,
                    piece.lo,
                    piece.hi,
                    piece.special,
                )
            )
        return tuple(found)

    def document(self, token_row: int, position: int) -> int:
        """The document that a token belongs to, -1 for none."""
        return int(self.tokens.docs[token_row, position])
