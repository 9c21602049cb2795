"""Shares documents out to splits by a hash of their text, so that equal texts stay together."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

TRAIN, VALIDATION, TEST = "train", "validation", "test"


def splitter(validation_share: float, test_share: float) -> Callable[[str], str]:
    """A function from text to split; the same text always gets the same one."""

    def split_of(text: str) -> str:
        # another hash than that of the parts of a tokenisation: shares of shares stay shares
        data = text.encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(data, digest_size=8, person=b"split").digest()
        place = int.from_bytes(digest, "big") / 2.0**64
        if place < validation_share:
            return VALIDATION
        return TEST if place < validation_share + test_share else TRAIN

    return split_of
