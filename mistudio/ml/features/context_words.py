"""The words of a harvest's text and the tokens that each stands on, for searching where they occur.

Words are numbered through the text; where a document or a row ends, a number is left out, so that
no phrase goes across. Files in `FOLDER` of the feature set: words.txt (each word once, in order),
splits and places (a word -> the numbers of its occurrences, rising), first and last (a number ->
the tokens it stands on, as row * row length + position; NONE where a number is left out).
"""

from __future__ import annotations

import functools
import re
import shutil
import unicodedata
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mistudio.core.atomic import write_json
from mistudio.core.errors import NotFound, from_os_error
from mistudio.core.search_words import SearchTerm
from mistudio.ml.features.arrays import AppendArray, create_array, open_array

if TYPE_CHECKING:
    from mistudio.ml.features.feature_store import FeatureStore

FOLDER = "contexts"
NONE = 0xFFFFFFFF
BLOCK = 1 << 20  # occurrences sorted at a time
# scripts written without blanks: each character is a word of its own, so that any part is found
_WORD = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003134f]|"
    "(?:(?![\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003134f])[^\\W_][\u0300-\u036f]*)+"
)


def words_in(text: str) -> list[tuple[str, int, int]]:
    """The words of a text, folded, and the characters from..to-1 on which each stands."""
    return [(folded(m.group()), m.start(), m.end()) for m in _WORD.finditer(text)]


@functools.lru_cache(maxsize=1 << 16)
def folded(word: str) -> str:
    """A word without case and accents."""
    parts = unicodedata.normalize("NFKD", word.casefold())
    return "".join(c for c in parts if not unicodedata.combining(c)) or word


def build(
    store: FeatureStore,
    check: Callable[[], None] = lambda: None,
    progress: Callable[[float], None] = lambda _: None,
) -> int:
    """Index the text of a store; returns how many words it has. Memory is that of one block.

    The index appears when it is complete. Raises `DiskFull`, and what `check` raises.
    """
    folder = store.folder / FOLDER
    made = store.folder / f".{FOLDER}.tmp"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    try:
        words, total = _read(store, made, check, progress)
        _sort(made, words, check)
        write_json(made / "facts.json", {"words": total, "different": len(words)})
        shutil.rmtree(folder, ignore_errors=True)
        made.replace(folder)
    except OSError as error:
        raise from_os_error(error, "index the text of the features") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return total


def _read(
    store: FeatureStore, made: Path, check: Callable[[], None], progress: Callable[[float], None]
) -> tuple[dict[str, int], int]:
    """Write the occurrences in the order of the text; returns the words by first occurrence."""
    words: dict[str, int] = {}
    ids = AppendArray(made / "ids.npy", np.int32)
    first, last = (AppendArray(made / f"{name}.npy", np.uint32) for name in ("first", "last"))
    total = 0
    try:
        order = store.rows_by_text()
        for done, row in enumerate(order.tolist()):
            if done % 256 == 0:
                check()
                progress(0.9 * done / len(order))
            for text, token, spans in store.runs(row):
                found = words_in(text)
                if not found:
                    continue
                tokens = _tokens_of(np.array([part[1:] for part in found]), spans)
                on_any = (tokens[:, 0] <= tokens[:, 1]).tolist()
                kept = [part[0] for part, on in zip(found, on_any, strict=True) if on]
                tokens = tokens[on_any] + token
                ids.append(np.array([words.setdefault(w, len(words)) for w in kept] + [-1]))
                first.append(np.append(tokens[:, 0], NONE))
                last.append(np.append(tokens[:, 1], NONE))
                total += len(kept)
    except BaseException:
        for array in (ids, first, last):
            array.close(finished=False)
        raise
    for array in (ids, first, last):
        array.close()
    return words, total


def _tokens_of(
    characters_W2: NDArray[np.int64], spans_T2: NDArray[np.integer]
) -> NDArray[np.int64]:
    """First and last token [W, 2] on which words stand; first > last for those on none."""
    real = np.flatnonzero(spans_T2[:, 1] > spans_T2[:, 0])
    starts, ends = spans_T2[real, 0], spans_T2[real, 1]
    first = np.searchsorted(ends, characters_W2[:, 0], side="right")
    last = np.searchsorted(starts, characters_W2[:, 1], side="left") - 1
    there = first <= last
    found = np.stack([np.ones(len(first), np.int64), np.zeros(len(first), np.int64)], axis=1)
    found[there] = np.stack([real[first[there]], real[last[there]]], axis=1)
    return found


