"""Which documents of a dataset hold some words, lie in a split and have a length."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mistudio.core.errors import StudioError
from mistudio.core.search_words import SearchTerm, search_terms
from mistudio.store.text_index import TextIndex

if TYPE_CHECKING:
    import numpy as np

    from mistudio.ml.data.text import TextStore

_SCAN = 1000  # documents per read without an index
PATIENCE_S = 1.0  # of a search without an index
_COUNT_S = 0.15  # spent on counting beyond the page


@dataclass(frozen=True)
class Wanted:
    """What is looked for; lengths in characters, 0 sets no limit."""

    words: str = ""
    split: str = ""
    shortest: int = 0
    longest: int = 0


@dataclass(frozen=True)
class Hits:
    """The numbers of one page of documents, and how many there are in all."""

    numbers: list[int]
    total: int
    is_minimum: bool = False
    has_more: bool = False
    searched: int | None = None


def find(store: TextStore, index: Path, wanted: Wanted, offset: int, limit: int) -> Hits:
    """Hits offset..offset+limit-1 in the order of the documents.

    Uses the word index if there is one that fits the text; without, only looks for a second.
    """
    import numpy as np

    numbers = store.splits.get(wanted.split, range(0)) if wanted.split else range(len(store))
    fits_N: np.ndarray | None = None
    if wanted.shortest > 0 or wanted.longest > 0:
        lengths_N = store.lengths()
        fits_N = lengths_N >= wanted.shortest
        if wanted.longest > 0:
            fits_N &= lengths_N <= wanted.longest
    if not wanted.words.strip():
        return _all(numbers, fits_N, offset, limit)
    terms = search_terms(wanted.words)
    if not terms:
        return Hits([], 0)
    opened = _index(index, len(store))
    if opened is None:
        return _scanned(store, terms, numbers, fits_N, offset, limit)
    with opened:
        if fits_N is not None:
            fitting = numbers.start + np.flatnonzero(fits_N[numbers.start : numbers.stop])
            if not len(fitting):
                return Hits([], 0)
            # the words need not be looked up outside the documents that have the length
            numbers = range(int(fitting[0]), int(fitting[-1]) + 1)
            found = opened.matches(terms, low=numbers.start, high=numbers.stop)
            return _filtered(found, fits_N, offset, limit)
        page = opened.search(terms, offset, limit, low=numbers.start, high=numbers.stop)
        total, is_minimum = opened.count(terms, low=numbers.start, high=numbers.stop)
    return Hits(page, total, is_minimum, has_more=total > offset + len(page))


def _index(path: Path, documents: int) -> TextIndex | None:
    try:
        opened = TextIndex(path)
    except StudioError:
        return None
    if opened.documents != documents:
        opened.close()
        return None
    return opened


def _all(numbers: range, fits_N: np.ndarray | None, offset: int, limit: int) -> Hits:
    import numpy as np

    if fits_N is None:
        page = list(numbers[offset : offset + limit])
        return Hits(page, len(numbers), has_more=offset + len(page) < len(numbers))
    found_M = numbers.start + np.flatnonzero(fits_N[numbers.start : numbers.stop])
    page = [int(number) for number in found_M[offset : offset + limit]]
    return Hits(page, len(found_M), has_more=offset + len(page) < len(found_M))


def _filtered(found: Iterator[list[int]], fits_N: np.ndarray, offset: int, limit: int) -> Hits:
    import numpy as np

    page: list[int] = []
    total, began = 0, time.monotonic()
    for some in found:
        some_M = np.asarray(some)
        kept_M = some_M[fits_N[some_M]]
        page += kept_M[max(0, offset - total) : max(0, offset + limit - total)].tolist()
        total += len(kept_M)
        if total > offset + limit and time.monotonic() - began > _COUNT_S:
            return Hits(page, total, is_minimum=True, has_more=True)
    return Hits(page, total, has_more=total > offset + len(page))


def _scanned(
    store: TextStore,
    terms: list[SearchTerm],
    numbers: range,
    fits_N: np.ndarray | None,
    offset: int,
    limit: int,
) -> Hits:
    found: list[int] = []
    began = time.monotonic()
    for low in range(numbers.start, numbers.stop, _SCAN):
        high = min(low + _SCAN, numbers.stop)
        hits = store.holding([term.text for term in terms], low, high)
        found += [number for number in hits if fits_N is None or fits_N[number]]
        seen = high - numbers.start
        if high < numbers.stop and time.monotonic() - began > PATIENCE_S:
            page = found[offset : offset + limit]
            more = len(found) > offset + limit
            return Hits(page, len(found), True, has_more=more, searched=seen)
    page = found[offset : offset + limit]
    return Hits(page, len(found), has_more=len(found) > offset + len(page))
