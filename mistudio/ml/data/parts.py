"""Assigns documents to training, calibration and evaluation by the hash of their text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np

from mistudio.core.dataset_configs import HELD_OUT_SHARE
from mistudio.core.errors import InvalidInput

PARTS = ("train", "calibration", "evaluation")
SHARE = HELD_OUT_SHARE / 100  # of the documents, for calibration and for evaluation each
_FEW = 60
_SURE = 2000  # so many documents leave no part empty, unless they are all the same
_READ_CHARACTERS = 1 << 20
_READ_DOCUMENTS = 1000


class Texts(Protocol):
    """Numbered texts."""

    def __len__(self) -> int: ...

    def texts(self, low: int, high: int) -> list[str]:
        """Texts low..high-1."""
        ...


def document_hash(text: str) -> int:
    """The first 8 bytes of the text's SHA-256 as an integer below 2**64."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def in_order(store: Texts) -> Iterator[tuple[int, list[str]]]:
    """All texts in stretches of about a million characters: number of the first, the texts."""
    low, count = 0, 16
    while low < len(store):
        texts = store.texts(low, min(low + count, len(store)))
        yield low, texts
        low += len(texts)
        mean = sum(map(len, texts)) / len(texts)
        # Long documents may follow short ones, so a stretch grows slowly.
        count = max(1, min(_READ_DOCUMENTS, 2 * count, int(_READ_CHARACTERS / max(1.0, mean))))


def assign_parts(
    store: Texts, check: Callable[[], None] = lambda: None, share: float = SHARE
) -> np.ndarray:
    """Part number (index into `PARTS`) of each document, uint8; `share` goes to evaluation, as much
    again to calibration. What a smaller share holds out for evaluation, a larger one does too.

    Equal texts share a part. Few documents are shared out in the order of their hashes, so that no
    part is empty; raises `InvalidInput` if there are fewer than three different ones.
    """
    hashes = np.empty(len(store), dtype=np.uint64)
    for low, texts in in_order(store):
        check()
        hashes[low : low + len(texts)] = _hashes(texts)
    return parts_of(hashes, share)


def parts_of(hashes: np.ndarray, share: float = SHARE) -> np.ndarray:
    """`assign_parts` of texts whose hashes are known, uint64 [documents]."""
    parts = _by_hash(hashes, share)
    if len(hashes) >= _FEW and len(np.unique(parts)) == len(PARTS):
        return parts
    distinct, which = np.unique(hashes, return_inverse=True)
    if len(distinct) < len(PARTS):
        raise InvalidInput(
            f"The dataset has {len(distinct)} different document"
            f"{'' if len(distinct) == 1 else 's'}, at least 3 are needed to keep some for "
            "evaluation; import the text by paragraph or by line.",
            code="too_few_documents",
        )
    few = min(max(1, round(share * len(distinct))), (len(distinct) - 1) // 2)
    by_rank = np.zeros(len(distinct), dtype=np.uint8)
    by_rank[:few] = 2
    by_rank[few : 2 * few] = 1
    return by_rank[which]


class PartReader:
    """Reads the documents of one part after the other, in the order of `PARTS`."""

    def __init__(self, store: Texts, check: Callable[[], None], share: float = SHARE) -> None:
        self._store, self._check, self._share = store, check, share
        few = len(store) < _SURE
        self._parts = assign_parts(store, check, share) if few else None

    def read(self, part: int) -> Iterator[tuple[int, str]]:
        """Documents of a part with their numbers, in order.

        Many documents are assigned while the first part is read, so that no text is read twice for
        it. Raises `UnevenParts` at the end of that part if equal texts leave another one empty;
        then all parts are known and reading starts over.
        """
        if self._parts is None:
            yield from self._assigning()
        elif part == 0:
            for low, texts in in_order(self._store):
                for place in np.flatnonzero(self._parts[low : low + len(texts)] == 0).tolist():
                    yield low + place, texts[place]
        else:
            for number in np.flatnonzero(self._parts == part).tolist():
                yield number, self._store.texts(number, number + 1)[0]

    def _assigning(self) -> Iterator[tuple[int, str]]:
        found = np.empty(len(self._store), dtype=np.uint64)
        for low, texts in in_order(self._store):
            self._check()
            hashes = _hashes(texts)
            found[low : low + len(texts)] = hashes
            for place in np.flatnonzero(_by_hash(hashes, self._share) == 0).tolist():
                yield low + place, texts[place]
        self._parts = parts_of(found, self._share)
        if not np.array_equal(self._parts, _by_hash(found, self._share)):
            raise UnevenParts


class UnevenParts(Exception):
    """Parts cannot go by the hash alone; they are known now."""


def _hashes(texts: Sequence[str]) -> np.ndarray:
    raw = b"".join(hashlib.sha256(text.encode()).digest()[:8] for text in texts)
    return np.frombuffer(raw, dtype=">u8").astype(np.uint64)


def _by_hash(hashes: np.ndarray, share: float) -> np.ndarray:
    u = hashes / 2.0**64
    return np.where(u < share, 2, np.where(u < 2 * share, 1, 0)).astype(np.uint8)
