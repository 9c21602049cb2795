"""The word index: what it finds, how it is built, and what happens when it cannot be."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from mistudio.core.errors import Cancelled, Damaged, DiskFull, NotFound
from mistudio.core.search_words import search_terms
from mistudio.store import text_index
from mistudio.store.text_index import TextIndex

TEXTS = [
    "The wolf and the fox",
    "WOLF, fox! and a café",
    "fox and wolf",
    'quotes "and" don\'t hurt; C++ or NEAR(x)',
    "日本語の漢字テキスト and ภาษาไทย",
    "wolfhound 🦊 Straße",
    "",
]


@pytest.fixture
def index(tmp_path: Path) -> Iterator[TextIndex]:
    assert TextIndex.build(tmp_path / "search.db", [TEXTS[:3], TEXTS[3:]]) == len(TEXTS)
    with TextIndex(tmp_path / "search.db") as opened:
        yield opened


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("wolf", [0, 1, 2]),
        ("Wolf FOX", [0, 1, 2]),
        ("wolf café", [1]),
        ("cafe", [1]),
        ('"wolf and"', [0]),
        ('"and wolf"', [2]),
        ("wolf*", [0, 1, 2, 5]),
        ("wolf* hund", []),
        ("zebra", []),
        ("don't", [3]),
        ('"NEAR(x"', [3]),
        ("OR", [3]),
        ("漢字", [4]),
        ("字漢", []),
        ("本語", [4]),
        ("ไทย", [4]),
        ("straße", [5]),
        ('" OR "x', [3]),
        ("^fox", [0, 1, 2]),
        ("text:fox", []),
    ],
)
def test_words(index: TextIndex, words: str, found: list[int]) -> None:
    terms = search_terms(words)
    assert index.search(terms) == found
    assert index.count(terms) == (len(found), False)
    assert [n for some in index.matches(terms) for n in some] == found


def test_pages_and_ranges(index: TextIndex) -> None:
    terms = search_terms("and")
    everything = index.search(terms)
    assert everything == [0, 1, 2, 3, 4]
    assert index.search(terms, 1, 2) == [1, 2]
    assert index.search(terms, 9, 2) == []
    assert index.search(terms, low=2, high=4) == [2, 3]
    assert index.count(terms, low=2, high=4).total == 2
    assert index.search([]) == []
    assert index.documents == len(TEXTS)


def test_agrees_with_reading_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_index, "_INSERT_CHARACTERS", 500)
    monkeypatch.setattr(text_index, "_HASH_BYTES", 2000)  # many parts to be merged
    monkeypatch.setattr(text_index, "_MERGE_PAGES", 3)
    monkeypatch.setattr(text_index, "_AT_ONCE", 7)
    chance = random.Random(3)
    words = ["".join(chance.choices("abc", k=chance.randint(1, 4))) for _ in range(60)]
    texts = [" ".join(chance.choices(words, k=chance.randint(0, 12))) for _ in range(2000)]
    TextIndex.build(tmp_path / "search.db", [texts])
    with TextIndex(tmp_path / "search.db") as index:
        for _ in range(40):
            first, second = chance.choice(words), chance.choice(words)
            held = [i for i, text in enumerate(texts) if {first, second} <= set(text.split())]
            assert index.search(search_terms(f"{first} {second}"), 0, 5000) == held
            pattern = re.compile(rf"\b{first} {second}\b")
            held = [i for i, text in enumerate(texts) if pattern.search(text)]
            assert index.search(search_terms(f'"{first} {second}"'), 0, 5000) == held
        found = [n for some in index.matches(search_terms(words[0])) for n in some]
        assert found == [i for i, text in enumerate(texts) if words[0] in text.split()]


def test_the_parts_become_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlite3

    monkeypatch.setattr(text_index, "_HASH_BYTES", 2000)
    TextIndex.build(tmp_path / "search.db", [[f"word{i} and {i}" for i in range(3000)]])
    with closing(sqlite3.connect(tmp_path / "search.db")) as db:
        assert db.execute("SELECT COUNT(DISTINCT segid) FROM words_idx").fetchone() == (1,)


def test_counting_ends(index: TextIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_index, "_MOST_COUNTED", 2)
    assert index.count(search_terms("and")) == (2, True)


def test_cancel_leaves_the_earlier_index(tmp_path: Path) -> None:
    path = tmp_path / "search.db"
    TextIndex.build(path, [["one"]])

    def batches() -> Iterator[Sequence[str]]:
        for _ in range(3):
            yield ["two " * 400_000]

    calls: list[int] = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        TextIndex.build(path, batches(), check)
    assert [p.name for p in tmp_path.iterdir()] == ["search.db"]
    with TextIndex(path) as index:
        assert index.search(search_terms("one")) == [0]


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlite3

    def full(*_: object) -> int:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(text_index, "_fill", full)
    with pytest.raises(DiskFull, match="could not build the word index"):
        TextIndex.build(tmp_path / "search.db", [["one"]])
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    path = tmp_path / "search.db"
    with pytest.raises(NotFound, match="no word index"):
        TextIndex(path)
    path.write_bytes(b"nonsense" * 1000)
    with pytest.raises(Damaged, match="build it again"):
        TextIndex(path)
    TextIndex.build(path, [["one"]])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(text_index, "_VERSION", 99)
        with pytest.raises(Damaged, match="another version"):
            TextIndex(path)


def test_odd_path(tmp_path: Path) -> None:
    folder = tmp_path / "a b?c#d%41"
    folder.mkdir()
    TextIndex.build(folder / "search.db", [["one"]])
    with TextIndex(folder / "search.db") as index:
        assert index.documents == 1
