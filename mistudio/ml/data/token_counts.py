"""Counts the tokens that a tokenisation writes."""

from __future__ import annotations

from typing import Any

import numpy as np

from mistudio.ml.data.token_store import CONTENT, SPECIAL

_BINS = 20
_TOP = 50


class TokenCounts:
    """Running statistics over the tokens that were written."""

    def __init__(self, vocab_size: int, special_ids: frozenset[int]) -> None:
        self._count_V = np.zeros(vocab_size, dtype=np.int64)
        self.special_ids = np.array(sorted(special_ids), dtype=np.int32)
        # what the mask says of each id
        self.mask_V = np.full(max(vocab_size, *special_ids, 0) + 1, CONTENT, dtype=np.uint8)
        self.mask_V[self.special_ids] = SPECIAL
        self.encoded = 0  # tokens of all documents, whether or not they end up in a row
        self.tokens = 0
        self.content = 0
        self._lengths: list[np.ndarray] = []

    def add_documents(self, lengths_N: np.ndarray) -> None:
        """Note the lengths of documents in tokens."""
        self._lengths.append(lengths_N.astype(np.int32))
        self.encoded += int(lengths_N.sum())

    def add_tokens(self, ids_T: np.ndarray, mask_T: np.ndarray) -> None:
        """Count tokens that were written, without padding."""
        counts = np.bincount(ids_T, minlength=len(self._count_V))
        if len(counts) > len(self._count_V):
            self._count_V = np.pad(self._count_V, (0, len(counts) - len(self._count_V)))
        self._count_V += counts
        self.tokens += len(ids_T)
        self.content += int(np.count_nonzero(mask_T == CONTENT))

    def summary(self, tokenizer: Any) -> dict[str, Any]:
        """Totals, top tokens, special tokens and document lengths as plain JSON values."""
        count_V = self._count_V.copy()
        special = {
            str(tokenizer.convert_ids_to_tokens(int(i))): int(count_V[i])
            for i in self.special_ids
            if i < len(count_V)
        }
        unique = int((count_V > 0).sum())
        count_V[self.special_ids[self.special_ids < len(count_V)]] = 0
        top = np.argsort(-count_V, kind="stable")[:_TOP]
        lengths = np.concatenate(self._lengths)
        histogram, edges = np.histogram(lengths, bins=_BINS)
        return {
            "tokens": self.tokens,
            "content_tokens": self.content,
            "unique_tokens": unique,
            "top_tokens": [
                {"id": int(i), "text": tokenizer.decode([int(i)]), "count": int(count_V[i])}
                for i in top
                if count_V[i]
            ],
            "special_tokens": special,
            "document_tokens": {
                "min": int(lengths.min()),
                "median": float(np.median(lengths)),
                "mean": float(lengths.mean()),
                "max": int(lengths.max()),
                "histogram_edges": [float(edge) for edge in edges],
                "histogram_counts": [int(count) for count in histogram],
            },
        }
