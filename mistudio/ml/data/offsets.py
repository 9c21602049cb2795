"""Encodes batches of documents with the character span of every token."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Encoded(NamedTuple):
    """The tokens of one document; T tokens."""

    ids_T: np.ndarray  # int32
    spans_T2: np.ndarray  # int32, first character and the one behind the last


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
        self._bytes_V = _byte_lengths(self._backend)

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """One `Encoded` per text."""
        if self._bytes_V is None:
            return self._from_library(texts)
        # Counting the bytes of each token is several times faster than the library's offsets,
        # which become one Python tuple per token.
        batch = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        found: list[Encoded] = []
        for text, encoding in zip(texts, batch, strict=True):
            ids_T = np.array(encoding.ids, dtype=np.int32)
            ends_T = np.cumsum(self._bytes_V[ids_T])
            size = len(text) if text.isascii() else len(text.encode())
            if len(ids_T) and int(ends_T[-1]) == size:
                found.append(Encoded(ids_T, _character_spans(text, ends_T)))
            else:  # an added token that swallows blanks around it
                found += self._from_library([text])
        return found

    def _from_library(self, texts: Sequence[str]) -> list[Encoded]:
        batch = self._backend.encode_batch(list(texts), add_special_tokens=False)
        found: list[Encoded] = []
        for text, encoding in zip(texts, batch, strict=True):
            ids_T = np.array(encoding.ids, dtype=np.int32)
            flat = itertools.chain.from_iterable(encoding.offsets)
            spans_T2 = np.fromiter(flat, np.int32, 2 * len(ids_T)).reshape(-1, 2)
            found.append(Encoded(ids_T, _without_gaps(spans_T2, len(text))))
        return found


def _byte_lengths(backend: Any) -> np.ndarray | None:
    """Bytes of text that each id stands for, or None if the tokenizer is not plainly byte-level."""
    pre, decoder = backend.pre_tokenizer, backend.decoder
    plain = "ByteLevel" in str(pre) and "ByteLevel" in str(decoder)
    if backend.normalizer is not None or not plain or "add_prefix_space=True" in str(pre):
        return None
    added = backend.get_added_tokens_decoder()
    lengths_V = np.zeros(backend.get_vocab_size(with_added_tokens=True) + 1, dtype=np.int64)
    for token, number in backend.get_vocab(with_added_tokens=True).items():
        if number >= len(lengths_V):
            return None
        lengths_V[number] = len(token.encode()) if number in added else len(token)
    return lengths_V


def _character_spans(text: str, ends_T: np.ndarray) -> np.ndarray:
    """Spans in characters from the running byte counts at which tokens end."""
    spans_T2 = np.empty((len(ends_T), 2), dtype=np.int32)
    spans_T2[1:, 0] = ends_T[:-1]
    spans_T2[0, 0] = 0
    spans_T2[:, 1] = ends_T
    if text.isascii():
        return spans_T2
    raw = np.frombuffer(text.encode(), dtype=np.uint8)
    character_of_byte = np.cumsum((raw & 0xC0) != 0x80) - 1
    spans_T2[:, 0] = character_of_byte[spans_T2[:, 0]]
    spans_T2[:, 1] = character_of_byte[spans_T2[:, 1] - 1] + 1
    return spans_T2


def _without_gaps(spans_T2: np.ndarray, length: int) -> np.ndarray:
    if len(spans_T2) == 0:
        return spans_T2
    closed = spans_T2.copy()
    closed[:, 1] = np.maximum.accumulate(closed[:, 1])
    closed[-1, 1] = length
    closed[0, 0] = 0
    closed[1:, 0] = np.minimum(closed[1:, 0], closed[:-1, 1])
    return closed
