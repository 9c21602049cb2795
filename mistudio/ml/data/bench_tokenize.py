"""Measures tokenising a dataset against the tokenizer library alone, in turn, on the same text."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mistudio.core.control import JobControl
from mistudio.core.events import SilentReporter
from mistudio.ml.data.text import TextStore
from mistudio.ml.data.tokenize import TokenizeSettings, tokenize_dataset

_BATCH_DOCUMENTS = 1000
_BATCH_CHARACTERS = 500_000


def bench_tokenize(
    store: TextStore,
    tokenizer: Any,
    scratch: Path,
    *,
    context: int = 512,
    rounds: int = 5,
    most_documents: int = 200_000,
) -> dict[str, float]:
    """Rates of both, medians over rounds taken in turn; leaves nothing in `scratch`.

    `library_bytes_per_s` is `encode_batch` with offsets over batches of documents that are in
    memory, its results dropped; `library_fast_bytes_per_s` the same without offsets. `ratio` and
    `ratio_fast` are what `tokenize_dataset`, from the stored text to finished files, reaches of
    them; each is the median of the ratios of one round.
    """
    texts = store.texts(0, min(len(store), most_documents))
    if len(texts) < len(store):
        raise ValueError(f"the dataset has more than {most_documents:,} documents")
    size = sum(len(text.encode()) for text in texts)
    batches = _batches(texts)
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    folder = scratch / "tokens"

    def whole() -> None:
        settings = TokenizeSettings(context)
        try:
            tokenize_dataset(store, tokenizer, settings, folder, SilentReporter(), JobControl())
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def library(encode: Callable[..., object]) -> Callable[[], None]:
        def run() -> None:
            for batch in batches:
                encode(batch, add_special_tokens=False)

        return run

    runs = {
        "": whole,
        "library_": library(backend.encode_batch),
        "library_fast_": library(backend.encode_batch_fast),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if number:  # the first round warms caches
                seconds[name].append(time.perf_counter() - began)
    own = seconds[""]
    rates = {f"{n}bytes_per_s": size / statistics.median(s) for n, s in seconds.items()}
    return {
        "bytes": size,
        **rates,
        "ratio": _ratio(seconds["library_"], own),
        "ratio_fast": _ratio(seconds["library_fast_"], own),
    }


def _ratio(library: Sequence[float], own: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(library, own, strict=True))


def _batches(texts: Sequence[str]) -> list[list[str]]:
    found: list[list[str]] = [[]]
    size = 0
    for text in texts:
        found[-1].append(text)
        size += len(text)
        if len(found[-1]) >= _BATCH_DOCUMENTS or size >= _BATCH_CHARACTERS:
            found.append([])
            size = 0
    return [batch for batch in found if batch]
