"""Sets of words in token-set enrichment: who is in them, and that a promoted one is found."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mistudio.ml.features.labels import promotes, rules
from mistudio.ml.features.labels.promotes import Promoted
from mistudio.ml.features.labels.strings import CLASSES, EVERY_CLASS, strings_of
from mistudio.ml.features.labels.word_lists import (
    AFTER_A_BLANK,
    LETTERS,
    NAMES,
    WORD_LISTS,
    sets_of,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" he", ["pronouns", LETTERS, AFTER_A_BLANK]),
        ("He", ["pronouns", LETTERS]),
        (" since", ["prepositions", "conjunctions", LETTERS, AFTER_A_BLANK]),
        (" London", [LETTERS, AFTER_A_BLANK, NAMES]),
        (" The", ["articles and determiners", LETTERS, AFTER_A_BLANK]),
        (" seven", ["number words", LETTERS, AFTER_A_BLANK]),
        (" 1984", []),
        (".", []),
        ("", []),
        ("語", [LETTERS]),
    ],
)
def test_sets_of_a_token(text: str, expected: list[str]) -> None:
    assert sets_of(text, {"the", "he"}) == expected


def test_bits_of_the_vocabulary_fit_and_rules_see_only_their_classes() -> None:
    assert len(EVERY_CLASS) <= 32
    assert len(set(EVERY_CLASS)) == len(EVERY_CLASS)
    strings = strings_of([" he", " London", " 7", " the", " The"])

    def names(index: int) -> list[str]:
        bits = int(strings.classes_V[index])
        return [name for number, name in enumerate(EVERY_CLASS) if bits >> number & 1]

    assert names(0) == ["pronouns", LETTERS, AFTER_A_BLANK]
    assert names(1) == ["capitalised words", LETTERS, AFTER_A_BLANK, NAMES]
    assert names(4) == ["capitalised words", "articles and determiners", LETTERS, AFTER_A_BLANK]
    patterns, code = rules._patterns(strings.classes_V)
    assert patterns.max() < 1 << len(CLASSES)
    assert (patterns[code] == (strings.classes_V & np.uint32((1 << len(CLASSES)) - 1))).all()


def test_a_promoted_list_is_found_though_it_is_small() -> None:
    listed = [f" {word}" for word in WORD_LISTS["prepositions"].split()]
    others = ("".join(letters) for letters in itertools.product("bcdfghjklmnp", repeat=4))
    vocabulary = [*listed, *(f" {word}" for word in others)]
    strings = strings_of(vocabulary)
    ids = promotes.sample_vocabulary(np.arange(len(vocabulary)), 0, strings.classes_V)
    assert promotes.SAMPLE <= ids.size <= promotes.SAMPLE + 48 * len(WORD_LISTS)
    assert (np.diff(ids) > 0).all()
    assert (ids < len(listed)).sum() >= 40  # by chance it would be six
    generator = np.random.default_rng(0)
    logits = generator.standard_normal((5, ids.size)).astype(np.float32)
    logits[0] += 2.5 * (ids < len(listed))
    found = promotes.Enrichment(strings.classes_V[ids], 0)(logits)
    assert EVERY_CLASS[found.class_F[0]] == "prepositions"
    assert (found.class_F[1:] == -1).all()
    told = Promoted(found.class_F[:1], found.score_F[:1], found.z_F[:1])
    fitted, texts = promotes.set_rules(told, 0, 1)
    assert texts == ["promotes prepositions"]
    assert fitted.class_F[0] == found.class_F[0]
