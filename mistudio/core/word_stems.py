"""The stem of an English word, so that its inflected forms count as the same word.

Steps 1 and 5 of M. F. Porter, "An algorithm for suffix stripping" (1980): plurals, -ed, -ing, a
final -y and a final -e. The steps between, which join derived words such as relate and relation,
are left out. As with every such rule some forms are missed (mice, went) and some words share a
stem without being one (news, new).
"""

from __future__ import annotations

import re
from itertools import pairwise

_LETTERS = re.compile(r"[a-z]{3,}")
_VOWELS = "aeiou"


def stem(word: str) -> str:
    """The stem of a word of at least three plain letters, whatever its case; else the word.

    Only `casefold` is applied to what is shorter or holds other characters.
    """
    word = word.casefold()
    return _final_e(_final_y(_ending(_plural(word)))) if _LETTERS.fullmatch(word) else word


def _is_consonant(word: str, at: int) -> bool:
    letter = word[at]
    return letter not in _VOWELS and not (letter == "y" and at > 0 and _is_consonant(word, at - 1))


def _measure(word: str) -> int:
    """Porter's m: how often a consonant follows a vowel."""
    kinds = [_is_consonant(word, at) for at in range(len(word))]
    return sum(not a and b for a, b in pairwise(kinds))


def _has_vowel(word: str) -> bool:
    return any(not _is_consonant(word, at) for at in range(len(word)))


def _is_doubled(word: str) -> bool:
    return len(word) > 1 and word[-1] == word[-2] and _is_consonant(word, len(word) - 1)


def _ends_short(word: str) -> bool:
    """Consonant, vowel, consonant, the last of them no w, x or y (Porter's *o)."""
    if len(word) < 3 or word[-1] in "wxy":
        return False
    return [_is_consonant(word, len(word) - n) for n in (3, 2, 1)] == [True, False, True]


def _plural(word: str) -> str:
    """Step 1a: ponies to poni, cats to cat, caress as it is."""
    if word.endswith(("sses", "ies")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _ending(word: str) -> str:
    """Step 1b: agreed to agree, hopping to hop, filing to file."""
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    for ending in ("ed", "ing"):
        rest = word.removesuffix(ending)
        if rest != word and _has_vowel(rest):
            return _tidied(rest)
    return word


def _tidied(word: str) -> str:
    if word.endswith(("at", "bl", "iz")):
        return word + "e"
    if _is_doubled(word) and word[-1] not in "lsz":
        return word[:-1]
    return word + "e" if _measure(word) == 1 and _ends_short(word) else word


def _final_y(word: str) -> str:
    """Step 1c: happy to happi, sky as it is."""
    return word[:-1] + "i" if word.endswith("y") and _has_vowel(word[:-1]) else word


def _final_e(word: str) -> str:
    """Step 5: cease to ceas, rate as it is; controll to control."""
    rest = word.removesuffix("e")
    if rest != word and (_measure(rest) > 1 or (_measure(rest) == 1 and not _ends_short(rest))):
        word = rest
    return word[:-1] if word.endswith("ll") and _measure(word[:-1]) > 1 else word
