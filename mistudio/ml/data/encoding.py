"""Feeds documents to the encoder: batches are encoded while others are read and written."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple

import numpy as np

from mistudio.core.errors import InvalidInput
from mistudio.ml.data.offsets import EncodedBatch, Encoder

_BATCH_DOCUMENTS = 1000
_BATCH_CHARACTERS = 500_000
# One batch waits for Python's lock, to hand its result over, while the other keeps the cores busy.
_THREADS = 2
_AHEAD = 3
_WAIT_S = 0.2

log = logging.getLogger(__name__)


class Encoded(NamedTuple):
    """Documents by number with their tokens."""

    docs_N: np.ndarray
    batch: EncodedBatch
    refused: int
    """documents beside these that the tokenizer cannot encode"""


def encoded(
    documents: Iterable[tuple[int, str]],
    encoder: Encoder,
    separator: int | None,
    skip_bad: bool,
    check: Callable[[], None],
) -> Iterator[Encoded]:
    """The documents in order, in batches; `check` may raise while one is waited for.

    Raises `InvalidInput` that names the document if the tokenizer refuses one, unless `skip_bad`.
    """
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="encode")
    waiting: deque[Future[Encoded]] = deque()
    try:
        for numbers, texts in _batches(documents):
            waiting.append(pool.submit(_encode, encoder, numbers, texts, separator, skip_bad))
            if len(waiting) > _AHEAD:
                yield _result(waiting.popleft(), check)
        while waiting:
            yield _result(waiting.popleft(), check)
    finally:
        # A cancel does not wait for batches that are under way; nobody will see their tokens.
        pool.shutdown(wait=False, cancel_futures=True)


def _result(future: Future[Encoded], check: Callable[[], None]) -> Encoded:
    while not wait([future], timeout=_WAIT_S).done:
        check()
    return future.result()


def _batches(documents: Iterable[tuple[int, str]]) -> Iterator[tuple[list[int], list[str]]]:
    numbers: list[int] = []
    texts: list[str] = []
    size = 0
    for number, text in documents:
        numbers.append(number)
        texts.append(text)
        size += len(text)
        if len(texts) >= _BATCH_DOCUMENTS or size >= _BATCH_CHARACTERS:
            yield numbers, texts
            numbers, texts, size = [], [], 0
    if texts:
        yield numbers, texts


def _encode(
    encoder: Encoder, numbers: list[int], texts: list[str], separator: int | None, skip_bad: bool
) -> Encoded:
    try:
        return Encoded(np.array(numbers), encoder.encode(texts, separator), 0)
    except BaseException as error:
        if not _is_refusal(error):
            raise
    good = [
        place
        for place, (number, text) in enumerate(zip(numbers, texts, strict=True))
        if _accepts(encoder, number, text, skip_bad)
    ]
    batch = encoder.encode([texts[place] for place in good], separator)
    return Encoded(np.array(numbers, dtype=np.int64)[good], batch, len(texts) - len(good))


def _accepts(encoder: Encoder, number: int, text: str, skip_bad: bool) -> bool:
    try:
        encoder.encode([text])
    except BaseException as error:
        if not _is_refusal(error):
            raise
        if not skip_bad:
            raise InvalidInput(
                f"Sample {number + 1:,} cannot be tokenised: {error}. Leave such samples out with "
                "Skip bad samples.",
                code="bad_sample",
            ) from error
        log.info("sample %d was refused by the tokenizer: %s", number, error)
        return False
    return True


def _is_refusal(error: BaseException) -> bool:
    """Whether the library says that it cannot encode a text; its panics are no `Exception`."""
    if type(error).__name__ == "PanicException":
        return True
    return isinstance(error, Exception) and not isinstance(error, (MemoryError, OSError))
