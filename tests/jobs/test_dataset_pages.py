"""Reading samples and tokens of a dataset for display."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mistudio.core.errors import NotFound
from mistudio.core.paths import Paths
from mistudio.jobs import dataset_pages
from mistudio.jobs.dataset_pages import Chip
from mistudio.jobs.runner import Studio
from mistudio.store.records import DatasetRow, TokenizationRow
from mistudio.store.tables import DATASETS, TOKENIZATIONS
from tests.helpers.tiny import tiny_tokenizer, write_tokens

TEXTS = ["Alpha wolf", "beta\n\nWOLF 🎉 sea", "gamma", "delta fox and wolf"] + ["filler"] * 2000


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    made = Studio(Paths.at(tmp_path / "home"))
    yield made
    made.close()


@pytest.fixture
def dataset(studio: Studio) -> DatasetRow:
    row = DATASETS.insert(studio.db(), name="t", source="local", status="ready")
    folder = studio.paths.dataset(row.id)
    write_tokens(folder, TEXTS, tiny_tokenizer(add_bos=True), 32, arrangement="document")
    return row


def tokenization(studio: Studio, dataset: DatasetRow) -> TokenizationRow:
    row = TOKENIZATIONS.insert(
        studio.db(), dataset_id=dataset.id, tokenizer_name="f", settings_hash="h", context=32
    )
    made = studio.paths.dataset(dataset.id) / "tokens" / "tok"
    made.rename(studio.paths.tokens(dataset.id, row.id))
    return row


def test_samples_are_a_slice(studio: Studio, dataset: DatasetRow) -> None:
    assert dataset_pages.samples(studio, dataset, 1, 2) == TEXTS[1:3]
    assert dataset_pages.samples(studio, dataset, 2003, 50) == ["filler"]
    assert dataset_pages.samples(studio, dataset, 5000, 50) == []
    assert dataset_pages.samples_at(studio, dataset, [3, 0]) == [TEXTS[3], TEXTS[0]]


def test_search_wants_every_word_whatever_its_case(studio: Studio, dataset: DatasetRow) -> None:
    def find(words: str, limit: int = 10) -> list[int]:
        return dataset_pages.find_samples(studio, dataset, words, limit)

    assert find("wolf") == [0, 1, 3]
    assert find("Wolf FOX") == [3]
    assert find("wolf", limit=2) == [0, 1]
    assert find("zebra") == []
    assert find("  ") == []
    assert find("filler", limit=5000) == list(range(4, 2004))


def test_chips_give_the_original_text_back(studio: Studio, dataset: DatasetRow) -> None:
    made = tokenization(studio, dataset)
    rows = [dataset_pages.token_chips(studio, made, row) for row in range(2004)]
    by_text = {"".join(chip.text for chip in chips): chips for chips in rows}
    assert set(TEXTS) <= set(by_text)
    party = by_text[TEXTS[1]]
    assert party[0] == Chip("", 0, True)
    assert sum("🎉" in chip.text for chip in party) == 1
    assert all(chip.special for chip in party if not chip.text)


def test_what_is_not_there_is_a_sentence(studio: Studio, dataset: DatasetRow) -> None:
    made = tokenization(studio, dataset)
    with pytest.raises(NotFound, match=r"There is no row 2,004; .* 2,004 rows"):
        dataset_pages.token_chips(studio, made, 2004)
    gone = DATASETS.insert(studio.db(), name="gone", source="local", status="ready")
    with pytest.raises(NotFound, match="text of this dataset is gone"):
        dataset_pages.samples(studio, gone, 0, 1)
