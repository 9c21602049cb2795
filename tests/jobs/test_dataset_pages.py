"""Reading samples and tokens of a dataset for display."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mistudio.core.control import JobControl
from mistudio.core.dataset_configs import IndexDatasetConfig
from mistudio.core.errors import NotFound
from mistudio.core.events import SilentReporter
from mistudio.core.paths import Paths
from mistudio.jobs import dataset_pages, sample_search
from mistudio.jobs.dataset_pages import Chip, Sample
from mistudio.jobs.index_dataset import build_index, index_path
from mistudio.jobs.runner import Studio
from mistudio.ml.data.text_writer import Row
from mistudio.ml.data.write_dataset import write_dataset, write_text_store
from mistudio.store import text_index
from mistudio.store.records import DatasetRow, TokenizationRow
from mistudio.store.tables import DATASETS, TOKENIZATIONS
from tests.helpers.studio import run
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


def stored(studio: Studio, rows: list[tuple[str, Row]], *, indexed: bool) -> DatasetRow:
    """A ready dataset of (split, row) pairs with the columns n and kind."""
    row = DATASETS.insert(studio.db(), name="p", source="local", status="ready")
    write_dataset(
        studio.paths.dataset(row.id),
        rows,
        columns=("n", "kind"),
        report=SilentReporter(),
        control=JobControl(),
    )
    if indexed:
        build_index(studio, row, SilentReporter(), JobControl())
    return DATASETS.get(studio.db(), row.id)


def many() -> list[tuple[str, Row]]:
    return [
        (
            "test" if i % 4 == 0 else "train",
            Row(f"number {i} " + ("wolf " if i % 10 == 0 else "fox ") * (i % 7 + 1), [str(i), "k"]),
        )
        for i in range(2000)
    ]


@pytest.mark.parametrize("indexed", [True, False])
def test_pages_agree_with_a_plain_search(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, indexed: bool
) -> None:
    monkeypatch.setattr(text_index, "_AT_ONCE", 40)
    row = stored(studio, many(), indexed=indexed)
    order = [r for s, r in many() if s == "train"] + [r for s, r in many() if s == "test"]
    splits = ["train"] * 1500 + ["test"] * 500
    cases: list[dict[str, Any]] = [
        {},
        {"words": "Wolf"},
        {"words": "wolf number"},
        {"words": '"wolf wolf"'},
        {"words": "wol*"},
        {"words": "zebra"},
        {"words": "!!"},
        {"split": "test"},
        {"split": "nowhere"},
        {"words": "wolf", "split": "test"},
        {"shortest": 30, "longest": 40},
        {"words": "fox", "shortest": 30},
        {"words": "fox", "longest": 30, "split": "train"},
        {"words": "fox", "shortest": 39, "split": "test"},
        {"words": "fox", "shortest": 10_000},
    ]
    for case in cases:
        words = str(case.get("words", "")).lower().replace('"', "").removesuffix("*")
        parts = [words] if '"' in str(case) and words else words.split()
        wanted = [
            i
            for i, document in enumerate(order)
            if all(part in document.text for part in parts)
            and case.get("split", splits[i]) == splits[i]
            and len(document.text) >= case.get("shortest", 0)
            and len(document.text) <= case.get("longest", 10**9)
        ]
        for offset in (0, 50, max(0, len(wanted) - 10)):
            page = dataset_pages.sample_page(studio, row, offset=offset, **case)
            shown = wanted[offset : offset + 50]
            assert [s.index for s in page.samples] == shown, case
            assert (page.total, page.is_minimum, page.searched) == (len(wanted), False, None)
            assert page.has_more == (len(wanted) > offset + 50)
            for sample in page.samples:
                document = order[sample.index]
                assert sample == Sample(
                    sample.index,
                    splits[sample.index],
                    document.text,
                    {"n": document.metadata[0], "kind": "k"},
                    len(document.text),
                )


def test_without_an_index_a_search_ends_after_a_while(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = stored(
        studio, [("train", Row(f"wolf {i}", ["", ""])) for i in range(3000)], indexed=False
    )
    monkeypatch.setattr(sample_search, "PATIENCE_S", -1.0)
    page = dataset_pages.sample_page(studio, row, words="wolf")
    assert (page.total, page.is_minimum, page.searched) == (1000, True, 1000)
    assert page.has_more


def test_an_index_of_another_text_is_not_used(studio: Studio) -> None:
    row = stored(studio, [("train", Row("old wolf", ["", ""]))], indexed=True)
    write_text_store(studio.paths.dataset(row.id), ["new", "new wolf"])
    found = dataset_pages.sample_page(studio, row, words="wolf")
    assert [sample.text for sample in found.samples] == ["new wolf"]


def test_indexing_as_a_job(studio: Studio) -> None:
    row = stored(studio, [("train", Row("one wolf", ["", ""]))], indexed=False)
    assert not row.is_indexed
    leftover = index_path(studio, row.id).with_name(".search.db.x.tmp")
    leftover.write_text("half")
    run(studio, "index_dataset", IndexDatasetConfig(dataset=row.id))
    assert DATASETS.get(studio.db(), row.id).is_indexed
    assert not leftover.exists()
    page = dataset_pages.sample_page(studio, row, words="one")
    assert page.total == 1
