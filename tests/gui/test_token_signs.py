"""Characters that would draw an empty box or turn a text around are drawn as signs."""

from __future__ import annotations

from typing import Any

from PySide6.QtGui import QFont
from PySide6.QtWidgets import QApplication

from mistudio.gui.theme import DARK
from mistudio.gui.widgets.token_layout import DETAIL, TokenLayout, TokenMeasure, TokenPiece


def layout(*texts: str, **how: bool) -> TokenLayout:
    pieces = [TokenPiece(text, 1.0) for text in texts]
    options: dict[str, Any] = how
    return TokenLayout(pieces, 1.0, 600, QFont("DejaVu Sans"), DARK, DETAIL, **options)


def drawn(*texts: str, **how: bool) -> str:
    return layout(*texts, **how)._layout.text()


def left_of(made: TokenLayout, piece: int) -> float:
    start = made._ends[piece - 1] if piece else 0
    return made._boxes(start, made._ends[piece] - start)[0].left()


def test_control_characters_have_signs(styled: QApplication) -> None:
    assert drawn("a\x00b\u202ec\u200bd\r\n") == "a⟨00⟩b⟨202E⟩c⟨200B⟩d⇤↵\u2028"
    assert drawn("x", " \tb\n", " c") == "x\u200b·→b↵\u2028\u200b·c"  # a blank's sign and others
    assert drawn("a\u202eb", marks=False) == "a\u202eb"  # the text itself, without signs
    assert drawn("👩\u200d👩") == "👩\u200d👩"  # joiners make one picture


def test_an_override_does_not_turn_what_follows(styled: QApplication) -> None:
    made = layout("x", "\u202e", "first", "second")
    assert left_of(made, 2) < left_of(made, 3)


def test_each_line_keeps_its_direction(styled: QApplication) -> None:
    # with one direction for all, the Hebrew line would put the English sentence's stop before it
    texts = ("שלום", "\n", "word", ".", "\n", "last")
    for how in (
        {"line_breaks": False},
        {"line_breaks": True},
        {"line_breaks": False, "marks": False},
    ):
        made = layout(*texts, **how)
        assert left_of(made, 2) < left_of(made, 3), how
        assert made.piece_at(made._boxes(made._ends[1], 4)[0].center()) == 2
    assert left_of(layout("שלום", " ", "עולם"), 2) < left_of(layout("שלום", " ", "עולם"), 0)
    assert "\u2068" not in drawn("plain\n", "text")


def test_the_measure_agrees_with_the_layout(styled: QApplication) -> None:
    pieces = [TokenPiece(text) for text in ("שלום עולם", "\n", "a\x00b", "\r\n", "c" * 200)]
    font = QFont("DejaVu Sans")
    for marks in (True, False):
        measured = TokenMeasure(pieces, font, marks=marks).height(300)
        assert measured == TokenLayout(pieces, 1, 300, font, DARK, DETAIL, marks=marks).height


def test_lines_end_between_words_where_blanks_are_signs(styled: QApplication) -> None:
    words = ("the", "captain", "said", "that", "the", "harbour", "was", "far", "away")
    pieces = [TokenPiece(f" {word}") for word in words]
    made = TokenLayout(pieces, 1.0, 150, QFont("DejaVu Sans"), DARK, DETAIL)
    lines = [made._layout.lineAt(index) for index in range(made._layout.lineCount())]
    assert len(lines) > 2
    begun = {0, *made._ends}
    # the mark that a line may end behind is of no width and stands at the end of the line before
    assert all({line.textStart(), line.textStart() - 1} & begun for line in lines)
