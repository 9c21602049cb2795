"""Tokenised text on disk: ids, character spans and masks by row, and the way back to the text."""

from __future__ import annotations

import functools
import itertools
import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from mistudio.core.errors import Damaged, InvalidInput, NotFound
from mistudio.ml.data.padded_rows import PaddedRows
from mistudio.ml.data.text import TextStore

CONTENT, SPECIAL, PADDING = 0, 1, 2  # values of the mask
LISTED = 4  # added, in memory alone, to the value of a token at a position that is left out
FLAT_STARTS = "starts"  # the array that tells where rows of unequal length begin


def padding_values(padding_id: int) -> tuple[int, int, int, int]:
    """What fills rows in ids, offsets, docs and mask."""
    return padding_id, 0, -1, PADDING


class Piece(NamedTuple):
    """A stretch of original text that tokens lo..hi-1 of a row stand for."""

    text: str
    lo: int
    hi: int
    special: bool = False  # a token with no text of its own: BOS, separator, padding


class Run(NamedTuple):
    """Tokens start..stop-1 of a row, on characters low..high-1 of a document (-1: of none)."""

    document: int
    start: int
    stop: int
    low: int
    high: int


class RowGroup(NamedTuple):
    """Rows of one text, rising, and the weight of the tokens that are to come from them."""

    rows: np.ndarray
    weight: float


