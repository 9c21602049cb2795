"""Encodes batches of documents with the character span of every token."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mistudio.ml.data.byte_counts import byte_counts


class EncodedBatch(NamedTuple):
    """The tokens of N documents, T in all, one document after the other."""

    ids_T: np.ndarray  # int32
    spans_T2: np.ndarray  # int32, first character in the document and the one behind the last
    lengths_N: np.ndarray  # int64, tokens of each document
    characters_N: np.ndarray  # int64, characters of each document

    def document(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and spans of one document of the batch."""
        stop = int(self.lengths_N[: index + 1].sum())
        start = stop - int(self.lengths_N[index])
        return self.ids_T[start:stop], self.spans_T2[start:stop]


class Encoder:
    """Wraps a fast tokenizer: text to ids and spans, without special tokens added.

    Spans leave no gap: what a tokenizer drops between two tokens (a trimmed space) is counted to
    the later one, so the spans of a document always cover the whole of its text. Tokens that hold
    parts of one character all span that character.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self._counts = byte_counts(self._backend)

    def encode(self, texts: Sequence[str], separator: int | None = None) -> EncodedBatch:
        """The tokens of all texts; `separator` is put behind each, with an empty span.

        Raises what the library raises for a text that it cannot encode.
        """
        if self._counts is None:
            return self._from_library(texts, separator)
        # Counting the bytes of each token is several times faster than the library's offsets,
        # which become one Python tuple per token.
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        batch = _gathered(encodings, texts, separator)
        del encodings
        wrong = self._count_bytes(batch, texts, separator)
        for index in wrong:
            _put(batch, index, self._from_library([texts[index]], separator))
        return batch

    def _count_bytes(
        self, batch: EncodedBatch, texts: Sequence[str], separator: int | None
    ) -> list[int]:
        """Fill in the spans; returns the documents whose tokens do not add up to their text."""
        counts, (ids_T, _, lengths_N, characters_N) = self._counts, batch
        if counts is None or not len(ids_T):
            return []
        stops_N = np.cumsum(lengths_N)
        starts_N = stops_N - lengths_N
        sizes_T = counts.lengths_V[ids_T]
        bad = sizes_T == 0
        if separator is not None:
            sizes_T[stops_N - 1] = 0
            bad[stops_N - 1] = False
        raws = [text.encode() for text in texts]
        sizes_N = np.fromiter(map(len, raws), np.int64, len(raws))
        ends_T = np.cumsum(sizes_T, dtype=np.int64)
        found_N = np.diff(np.concatenate([[0], ends_T])[stops_N], prepend=0)
        if (found_N == sizes_N).all() and not bad.any() and not counts.composes:
            _to_characters(batch, ends_T, sizes_T, b"".join(raws))
            return []
        wrong_N = np.zeros(len(texts), dtype=bool)
        wrong_N[np.searchsorted(stops_N, np.flatnonzero(bad), side="right")] = True
        if counts.prefix:
            added_N = (found_N == sizes_N + 1) & (sizes_N > 0)
            sizes_T[starts_N[added_N]] -= 1
            found_N = found_N - added_N
        if counts.composes:
            wrong_N |= np.fromiter(map(_changes, texts), bool, len(texts))
        wrong_N |= found_N != sizes_N
        # A wrong document must not shift its neighbours: its bytes go to its last token.
        for index in np.flatnonzero(wrong_N & (lengths_N > 0)):
            sizes_T[starts_N[index] : stops_N[index]] = 0
            sizes_T[stops_N[index] - 1] = sizes_N[index]
        lost_N = wrong_N & (lengths_N == 0)
        raws = [b"" if lost else raw for raw, lost in zip(raws, lost_N, strict=True)]
        kept_N = np.where(lost_N, 0, characters_N)
        ends_T = np.cumsum(sizes_T, dtype=np.int64)
        _to_characters(batch._replace(characters_N=kept_N), ends_T, sizes_T, b"".join(raws))
        return np.flatnonzero(wrong_N & ~lost_N).tolist()

    def _from_library(self, texts: Sequence[str], separator: int | None) -> EncodedBatch:
        encodings = self._backend.encode_batch(list(texts), add_special_tokens=False)
        batch = _gathered(encodings, texts, separator)
        at = 0
        for text, encoding, length in zip(texts, encodings, batch.lengths_N.tolist(), strict=True):
            flat = itertools.chain.from_iterable(encoding.offsets)
            count = len(encoding)
            spans_T2 = np.fromiter(flat, np.int32, 2 * count).reshape(-1, 2)
            batch.spans_T2[at : at + count] = _without_gaps(spans_T2, len(text))
            batch.spans_T2[at + count : at + length] = len(text)
            at += length
        return batch


def _to_characters(
    batch: EncodedBatch, ends_T: np.ndarray, sizes_T: np.ndarray, raw: bytes
) -> None:
    """Set the spans, from where tokens end in the joined text and their lengths, in bytes."""
    spans_T2, characters_N = batch.spans_T2, batch.characters_N
    before_T = np.repeat(np.cumsum(characters_N) - characters_N, batch.lengths_N)
    if len(raw) == int(characters_N.sum()):
        np.subtract(ends_T, before_T, out=spans_T2[:, 1], casting="unsafe")
        np.subtract(spans_T2[:, 1], sizes_T, out=spans_T2[:, 0])
        return
    # characters that begin in the first so many bytes
    begun = np.zeros(len(raw) + 2, dtype=np.int32)
    leads = np.frombuffer(raw, dtype=np.uint8) & 0xC0 != 0x80
    np.cumsum(leads, out=begun[1:-1])
    np.subtract(begun[ends_T], before_T, out=spans_T2[:, 1], casting="unsafe")
    np.subtract(begun[ends_T - sizes_T + 1], before_T + 1, out=spans_T2[:, 0], casting="unsafe")
    empty = sizes_T == 0
    spans_T2[empty, 0] = spans_T2[empty, 1]


def _changes(text: str) -> bool:
    return not (text.isascii() or unicodedata.is_normalized("NFC", text))


def _gathered(
    encodings: Sequence[Any], texts: Sequence[str], separator: int | None
) -> EncodedBatch:
    """Ids and lengths; the spans are yet to be filled in."""
    lists = [encoding.ids for encoding in encodings]
    if separator is not None:
        for ids in lists:
            ids.append(separator)
    lengths_N = np.fromiter(map(len, lists), np.int64, len(lists))
    total = int(lengths_N.sum())
    ids_T = np.fromiter(itertools.chain.from_iterable(lists), np.int32, total)
    characters_N = np.fromiter(map(len, texts), np.int64, len(texts))
    return EncodedBatch(ids_T, np.empty((total, 2), dtype=np.int32), lengths_N, characters_N)


def _put(batch: EncodedBatch, index: int, one: EncodedBatch) -> None:
    """Overwrite the spans of a document by those of a batch that holds it alone."""
    _, spans_T2 = batch.document(index)
    spans_T2[:] = one.spans_T2


def _without_gaps(spans_T2: np.ndarray, length: int) -> np.ndarray:
    if len(spans_T2) == 0:
        return spans_T2
    closed = spans_T2.copy()
    closed[:, 1] = np.maximum.accumulate(closed[:, 1])
    closed[-1, 1] = length
    closed[0, 0] = 0
    closed[1:, 0] = np.minimum(closed[1:, 0], closed[:-1, 1])
    return closed
