"""Stems against the examples of Porter's paper, and forms of words that belong together or not."""

from __future__ import annotations

import pytest

from mistudio.core import word_stems
from mistudio.core.word_stems import stem

PLURAL = "caresses caress, ponies poni, ties ti, caress caress, cats cat"
ENDING = (
    "feed feed, agreed agree, plastered plaster, bled bled, motoring motor, sing sing, "
    "conflated conflate, troubled trouble, sized size, hopping hop, tanned tan, falling fall, "
    "hissing hiss, fizzed fizz, failing fail, filing file"
)
FINAL_Y = "happy happi, sky sky"
FINAL_E = "probate probat, rate rate, cease ceas, controll control, roll roll"
MEASURES = "tr 0, ee 0, tree 0, y 0, by 0, trouble 1, oats 1, trees 1, ivy 1"
MORE_MEASURES = "troubles 2, private 2, oaten 2, orrery 2"


def pairs(text: str) -> list[tuple[str, str]]:
    return [(a, b) for a, b in (part.split() for part in text.split(", "))]


@pytest.mark.parametrize(
    ("step", "examples"),
    [("_plural", PLURAL), ("_ending", ENDING), ("_final_y", FINAL_Y), ("_final_e", FINAL_E)],
)
def test_steps_are_those_of_the_paper(step: str, examples: str) -> None:
    for word, expected in pairs(examples):
        assert getattr(word_stems, step)(word) == expected, word


def test_measures_are_those_of_the_paper() -> None:
    for word, expected in pairs(f"{MEASURES}, {MORE_MEASURES}"):
        assert word_stems._measure(word) == int(expected), word


@pytest.mark.parametrize(
    "forms",
    [
        "cat cats Cats CAT",
        "study studies studied studying",
        "make makes making",
        "hope hoped hopes hoping",
        "run runs running",
        "church churches",
        "believe believed believing believes",
        "agree agreed agrees agreeing",
        "king kings",
        "controlled control controls",
    ],
)
def test_forms_of_a_word_share_a_stem(forms: str) -> None:
    assert len({stem(form) for form in forms.split()}) == 1


def test_other_words_do_not() -> None:
    for first, second in pairs(
        "cat car, king kin, hop hope, sing sin, red re, is i, as a, thing th"
    ):
        assert stem(first) != stem(second)
    assert (stem("Über"), stem(" the"), stem("IT"), stem("3s")) == ("über", " the", "it", "3s")