class TokenStore:
    """The arrays of one tokenisation, memory-mapped and read-only.

    `ids` [rows, context] int32; `offsets` [rows, context, 2] int32, characters within the
    document; `docs` [rows, context] int32, -1 for BOS and padding; `mask` [rows, context] uint8.
    Rows stored without padding are read as if they had it.
    """

    def __init__(self, folder: Path) -> None:
        """Raises `NotFound` if there is no tokenisation and `Damaged` if its files disagree."""
        self.folder = folder
        try:
            self.meta: dict[str, Any] = json.loads((folder / "meta.json").read_text("utf-8"))
            shape = (self.meta["rows"], self.meta["context"])
            arrays = [
                # a plain view of the mapping: numpy's memmap class makes small look-ups slow
                np.load(folder / f"{name}.npy", mmap_mode="r").view(np.ndarray)
                for name in ("ids", "offsets", "docs", "mask")
            ]
            if (folder / f"{FLAT_STARTS}.npy").is_file():
                arrays = self._padded(arrays, shape[1])
            self.ids, self.offsets, self.docs, self.mask = arrays
        except FileNotFoundError as error:
            raise NotFound(
                "The tokens are gone; tokenise the dataset again.", details=str(error)
            ) from error
        except (ValueError, KeyError, EOFError, OSError) as error:
            raise Damaged(
                "The tokens are damaged; tokenise the dataset again.", details=str(error)
            ) from error
        expected = [shape, (*shape, 2), shape, shape]
        if [array.shape for array in arrays] != expected:
            raise Damaged("The tokens are damaged; tokenise the dataset again.")

    def _padded(self, arrays: list[np.ndarray], width: int) -> list[np.ndarray]:
        """Views [rows, width, ...] of arrays [tokens, ...]; raises ValueError if they disagree."""
        starts = np.load(self.folder / f"{FLAT_STARTS}.npy")
        if {len(array) for array in arrays} != {int(starts[-1])}:
            raise ValueError("arrays of different lengths")
        values = padding_values(int(self.meta["pad_id"]))
        views = [PaddedRows(a, starts, width, v) for a, v in zip(arrays, values, strict=True)]
        return cast("list[np.ndarray]", views)  # they are indexed the same way

    def __len__(self) -> int:
        return int(self.meta["rows"])

    @property
    def context(self) -> int:
        """Tokens per row."""
        return int(self.meta["context"])

    def rows(self, part: str) -> range:
        """Row numbers of "train", "calibration" or "evaluation"; "all" are all rows."""
        if part == "all":
            return range(len(self))
        if part not in self.meta["parts"]:
            raise InvalidInput(f"There is no part {part!r} of a dataset.")
        return range(*self.meta["parts"][part])

    def groups(self, part: str) -> list[RowGroup]:
        """The rows of a part by text: all are of one."""
        return [RowGroup(np.array(self.rows(part), dtype=np.int64), 1.0)]

    def reader(self, store: TextStore) -> Callable[[int], str]:
        """How to read the text of a document that was tokenised: a column of the dataset's."""
        column = self.meta["settings"].get("column")
        if not column:
            return store.text
        return lambda doc: store.column_texts(column, doc, doc + 1)[0]

    def span_text(self, store: TextStore, row: int, start: int, stop: int) -> str:
        """The original text of tokens start..stop-1; a line break between documents."""
        read = self.reader(store)
        found: list[str] = []
        for doc, _, _, low, high in self._runs(row, start, stop):
            if doc >= 0 and high > low:
                found.append(read(doc)[low:high])
        return "\n".join(found)

    def pieces(self, store: TextStore, row: int, start: int, stop: int) -> list[Piece]:
        """The text of tokens start..stop-1, token by token, in order and without loss.

        Tokens that share a character, or whose texts form one visible character (a letter and its
        accent, the parts of an emoji), become one piece.
        """
        return self.pieces_of(self.reader(store), row, start, stop)

    def pieces_of(self, read: Callable[[int], str], row: int, start: int, stop: int) -> list[Piece]:
        """`pieces` with a function that gives the text of a document."""
        pieces: list[Piece] = []
        for doc, lo, hi, low, high in self._runs(row, start, stop):
            if doc < 0:
                pieces += [Piece("", i, i + 1, True) for i in range(lo, hi)]
                continue
            text = read(doc)
            if self._is_plain(text[low:high], row, lo, hi):
                ends = self.offsets[row, lo:hi].tolist()
                pieces += [Piece(text[a:b], i, i + 1) for i, (a, b) in enumerate(ends, lo)]
                continue
            begin = len(pieces)
            reach = 0
            spans, mask = self.offsets[row, lo:hi].tolist(), self.mask[row, lo:hi].tolist()
            for i, (first, last), kind in zip(range(lo, hi), spans, mask, strict=True):
                if kind != CONTENT and first == last:
                    pieces.append(Piece("", i, i + 1, True))
                    continue
                shared = len(pieces) > begin and first < reach
                fresh = text[max(first, reach) if shared else first : last]
                before = pieces[-1] if len(pieces) > begin else None
                if before and not before.special and (shared or joins(before.text, fresh)):
                    pieces[-1] = Piece(before.text + fresh, before.lo, i + 1)
                else:
                    pieces.append(Piece(fresh, i, i + 1))
                reach = last
        return pieces

    def _is_plain(self, text: str, row: int, lo: int, hi: int) -> bool:
        """Whether each token is a piece of its own: most text, and much faster to cut."""
        if not text.isascii() and any(map(_may_join, set(text))):
            return False
        if "\r" in text or (self.mask[row, lo:hi] != CONTENT).any():
            return False
        spans = self.offsets[row, lo:hi]
        return not (spans[1:, 0] < spans[:-1, 1]).any()

    def runs(self, row: int, start: int, stop: int) -> list[Run]:
        """Stretches of one document each among tokens start..stop-1 of a row."""
        return [Run(*found) for found in self._runs(row, start, stop)]

    def _runs(self, row: int, start: int, stop: int) -> list[tuple[int, int, int, int, int]]:
        """Stretches of one document: (document, first token, behind last, characters from, to)."""
        start, stop = max(0, start), min(stop, self.context)
        if start >= stop:
            return []
        docs = np.asarray(self.docs[row, start:stop])
        cuts = [0, *(np.flatnonzero(np.diff(docs)) + 1).tolist(), len(docs)]
        runs = []
        for lo, hi in itertools.pairwise(cuts):
            spans = self.offsets[row, start + lo : start + hi]
            low, high = int(spans[:, 0].min()), int(spans[:, 1].max())
            runs.append((int(docs[lo]), start + lo, start + hi, low, high))
        return runs


_JOINER = "\u200d"


def joins(before: str, after: str) -> bool:
    """Whether the first character of `after` is shown as one with the last of `before`."""
    if not before or not after:
        return False
    last, first = before[-1], after[0]
    if first < "\x80":  # most of all text: nothing below continues a character
        return last == _JOINER or (last == "\r" and first == "\n")
    if _JOINER in (first, last):
        return True
    if 0x1F3FB <= ord(first) <= 0x1F3FF:  # skin tones
        return True
    if _is_regional(first) and _is_regional(last):  # two letters make a flag
        letters = len(before) - len(before.rstrip("".join(c for c in before if _is_regional(c))))
        return letters % 2 == 1
    return unicodedata.category(first) in ("Mn", "Mc", "Me")


@functools.lru_cache(maxsize=4096)
def _may_join(character: str) -> bool:
    """Whether `joins` may be true beside this character (a line break after "\\r" apart)."""
    return (
        character == _JOINER
        or 0x1F3FB <= ord(character) <= 0x1F3FF
        or _is_regional(character)
        or unicodedata.category(character) in ("Mn", "Mc", "Me")
    )


def _is_regional(character: str) -> bool:
    return 0x1F1E6 <= ord(character) <= 0x1F1FF
