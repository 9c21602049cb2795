"""Measures the search and the paging of samples on a made-up dataset."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mistudio.core.control import JobControl
from mistudio.core.events import SilentReporter
from mistudio.core.paths import Paths
from mistudio.jobs.dataset_pages import SamplePage, sample_page
from mistudio.jobs.index_dataset import build_index
from mistudio.jobs.runner import Studio
from mistudio.store.tables import DATASETS

if TYPE_CHECKING:
    from mistudio.ml.data.text_writer import Row

Ask = Callable[[], SamplePage]
_VOCABULARY = 100_000
_WORDS = 60  # of a sample on average
_RARE = "zyzzyva"


def bench_search(samples: int = 1_000_000, seed: int = 0) -> dict[str, float]:
    """Store and index `samples` made-up texts in a temporary folder, then ask for pages of 50.

    Returns milliseconds, the slowest of five, for pages found by a rare word, a common word, two
    common words, a phrase, a beginning and a length, for the last page of a common word, for a
    page without a search, and the seconds that storing and indexing took.
    """
    from mistudio.ml.data.write_dataset import write_dataset

    with tempfile.TemporaryDirectory(prefix="mistudio-bench-") as home:
        studio = Studio(Paths.at(Path(home)))
        try:
            row = DATASETS.insert(studio.db(), name="bench", source="local", status="ready")
            began = time.monotonic()
            facts = write_dataset(
                studio.paths.dataset(row.id),
                _made_up(samples, seed),
                report=SilentReporter(),
                control=JobControl(),
            )
            stored = time.monotonic()
            build_index(studio, row, SilentReporter(), JobControl())
            indexed = time.monotonic()

            def page(
                words: str = "", longest: int = 0, offset: int = 0
            ) -> Callable[[], SamplePage]:
                return lambda: sample_page(studio, row, words=words, longest=longest, offset=offset)

            common, second = _word(0), _word(1)
            return {
                "samples": samples,
                "text_mb": round(facts.bytes / 1e6, 1),
                "store_s": round(stored - began, 1),
                "index_s": round(indexed - stored, 1),
                "rare_ms": _slowest(page(_RARE)),
                "common_ms": _slowest(page(common)),
                "two_common_ms": _slowest(page(f"{common} {second}")),
                "phrase_ms": _slowest(page(f'"{common} {second}"')),
                "beginning_ms": _slowest(page(f"{_word(40)[:3]}*")),
                "length_ms": _slowest(page(common, longest=300)),
                "last_page_ms": _slowest(page(common, offset=samples * 9 // 10)),
                "page_ms": _slowest(page(offset=samples // 2)),
            }
        finally:
            studio.close()


def _slowest(ask: Callable[[], object]) -> float:
    took: list[float] = []
    for _ in range(5):
        began = time.monotonic()
        ask()
        took.append(1000 * (time.monotonic() - began))
    return round(max(took), 1)


def _word(rank: int) -> str:
    """A word for each rank: letters that tell its digits, the more common the shorter."""
    letters = "aeioutnshr"
    return "w" + "".join(letters[int(digit)] for digit in str(rank))


def _made_up(samples: int, seed: int) -> Iterator[tuple[str, Row]]:
    """Samples whose words are as frequent as those of a language; the last holds the rare word."""
    from mistudio.ml.data.text_writer import Row

    chance = np.random.default_rng(seed)
    weights_V = 1.0 / np.arange(1, _VOCABULARY + 1)
    ends_V = np.cumsum(weights_V / weights_V.sum())
    words = [_word(rank) for rank in range(_VOCABULARY)]
    for first in range(0, samples, 1000):
        count = min(1000, samples - first)
        lengths_N = chance.integers(_WORDS // 2, _WORDS * 3 // 2, count)
        ranks: list[int] = np.searchsorted(ends_V, chance.random(int(lengths_N.sum()))).tolist()
        start = 0
        for number, length in enumerate(lengths_N.tolist(), first):
            chosen = [words[min(r, _VOCABULARY - 1)] for r in ranks[start : start + length]]
            start += length
            if number == samples - 1:
                chosen.append(_RARE)
            yield "train", Row(" ".join(chosen))