def _sort(made: Path, words: dict[str, int], check: Callable[[], None]) -> None:
    """From the words of each place to the places of each word: a counting sort by blocks."""
    in_order = sorted(words)
    (made / "words.txt").write_text("\n".join(in_order), "utf-8")
    rank = np.zeros(len(words) + 1, np.int64)
    rank[[words[word] for word in in_order]] = np.arange(len(words))
    rank[-1] = len(words)  # numbers left out, with id -1, come last and are not kept
    ids = open_array(made / "ids.npy")
    counts = np.zeros(len(words) + 1, np.int64)
    for start in range(0, ids.size, BLOCK):
        counts += np.bincount(rank[ids[start : start + BLOCK]], minlength=len(words) + 1)
    splits = np.concatenate([[0], np.cumsum(counts)])
    places = create_array(made / "places.npy", np.uint32, int(splits[-2]))
    cursor = splits[:-1].copy()
    for start in range(0, ids.size, BLOCK):
        check()
        part = rank[ids[start : start + BLOCK]]
        order = np.argsort(part, kind="stable")
        counted = np.bincount(part, minlength=len(words) + 1)
        before = np.cumsum(counted) - counted
        target = np.arange(part.size) + np.repeat(cursor - before, counted)
        real = order[part[order] < len(words)]
        places[target[: real.size]] = start + real
        cursor += counted
    np.save(made / "splits.npy", splits[:-1])
    (made / "ids.npy").unlink()


class ContextWords:
    """The index of one feature set, open for reading."""

    def __init__(self, folder: Path, row_length: int) -> None:
        """`folder` is that of the feature set. Raises `NotFound` before `build`, `Damaged`."""
        where = folder / FOLDER
        if not (where / "facts.json").is_file():
            raise NotFound("The text of these features is not indexed yet.")
        self.words = (where / "words.txt").read_text("utf-8").split("\n")
        self._splits, self._places, self._first, self._last = (
            open_array(where / f"{name}.npy") for name in ("splits", "places", "first", "last")
        )
        self._row_length = row_length

    def find(self, terms: list[SearchTerm]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """First and last token of each occurrence of any term, in the rows that hold all of them.

        A term of several words is found where they stand together; both arrays are empty if
        nothing is found.
        """
        found = [self._occurrences(term) for term in terms]
        if not found:
            return np.empty(0, np.uint32), np.empty(0, np.uint32)
        if len(found) > 1:
            rows = [np.unique(self._first[start] // self._row_length) for start, _ in found]
            common = functools.reduce(np.intersect1d, rows)
            found = [
                (start[np.isin(self._first[start] // self._row_length, common)], n)
                for start, n in found
            ]
        start = np.concatenate([start for start, _ in found])
        stop = np.concatenate([start + n for start, n in found])
        # what two terms find is one occurrence
        both = np.unique(np.stack([start, stop]), axis=1) if len(found) > 1 else (start, stop)
        return self._first[both[0]], self._last[both[1] - 1]

    def _occurrences(self, term: SearchTerm) -> tuple[NDArray[np.int64], int]:
        """Numbers at which a term begins, and how many words it has."""
        words = [word for word, _, _ in words_in(term.text)]
        starts = np.empty(0, np.int64)
        for place, word in enumerate(words):
            is_last = place == len(words) - 1
            here = self._numbers(word, begins=is_last and term.is_beginning) - place
            starts = here if place == 0 else np.intersect1d(starts, here, assume_unique=True)
            if not starts.size:
                break
        return starts, max(1, len(words))

    def _numbers(self, word: str, *, begins: bool) -> NDArray[np.int64]:
        """Numbers of all occurrences of a word, or of all words that begin so."""
        low = bisect_left(self.words, word)
        if begins:
            high = bisect_left(self.words, word + "\U0010ffff")
        else:
            high = low + (low < len(self.words) and self.words[low] == word)
        found = self._places[self._splits[low] : self._splits[high]].astype(np.int64)
        return np.sort(found) if begins else found
