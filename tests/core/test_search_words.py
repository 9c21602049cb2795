"""Reading what a user writes into a search field."""

from __future__ import annotations

import pytest

from mistudio.core.search_words import SearchTerm, search_terms


@pytest.mark.parametrize(
    ("words", "terms"),
    [
        ("", []),
        ("  ! -- ", []),
        ("Wolf  fox", [SearchTerm("Wolf"), SearchTerm("fox")]),
        ('a "red  fox" b', [SearchTerm("a"), SearchTerm("red fox"), SearchTerm("b")]),
        ('"not closed', [SearchTerm("not closed")]),
        ("wolf* wo* *", [SearchTerm("wolf", True), SearchTerm("wo")]),
        ('"red fo"*', [SearchTerm("red fo", True)]),
        ("fox fox", [SearchTerm("fox")]),
        ("NEAR(a) OR 漢字", [SearchTerm("NEAR(a)"), SearchTerm("OR"), SearchTerm("漢字")]),
    ],
)
def test_terms(words: str, terms: list[SearchTerm]) -> None:
    assert search_terms(words) == terms


def test_number_of_terms_is_bounded() -> None:
    assert len(search_terms(" ".join(f"w{i}" for i in range(500)))) == 50
