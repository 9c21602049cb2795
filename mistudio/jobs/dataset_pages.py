"""Reading a dataset's text and tokens for display; short reads, callable in the query thread."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mistudio.core.errors import NotFound
from mistudio.jobs.index_dataset import index_path
from mistudio.jobs.runner import Studio
from mistudio.jobs.sample_search import Wanted, find
from mistudio.store.records import DatasetRow, TokenizationRow

if TYPE_CHECKING:
    from mistudio.ml.data.text import TextStore


@dataclass(frozen=True)
class Sample:
    """One document: its number in the dataset, its text and the other columns."""

    index: int
    split: str
    text: str
    metadata: dict[str, str]
    length: int
    """characters"""


@dataclass(frozen=True)
class SamplePage:
    """Some of the documents that were asked for, in their order."""

    samples: list[Sample] = field(default_factory=list[Sample])
    total: int = 0
    """how many there are in all"""
    is_minimum: bool = False
    """there may be more than `total`: counting stopped there"""
    has_more: bool = False
    """there is a further page"""
    searched: int | None = None
    """without a word index a search ends after a second: only the first so many were looked at"""
    seconds: float = 0.0


@dataclass(frozen=True)
class Chip:
    """The original text of one token, or of several that share a character."""

    text: str
    token_id: int
    """the first token's id where several share the text"""
    special: bool


def sample_page(
    studio: Studio,
    dataset: DatasetRow,
    *,
    words: str = "",
    split: str = "",
    shortest: int = 0,
    longest: int = 0,
    offset: int = 0,
    limit: int = 50,
) -> SamplePage:
    """Documents offset..offset+limit-1 of those that hold all words, in one split, of a length.

    `words` are looked for whatever their case (`core.search_words`): "in quotes" they stand
    together, wolf* is any word that begins so. Lengths are in characters, 0 sets no limit.
    Raises `NotFound` or `Damaged` if the text cannot be read.
    """
    began = time.monotonic()
    store = _text(studio, dataset.id)
    wanted = Wanted(words, split, shortest, longest)
    hits = find(store, index_path(studio, dataset.id), wanted, max(0, offset), limit)
    page: list[Sample] = []
    for number in hits.numbers:
        text = store.text(number)
        page.append(Sample(number, store.split_of(number), text, store.metadata(number), len(text)))
    return SamplePage(
        page,
        hits.total,
        hits.is_minimum,
        hits.has_more,
        hits.searched,
        time.monotonic() - began,
    )


def samples(studio: Studio, dataset: DatasetRow, start: int, count: int) -> list[str]:
    """Documents start..start+count-1, as far as they exist.

    Raises `NotFound` or `Damaged` if the text cannot be read.
    """
    return _text(studio, dataset.id).texts(max(0, start), max(0, start) + count)


def token_chips(studio: Studio, tokenization: TokenizationRow, row: int) -> list[Chip]:
    """One row of tokens as their original text; raises `NotFound` for a row that is not there."""
    from mistudio.ml.data.token_store import TokenStore

    tokens = TokenStore(studio.paths.tokens(tokenization.dataset_id, tokenization.id))
    if not 0 <= row < len(tokens):
        raise NotFound(f"There is no row {row:,}; this tokenisation has {len(tokens):,} rows.")
    text = _text(studio, tokenization.dataset_id)
    return [
        Chip(piece.text, int(tokens.ids[row, piece.lo]), piece.special)
        for piece in tokens.pieces(text, row, 0, tokens.context)
    ]


def _text(studio: Studio, dataset_id: str) -> TextStore:
    from mistudio.ml.data.text import TextStore

    return TextStore(studio.paths.dataset(dataset_id))
