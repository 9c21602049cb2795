"""What a rule can say of a token: which string it is, and which classes the string belongs to."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.ml.features.labels.word_lists import WORD_SETS, sets_of

NO_STRING = -1  # before the first and behind the last token of a row, and padding

# the order is that of the bits; a label says the words
CLASSES = (
    "digits",
    "punctuation",
    "line breaks",
    "blanks",
    "capitalised words",
    "words in capitals",
    "word endings",
    "single letters",
    "years",
    "Cyrillic letters",
    "Greek letters",
    "Chinese or Japanese letters",
    "Arabic or Hebrew letters",
    "accented letters",
    "code symbols",
    "other symbols",
    "the first tokens of a row",
)
EVERY_CLASS = (*CLASSES, *WORD_SETS)  # what directions may promote; rules are of `CLASSES`
FIRST_TOKENS = 4  # positions of a row that count as its first tokens
START_OF_ROW = CLASSES.index("the first tokens of a row")
_SCRIPTS = {
    "CYRILLIC": "Cyrillic letters",
    "GREEK": "Greek letters",
    "CJK": "Chinese or Japanese letters",
    "HIRAGANA": "Chinese or Japanese letters",
    "KATAKANA": "Chinese or Japanese letters",
    "HANGUL": "Chinese or Japanese letters",
    "ARABIC": "Arabic or Hebrew letters",
    "HEBREW": "Arabic or Hebrew letters",
}
_CODE = frozenset("{}[]()<>=+*/\\|&^%$#@~`_;")


class Strings(NamedTuple):
    """The strings of a vocabulary.

    `string_V` int32: the string of each vocabulary id; tokens that differ only in case and in
    blanks around them are one string. `texts`: what each string reads like. `classes_V` uint32:
    one bit per entry of `EVERY_CLASS`.
    """

    string_V: NDArray[np.int32]
    texts: list[str]
    classes_V: NDArray[np.uint32]


def strings_of(vocabulary: Sequence[str]) -> Strings:
    """Strings and classes of the texts of ids 0, 1, 2 …"""
    known: dict[str, int] = {}
    string_V = np.empty(len(vocabulary), np.int32)
    classes_V = np.zeros(len(vocabulary), np.uint32)
    bit = {name: 1 << number for number, name in enumerate(EVERY_CLASS)}
    small = {bare for text in vocabulary if (bare := text.strip()).islower()}
    for index, text in enumerate(vocabulary):
        string_V[index] = known.setdefault(plain(text), len(known))
        names = (*classes_of(text), *sets_of(text, small))
        classes_V[index] = sum(bit[name] for name in names)
    return Strings(string_V, list(known), classes_V)


def plain(text: str) -> str:
    """A token's text without the blanks around it and without case; of blanks themselves signs."""
    stripped = text.strip().casefold()
    return stripped or text.replace("\n", "↵").replace("\t", "⇥").replace(" ", "␣")


def classes_of(text: str) -> list[str]:
    """The classes of one token's text, by what it looks like alone."""
    bare = text.strip()
    if not bare:
        return ["line breaks"] if "\n" in text or "\r" in text else ["blanks"]
    found = []
    letters = [c for c in bare if c.isalpha()]
    if bare.isdigit():
        found.append("digits")
        if re.fullmatch(r"1[5-9]\d\d|20\d\d", bare):
            found.append("years")
    elif letters:
        found += _word_classes(text, bare, letters)
    elif all(unicodedata.category(c).startswith("P") for c in bare):
        found.append("punctuation")
    elif not any(c in _CODE for c in bare):
        found.append("other symbols")
    if not letters and any(c in _CODE for c in bare):
        found.append("code symbols")
    return found


def _word_classes(text: str, bare: str, letters: list[str]) -> list[str]:
    found = []
    if len(bare) == 1:
        found.append("single letters")
    elif bare.isupper():
        found.append("words in capitals")
    elif bare[0].isupper():
        found.append("capitalised words")
    if text[0].isalpha() and text[0].islower():
        found.append("word endings")
    scripts = {_script(c) for c in letters if not c.isascii()} - {""}
    found += sorted(scripts)
    return found


def _script(letter: str) -> str:
    name = unicodedata.name(letter, "")
    first = name.split(" ", 1)[0].split("-", 1)[0]
    return _SCRIPTS.get(first, "accented letters" if first == "LATIN" else "")
