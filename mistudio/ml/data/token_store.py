"""Tokenised text on disk: ids, character spans and masks by row, and the way back to the text."""

from __future__ import annotations

import itertools
import json
import unicodedata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mistudio.core.errors import Damaged, InvalidInput, NotFound
from mistudio.ml.data.text import TextStore

CONTENT, SPECIAL, PADDING = 0, 1, 2  # values of the mask


class Piece(NamedTuple):
    """A stretch of original text that tokens lo..hi-1 of a row stand for."""

    text: str
    lo: int
    hi: int
    special: bool = False  # a token with no text of its own: BOS, separator, padding


class TokenStore:
    """The arrays of one tokenisation, memory-mapped and read-only.

    `ids` [rows, context] int32; `offsets` [rows, context, 2] int32, characters within the
    document; `docs` [rows, context] int32, -1 for BOS and padding; `mask` [rows, context] uint8.
    """

    def __init__(self, folder: Path) -> None:
        """Raises `NotFound` if there is no tokenisation and `Damaged` if its files disagree."""
        self.folder = folder
        try:
            self.meta: dict[str, Any] = json.loads((folder / "meta.json").read_text("utf-8"))
            self.ids = np.load(folder / "ids.npy", mmap_mode="r")
            self.offsets = np.load(folder / "offsets.npy", mmap_mode="r")
            self.docs = np.load(folder / "docs.npy", mmap_mode="r")
            self.mask = np.load(folder / "mask.npy", mmap_mode="r")
            shape = (self.meta["rows"], self.meta["context"])
        except FileNotFoundError as error:
            raise NotFound(
                "The tokens are gone; tokenise the dataset again.", details=str(error)
            ) from error
        except (ValueError, KeyError, EOFError, OSError) as error:
            raise Damaged(
                "The tokens are damaged; tokenise the dataset again.", details=str(error)
            ) from error
        expected = [shape, (*shape, 2), shape, shape]
        if [a.shape for a in (self.ids, self.offsets, self.docs, self.mask)] != expected:
            raise Damaged("The tokens are damaged; tokenise the dataset again.")

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

    def span_text(self, store: TextStore, row: int, start: int, stop: int) -> str:
        """The original text of tokens start..stop-1; a line break between documents."""
        found: list[str] = []
        for doc, _, _, low, high in self._runs(row, start, stop):
            if doc >= 0 and high > low:
                found.append(store.text(doc)[low:high])
        return "\n".join(found)

    def pieces(self, store: TextStore, row: int, start: int, stop: int) -> list[Piece]:
        """The text of tokens start..stop-1, token by token, in order and without loss.

        Tokens that share a character, or whose texts form one visible character (a letter and its
        accent, the parts of an emoji), become one piece.
        """
        pieces: list[Piece] = []
        for doc, lo, hi, _, _ in self._runs(row, start, stop):
            if doc < 0:
                pieces += [Piece("", i, i + 1, True) for i in range(lo, hi)]
                continue
            text = store.text(doc)
            begin = len(pieces)
            reach = 0
            for i in range(lo, hi):
                first, last = (int(c) for c in self.offsets[row, i])
                if self.mask[row, i] != CONTENT and first == last:
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
    if first == _JOINER or last == _JOINER or (last == "\r" and first == "\n"):
        return True
    if 0x1F3FB <= ord(first) <= 0x1F3FF:  # skin tones
        return True
    if _is_regional(first) and _is_regional(last):  # two letters make a flag
        letters = len(before) - len(before.rstrip("".join(c for c in before if _is_regional(c))))
        return letters % 2 == 1
    return unicodedata.category(first) in ("Mn", "Mc", "Me")


def _is_regional(character: str) -> bool:
    return 0x1F1E6 <= ord(character) <= 0x1F1FF
