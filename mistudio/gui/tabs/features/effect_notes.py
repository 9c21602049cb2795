"""Direct effects of a feature on the tokens of one's own text: as notes of the tokens, as cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mistudio.gui.tabs.features.example_card import marked
from mistudio.gui.widgets.token_layout import TokenPiece

MEANING = (
    "Effect on what follows: the log-probability of the token that comes next in the text, with "
    "the feature minus without it, in nats; direct path only."
)


def token_pieces(pieces: Sequence[Mapping[str, Any]]) -> list[TokenPiece]:
    """The pieces that a job told, each with the feature's effect as the note of its tooltip."""
    return [
        TokenPiece(p["text"], p["value"] or 0.0, p["masked"], "\n".join(told(p))) for p in pieces
    ]


def told(piece: Mapping[str, Any]) -> list[str]:
    """One sentence for each token of a piece on which the feature fires."""
    return [
        f"{effect:+.4f} nats on the next token “{marked(following)}” (direct path only)"
        for _, following, effect in piece.get("effects", ())
    ]


def cell(piece: Mapping[str, Any]) -> str:
    """The effects of a piece as a table's cell."""
    return "  ".join(f"{effect:+.4f}" for _, _, effect in piece.get("effects", ()))
