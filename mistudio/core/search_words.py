"""What a user writes to search text: words, "words in quotes" that stand together, begin*."""

from __future__ import annotations

import re
from typing import NamedTuple

_PART = re.compile(r'"([^"]*)(?:"|$)(\*?)|([^\s"]+)')
_SHORTEST_BEGINNING = 3  # letters; shorter ones would find nearly everything
_MOST = 50


class SearchTerm(NamedTuple):
    """One thing a text must hold."""

    text: str
    is_beginning: bool = False
    """any word that begins so counts"""


def search_terms(words: str) -> list[SearchTerm]:
    """The terms of a search; all must be found. What holds neither letter nor digit is left out.

    Beginnings of fewer than three letters count as whole words.
    """
    found: list[SearchTerm] = []
    for quoted, star, plain in _PART.findall(words):
        text = " ".join((quoted or plain).rstrip("*").split())
        if not any(c.isalnum() for c in text):
            continue
        begins = bool(star) or plain.endswith("*")
        term = SearchTerm(text, begins and len(text) >= _SHORTEST_BEGINNING)
        if term not in found:
            found.append(term)
    return found[:_MOST]
