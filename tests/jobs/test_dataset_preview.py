"""Previews of datasets of the Hub: what they tell, that they store nothing, how they fail."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from mistudio.core.control import JobControl
from mistudio.core.errors import (
    Cancelled,
    InvalidInput,
    NoAnswer,
    NotFound,
    StudioError,
    Unsupported,
)
from mistudio.hub import setup
from mistudio.jobs.dataset_preview import preview
from mistudio.jobs.runner import Studio
from tests.helpers.hub_datasets import languages, nothing_is_stored, parquet, rows
from tests.helpers.local_hub import LocalHub


def test_a_preview_tells_configs_splits_columns_and_first_rows(
    hub: LocalHub, studio: Studio
) -> None:
    languages(hub)
    found = preview(studio, "o/two")
    assert (found.configs, found.config) == (["en", "de"], "de")
    assert [(split.name, split.bytes) for split in found.splits] == [("train", 31), ("test", 16)]
    assert found.columns == {"nr": "number", "content": "text"}
    assert found.text_column == ("content",)
    assert found.first == [{"nr": "1", "content": "Guten Tag"}, {"nr": "2", "content": "Hallo"}]
    assert (found.licence, found.description) == ("mit", "Two languages.")
    assert found.size_bytes == 47
    assert not found.suggests_tokens
    english = preview(studio, "o/two", config="en", split="train")
    assert len(english.first) == 10
    assert english.text_column == ("text",)


def test_rows_are_counted_in_parquet_files(hub: LocalHub, studio: Studio) -> None:
    hub.add("datasets", "o/set", {
        "data/train-00000-of-00002.parquet": parquet(rows(30)),
        "data/train-00001-of-00002.parquet": parquet(rows(12)),
        "data/test-00000-of-00001.parquet": parquet(rows(5)),
    })  # fmt: skip
    found = preview(studio, "o/set")
    assert [(split.name, split.rows) for split in found.splits] == [("train", 42), ("test", 5)]
    assert found.rows == 47
    assert preview(studio, "o/set", split="test").rows == 5
    languages(hub)
    assert preview(studio, "o/two").rows is None


def test_a_preview_stores_nothing(hub: LocalHub, studio: Studio, hf_home: Path) -> None:
    languages(hub)
    preview(studio, "o/two")
    assert [path for path in hf_home.rglob("*") if path.is_file()] == []
    assert nothing_is_stored(studio)


def test_large_datasets_are_warned_of(
    hub: LocalHub, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mistudio.jobs import hub_dataset

    languages(hub)
    monkeypatch.setattr(hub_dataset, "WARN_BYTES", 40)
    monkeypatch.setattr(hub_dataset, "LARGE_BYTES", 45)
    found = preview(studio, "o/two")
    assert found.warning == "This is a download of 47 B."
    assert found.suggests_tokens


@pytest.mark.parametrize(
    ("files", "values", "kind", "words"),
    [
        ({"script.py": b"x", "a.csv": b"a\n1"}, {}, Unsupported, "own loading script"),
        ({"README.md": b"# Empty"}, {}, Unsupported, "no files that can be read"),
        ({"a.csv": b"a,b\nx,y\n"}, {"config": "fr"}, InvalidInput, "no config 'fr'"),
        ({"a.csv": b"a,b\nx,y\n"}, {"revision": "v9"}, NotFound, "no revision 'v9'"),
    ],
)
def test_a_preview_says_what_cannot_be_had(
    hub: LocalHub,
    studio: Studio,
    files: dict[str, bytes],
    values: dict[str, Any],
    kind: type[StudioError],
    words: str,
) -> None:
    hub.add("datasets", "o/script", files)
    with pytest.raises(kind, match=words):
        preview(studio, "o/script", **values)


def test_a_preview_shows_columns_even_if_none_holds_text(hub: LocalHub, studio: Studio) -> None:
    hub.add("datasets", "o/ids", {"a.jsonl": b'{"id": 1}\n'})
    found = preview(studio, "o/ids")
    assert (found.text_column, found.first) == ((), [{"id": "1"}])
    assert found.warning == "No column holds text; found id (number)."


def test_an_id_that_is_none_and_a_pasted_address(hub: LocalHub, studio: Studio) -> None:
    languages(hub)
    with pytest.raises(InvalidInput, match="Write owner/name"):
        preview(studio, "o//two")
    assert preview(studio, f"{hub.url}/datasets/o/two/tree/main").id == "o/two"


def test_a_dead_server_is_noticed_soon(hub: LocalHub, studio: Studio) -> None:
    setup.configure(address="http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(NoAnswer, match="cannot be reached"):
        preview(studio, "o/two")
    assert time.monotonic() - began < 20


def test_a_preview_can_be_given_up(hub: LocalHub, studio: Studio) -> None:
    languages(hub)
    hub.delay_s = 30.0
    control = JobControl()
    threading.Timer(0.2, control.cancel).start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        preview(studio, "o/two", control=control)
    assert time.monotonic() - began < 15
