"""Assigns documents to training, calibration and evaluation by the hash of their text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from mistudio.core.errors import InvalidInput
from mistudio.ml.data.text import TextStore

PARTS = ("train", "calibration", "evaluation")
_SHARE = 0.05  # of the documents, for calibration and for evaluation each
_FEW = 60


def document_hash(text: str) -> int:
    """The first 8 bytes of the text's SHA-256 as an integer below 2**64."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def assign_parts(store: TextStore, check: Callable[[], None] = lambda: None) -> np.ndarray:
    """Part number (index into `PARTS`) of each document, uint8.

    Equal texts share a part. Few documents are shared out in the order of their hashes, so that no
    part is empty; raises `InvalidInput` if there are fewer than three different ones.
    """
    hashes = np.empty(len(store), dtype=np.uint64)
    for low in range(0, len(store), 1000):
        check()
        for i, text in enumerate(store.texts(low, low + 1000), low):
            hashes[i] = document_hash(text)
    u = hashes / 2.0**64
    parts = np.where(u < _SHARE, 2, np.where(u < 2 * _SHARE, 1, 0)).astype(np.uint8)
    if len(hashes) >= _FEW and len(np.unique(parts)) == len(PARTS):
        return parts
    distinct, which = np.unique(hashes, return_inverse=True)
    if len(distinct) < len(PARTS):
        raise InvalidInput(
            f"The dataset has {len(distinct)} different document"
            f"{'s' if len(distinct) > 1 else ''}, at least 3 are needed to keep some for "
            "evaluation; import the text by paragraph or by line.",
            code="too_few_documents",
        )
    few = max(1, round(_SHARE * len(distinct)))
    by_rank = np.zeros(len(distinct), dtype=np.uint8)
    by_rank[:few] = 2
    by_rank[few : 2 * few] = 1
    return by_rank[which]
