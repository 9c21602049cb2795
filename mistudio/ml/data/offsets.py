"""Encodes batches of documents with the character span of every token."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


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
        self._bytes_V = _byte_lengths(self._backend)

    def encode(self, texts: Sequence[str]) -> EncodedBatch:
        """The tokens of all texts."""
        if self._bytes_V is not None:
            # Counting the bytes of each token is several times faster than the library's offsets,
            # which become one Python tuple per token.
            batch = self._counting_bytes(texts, self._bytes_V)
            if batch is not None:
                return batch
        return self._from_library(texts)

    def _counting_bytes(self, texts: Sequence[str], bytes_V: np.ndarray) -> EncodedBatch | None:
        """None if the tokens' bytes do not add up to the texts, as when one swallows blanks."""
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        ids_T, lengths_N = _gathered_ids(encodings)
        ends_T = np.cumsum(bytes_V[ids_T])
        raw = "".join(texts).encode()
        characters_N = np.fromiter(map(len, texts), np.int64, len(texts))
        plain = len(raw) == int(characters_N.sum())
        sizes_N = (
            characters_N
            if plain
            else np.fromiter((len(text.encode()) for text in texts), np.int64, len(texts))
        )
        reached_N = np.concatenate([[0], ends_T])[np.cumsum(lengths_N)]
        if not np.array_equal(reached_N, np.cumsum(sizes_N)) or not bytes_V[ids_T].all():
            return None
        spans_T2 = np.empty((len(ids_T), 2), dtype=np.int64)
        spans_T2[1:, 0] = ends_T[:-1]
        spans_T2[:1, 0] = 0
        spans_T2[:, 1] = ends_T
        if not plain:
            leads = np.frombuffer(raw, dtype=np.uint8) & 0xC0 != 0x80
            character_of_byte = np.cumsum(leads, dtype=np.int64) - 1
            spans_T2[:, 0] = character_of_byte[spans_T2[:, 0]]
            spans_T2[:, 1] = character_of_byte[spans_T2[:, 1] - 1] + 1
        before_N = np.cumsum(characters_N) - characters_N
        spans_T2 -= np.repeat(before_N, lengths_N)[:, None]
        return EncodedBatch(ids_T, spans_T2.astype(np.int32), lengths_N, characters_N)

    def _from_library(self, texts: Sequence[str]) -> EncodedBatch:
        encodings = self._backend.encode_batch(list(texts), add_special_tokens=False)
        ids_T, lengths_N = _gathered_ids(encodings)
        spans: list[np.ndarray] = [np.empty((0, 2), dtype=np.int32)]
        for text, encoding in zip(texts, encodings, strict=True):
            flat = itertools.chain.from_iterable(encoding.offsets)
            spans_T2 = np.fromiter(flat, np.int32, 2 * len(encoding)).reshape(-1, 2)
            spans.append(_without_gaps(spans_T2, len(text)))
        characters_N = np.fromiter(map(len, texts), np.int64, len(texts))
        return EncodedBatch(ids_T, np.concatenate(spans), lengths_N, characters_N)


def _gathered_ids(encodings: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    lengths_N = np.fromiter(map(len, encodings), np.int64, len(encodings))
    flat = itertools.chain.from_iterable(encoding.ids for encoding in encodings)
    return np.fromiter(flat, np.int32, int(lengths_N.sum())), lengths_N


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


def _without_gaps(spans_T2: np.ndarray, length: int) -> np.ndarray:
    if len(spans_T2) == 0:
        return spans_T2
    closed = spans_T2.copy()
    closed[:, 1] = np.maximum.accumulate(closed[:, 1])
    closed[-1, 1] = length
    closed[0, 0] = 0
    closed[1:, 0] = np.minimum(closed[1:, 0], closed[:-1, 1])
    return closed
