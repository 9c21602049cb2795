"""Datasets of the Hub, downloaded whole or by their beginning."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mistudio.core.errors import (
    Gated,
    NeedsToken,
    NotFound,
    Offline,
    StudioError,
)
from mistudio.hub import setup
from mistudio.jobs.dataset_preview import preview
from mistudio.jobs.runner import Studio
from mistudio.ml.data.text import TextStore
from tests.helpers.hub_datasets import (
    download,
    jsonl,
    languages,
    nothing_is_stored,
    parquet,
    rows,
    texts,
)
from tests.helpers.local_hub import GOOD_TOKEN, LocalHub


@pytest.mark.parametrize(
    ("files", "values", "words"),
    [
        ({"script.py": b"x", "a.csv": b"a\n1"}, {}, "own loading script"),
        ({"README.md": b"# Empty"}, {}, "no files that can be read"),
        ({"a.jsonl": b'{"id": 1}\n'}, {}, r"No column holds text; found id \(number\)"),
        ({"a.csv": b"a,b\nx,y\n"}, {"config": "fr"}, "no config 'fr'"),
        ({"a.csv": b"a,b\nx,y\n"}, {"split": "test"}, "no split 'test'; found train"),
        ({"a.csv": b"a,b\nx,y\n"}, {"text_column": ("c",)}, "no column 'c'"),
        ({"a.csv": b"a,b\nx,y\n"}, {"revision": "v9"}, "no revision 'v9'"),
        ({"a.csv": b"a,b\n , \n"}, {}, "holds no text"),
        ({"a.parquet": b"broken"}, {}, "cannot be read"),
        ({"a.xml": b"<a>x</a>"}, {}, r"hold no text that can be read here \(xml\)"),
    ],
)
def test_what_cannot_be_had_is_said_and_leaves_nothing(
    hub: LocalHub, studio: Studio, files: dict[str, bytes], values: dict[str, Any], words: str
) -> None:
    hub.add("datasets", "o/script", files)
    with pytest.raises(StudioError, match=words) as raised:
        download(studio, "o/script", **values)
    assert raised.value.code != "bug"
    assert nothing_is_stored(studio)


def test_missing_gated_and_private_repositories(hub: LocalHub, studio: Studio) -> None:
    languages(hub)
    hub.gated["o/two"] = {"bob"}
    with pytest.raises(NotFound, match="no dataset 'o/none' on the Hub"):
        preview(studio, "o/none")
    with pytest.raises(NeedsToken, match="'o/two' asks for an access token"):
        preview(studio, "o/two")
    with pytest.raises(Gated, match="must grant access first"):
        preview(studio, "o/two", token=GOOD_TOKEN)
    hub.gated["o/two"] = {"alice"}
    assert preview(studio, "o/two", token=GOOD_TOKEN).gated
    studio.tokens.keep("o/two", GOOD_TOKEN)
    row = download(studio, "o/two")
    assert row.num_samples == 3
    for path in studio.paths.home.rglob("*"):
        assert not path.is_file() or GOOD_TOKEN.encode() not in path.read_bytes(), path


FORMATS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "data/train-00000-of-00001.parquet": parquet,
    "train.jsonl": jsonl,
    "train.json.gz": lambda made: gzip.compress(jsonl(made)),
    "train.txt": lambda made: "\n".join(row["text"] for row in made).encode(),
    "train.csv": lambda made: ("id,text\n" + "\n".join(
        f"{row['id']},{row['text']}" for row in made)).encode(),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_arrives_whole(hub: LocalHub, studio: Studio, name: str) -> None:
    made = rows(2500)
    hub.add("datasets", "o/set", {name: FORMATS[name](made), "README.md": b"# Set\n\nWords.\n"})
    row = download(studio, "o/set")
    assert texts(studio, row) == [one["text"] for one in made]
    assert (row.name, row.source, row.repo_id, row.config) == (
        "set",
        "huggingface",
        "o/set",
        "default",
    )
    assert row.commit_sha == hub.listing("datasets", "o/set")[0]
    assert (row.status, row.num_samples, row.description) == ("ready", 2500, "Words.")
    assert row.is_indexed


def test_names_with_spaces_signs_and_other_scripts(hub: LocalHub, studio: Studio) -> None:
    made = rows(30)
    hub.add("datasets", "o/set", {
        "data/en fr/train part#1.jsonl": jsonl(made[:20]),
        "data/日本/train-é?x%20.jsonl": jsonl(made[20:]),
    })  # fmt: skip
    hub.branches["o/set"] = {"refs/convert/parquet"}
    expected = [one["text"] for one in made]
    assert texts(studio, download(studio, "o/set", revision="refs/convert/parquet")) == expected
    assert texts(studio, download(studio, "o/set", amount="rows", count=25)) == expected[:25]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"docs/a.md": b"# A\n\nOne.", "docs/b.md": b"Two."}, ["# A\n\nOne.", "Two."]),
        (
            {"a.png": b"x", "b.png": b"x", "notes.md": b"x", "t.jsonl": b'{"text": "Hi"}'},
            ["Hi"],
        ),
    ],
)
def test_texts_among_other_files(
    hub: LocalHub, studio: Studio, files: dict[str, bytes], expected: list[str]
) -> None:
    hub.add("datasets", "o/set", {**files, "README.md": b"# Set"})
    assert texts(studio, download(studio, "o/set")) == expected


def test_splits_configs_and_joined_columns(hub: LocalHub, studio: Studio) -> None:
    languages(hub)
    both = download(studio, "o/two")
    store = TextStore(studio.paths.dataset(both.id))
    assert {name: list(part) for name, part in store.splits.items()} == {
        "train": [0, 1],
        "test": [2],
    }
    assert store.metadata(2) == {"nr": "3"}
    one = download(studio, "o/two", split="test", name="Only test")
    assert (one.name, texts(studio, one)) == ("Only test", ["Ja"])
    joined = download(studio, "o/two", config="en", text_column=("title", "text"))
    assert texts(studio, joined)[7] == f"T7\n\n{rows(30)[7]['text']}"
    assert joined.text_column == "title, text"


def test_the_first_rows_and_tokens_are_streamed_and_nothing_is_cached(
    hub: LocalHub, studio: Studio, hf_home: Path
) -> None:
    made = rows(40_000, 30)
    content = jsonl(made)
    hub.add("datasets", "o/big", {"train.jsonl": content})
    first = download(studio, "o/big", amount="rows", count=1500)
    assert texts(studio, first) == [row["text"] for row in made[:1500]]
    some = download(studio, "o/big", amount="tokens", count=10_000)
    characters = sum(map(len, texts(studio, some)))
    assert 40_000 <= characters < 41_000
    assert not list(hf_home.rglob("*.jsonl"))
    assert len(content) > 12_000_000
    assert hub.sent["train.jsonl"] <= 6_000_000


def test_a_second_time_nothing_is_fetched(hub: LocalHub, studio: Studio) -> None:
    hub.add("datasets", "o/set", {"train.jsonl": jsonl(rows(3000))})
    first = download(studio, "o/set")
    sent = dict(hub.sent)
    again = download(studio, "o/set")
    preview(studio, "o/set")
    assert hub.sent == sent
    assert texts(studio, again) == texts(studio, first)


def test_offline_takes_what_is_in_the_cache(hub: LocalHub, studio: Studio) -> None:
    languages(hub)
    download(studio, "o/two")
    setup.configure(address=hub.url, offline=True)
    asked = len(hub.log)
    assert download(studio, "o/two").num_samples == 3
    assert preview(studio, "o/two").text_column == ("content",)
    with pytest.raises(Offline, match="not on this machine"):
        preview(studio, "o/other")
    with pytest.raises(StudioError, match="Offline mode is on"):
        download(studio, "o/two", config="en")
    assert len(hub.log) == asked


def test_more_than_a_hundred_gigabytes_are_confirmed(
    hub: LocalHub, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mistudio.jobs import download_dataset

    languages(hub)
    monkeypatch.setattr(download_dataset, "LARGE_BYTES", 40)
    with pytest.raises(StudioError, match="Take the first rows or tokens"):
        download(studio, "o/two")
    assert download(studio, "o/two", accept_large=True).num_samples == 3


@pytest.mark.parametrize(("repo", "config"), [("o/two", "en"), ("o/shards", "default")])
def test_the_library_asked_directly_gives_the_same_rows(
    hub: LocalHub, studio: Studio, repo: str, config: str
) -> None:
    import datasets

    languages(hub)
    hub.add("datasets", "o/shards", {
        "data/validation-00000-of-00001.parquet": parquet(rows(7)),
        "data/train-00000-of-00002.parquet": parquet(rows(30)),
        "data/train-00001-of-00002.parquet": parquet(rows(12)),
    })  # fmt: skip
    row = download(studio, repo, config=config)
    sha = hub.listing("datasets", repo)[0]
    expected = datasets.load_dataset(repo, config, revision=sha)
    store = TextStore(studio.paths.dataset(row.id))
    assert list(store.splits) == list(expected)
    for split, part in store.splits.items():
        assert store.texts(part.start, part.stop) == list(expected[split]["text"])
