"""The document of the dataset that an example of a feature was cut from."""

from __future__ import annotations

from dataclasses import dataclass

from mistudio.core.errors import NotFound
from mistudio.jobs import feature_pages
from mistudio.jobs.runner import Studio
from mistudio.store.records import SaeRow
from mistudio.store.tables import DATASETS, TOKENIZATIONS

AROUND = 20_000  # characters of a long document shown on each side of the token


@dataclass(frozen=True)
class ExampleSample:
    """A document, or of a long one the part around a token that stands at characters low..high-1
    of `text`; `number` counts the documents of the dataset from 0."""

    dataset_id: str
    dataset: str
    number: int
    split: str
    length: int
    """characters of the whole document"""
    text: str
    low: int
    high: int


def sample_of(studio: Studio, sae: SaeRow, row: int, position: int) -> ExampleSample:
    """Where a token of the feature set in use comes from; `row` and `position` as an example says.

    Raises `NotFound` if the text is gone, or if the token belongs to no document.
    """
    from mistudio.ml.data.text import TextStore

    found = feature_pages.feature_set(studio, sae)
    store = feature_pages.open_store(studio, found)
    tokens = TOKENIZATIONS.get(studio.db(), found.tokenization_id or "")
    dataset = DATASETS.get(studio.db(), tokens.dataset_id)
    number, low, high, text = store.document_at(row, position)
    if number < 0:
        raise NotFound("This token stands between documents; there is no sample to show.")
    start, end = max(0, low - AROUND), min(len(text), high + AROUND)
    return ExampleSample(
        dataset.id,
        dataset.name,
        number,
        TextStore(studio.paths.dataset(dataset.id)).split_of(number),
        len(text),
        text[start:end],
        low - start,
        high - start,
    )
