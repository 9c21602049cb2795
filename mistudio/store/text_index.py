"""The word index of a dataset: one SQLite file, full-text, that holds no text itself."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple
from urllib.parse import quote

from mistudio.core import atomic
from mistudio.core.errors import Damaged, DiskFull, InvalidInput, NotFound, StudioError
from mistudio.core.search_words import SearchTerm

_VERSION = 1
_INSERT_CHARACTERS = 1 << 20
_SYNC_CHARACTERS = 1 << 26
_HASH_BYTES = 1 << 25  # of words kept in memory before they are written
_MERGE_PAGES = 500
_MOST_COUNTED = 2_000_000
_AT_ONCE = 20_000
_FIND = "SELECT rowid FROM words WHERE words MATCH ? AND rowid > ? AND rowid <= ?"
# Scripts written without blanks: each character is a word of its own, so that any part is found.
_UNSPACED = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003134f])"
)


class Count(NamedTuple):
    """How many documents were found; `is_minimum` where counting ended early."""

    total: int
    is_minimum: bool = False


class TextIndex:
    """Finds documents by their words. Open for reading only; not shared between threads."""

    def __init__(self, path: Path) -> None:
        """Raises `NotFound` or `Damaged`."""
        if not path.is_file():
            raise NotFound("This dataset has no word index.", details=str(path))
        try:
            self._db = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
            facts = self._db.execute("SELECT version, documents FROM facts").fetchone()
        except sqlite3.Error as error:
            raise _damaged(error) from error
        if facts is None or facts[0] != _VERSION:
            raise Damaged("The word index is of another version; build it again.")
        self.documents = int(facts[1])

    def __enter__(self) -> TextIndex:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def search(
        self,
        terms: Sequence[SearchTerm],
        offset: int = 0,
        limit: int = 50,
        *,
        low: int = 0,
        high: int | None = None,
    ) -> list[int]:
        """Numbers of documents low..high-1 that hold all terms, in order, from `offset` on."""
        return self._numbers(
            f"{_FIND} ORDER BY rowid LIMIT ? OFFSET ?", terms, low, high, limit, offset
        )

    def count(self, terms: Sequence[SearchTerm], *, low: int = 0, high: int | None = None) -> Count:
        """How many documents hold all terms; counting ends at two million."""
        sql = (
            "SELECT COUNT(*) FROM (SELECT 1 FROM words WHERE words MATCH ? "
            "AND rowid > ? AND rowid <= ? LIMIT ?)"
        )
        found = self._numbers(sql, terms, low, high, _MOST_COUNTED, shift=0)
        total = found[0] if found else 0
        return Count(total, total == _MOST_COUNTED)

    def matches(
        self, terms: Sequence[SearchTerm], *, low: int = 0, high: int | None = None
    ) -> Iterator[list[int]]:
        """All documents that hold all terms, in order, some thousands at a time."""
        if not terms:
            return
        last = self.documents if high is None else high
        sql = f"{_FIND} ORDER BY rowid"
        try:
            cursor = self._db.execute(sql, [match_query(terms), low, last])
            while rows := cursor.fetchmany(_AT_ONCE):
                yield [row[0] - 1 for row in rows]
        except sqlite3.Error as error:
            raise _damaged(error) from error

    def _numbers(
        self,
        sql: str,
        terms: Sequence[SearchTerm],
        low: int,
        high: int | None,
        *more: int,
        shift: int = 1,
    ) -> list[int]:
        if not terms:
            return []
        last = self.documents if high is None else high
        try:
            rows = self._db.execute(sql, [match_query(terms), low, last, *more]).fetchall()
        except sqlite3.Error as error:
            raise _damaged(error) from error
        return [row[0] - shift for row in rows]

    @staticmethod
    def build(
        path: Path,
        batches: Iterable[Sequence[str]],
        check: Callable[[], None] = lambda: None,
    ) -> int:
        """Index documents, numbered from 0 in the order they come; returns how many there were.

        The file appears when it is complete; memory stays bounded. `check` is called several times
        a second and may raise. Raises `DiskFull`.
        """
        try:
            with atomic.atomic_file(path) as temporary:
                db = sqlite3.connect(temporary, isolation_level=None)
                try:
                    count = _fill(db, temporary, batches, check)
                finally:
                    db.close()
        except sqlite3.Error as error:
            if "full" in str(error):
                raise DiskFull(
                    "The disk is full: could not build the word index.", details=str(error)
                ) from error
            raise StudioError("Could not build the word index.", details=str(error)) from error
        return count


def _damaged(error: sqlite3.Error) -> Damaged:
    return Damaged("The word index is damaged; build it again.", details=str(error))


def match_query(terms: Sequence[SearchTerm]) -> str:
    """The terms in the language of SQLite's full-text search. Raises `InvalidInput` without any."""
    if not terms:
        raise InvalidInput("There is nothing to search for.")
    parts = [
        '"' + spaced(term.text).replace('"', " ") + '"' + ("*" if term.is_beginning else "")
        for term in terms
    ]
    return " AND ".join(parts)


def spaced(text: str) -> str:
    """Text with blanks around the characters of scripts that use none."""
    return text if text.isascii() else _UNSPACED.sub(r" \1 ", text)


def _fill(
    db: sqlite3.Connection,
    path: Path,
    batches: Iterable[Sequence[str]],
    check: Callable[[], None],
) -> int:
    for pragma in (
        "page_size = 8192",
        "journal_mode = OFF",  # a half-made file is thrown away
        "synchronous = OFF",
        "cache_size = -32768",
        "locking_mode = EXCLUSIVE",
    ):
        db.execute(f"PRAGMA {pragma}")
    db.execute("CREATE TABLE facts (version INTEGER, documents INTEGER)")
    db.execute(
        "CREATE VIRTUAL TABLE words USING fts5(text, content='', columnsize=0, "
        "tokenize='unicode61 remove_diacritics 2')"
    )
    # one merge at the end, in small steps, instead of long ones in between
    db.execute("INSERT INTO words (words, rank) VALUES ('automerge', 0)")
    db.execute("INSERT INTO words (words, rank) VALUES ('crisismerge', 1999)")
    db.execute("INSERT INTO words (words, rank) VALUES ('hashsize', ?)", [_HASH_BYTES])
    db.execute("BEGIN")
    count, written = 0, 0
    for portion in _portions(batches):
        check()
        db.executemany(
            "INSERT INTO words (rowid, text) VALUES (?, ?)",
            ((number, spaced(text)) for number, text in enumerate(portion, count + 1)),
        )
        count += len(portion)
        written += sum(map(len, portion))
        if written > _SYNC_CHARACTERS:
            # bit by bit: one sync of a large file at the end would hold up a cancel
            written = 0
            atomic.fsync_path(path)
    db.execute("COMMIT")  # writes the words that are still in memory
    db.execute("BEGIN")
    _merge(db, check)
    db.execute("INSERT INTO facts VALUES (?, ?)", [_VERSION, count])
    db.execute("COMMIT")
    return count


def _portions(batches: Iterable[Sequence[str]]) -> Iterator[list[str]]:
    """The texts again, about a million characters at a time."""
    portion: list[str] = []
    size = 0
    for batch in batches:
        for text in batch:
            portion.append(text)
            size += len(text)
            if size >= _INSERT_CHARACTERS:
                yield portion
                portion, size = [], 0
    if portion:
        yield portion


def _merge(db: sqlite3.Connection, check: Callable[[], None]) -> None:
    """Bring all parts of the index into one; a negative first step asks for just that."""
    pages = -_MERGE_PAGES
    while True:
        check()
        before = db.total_changes
        db.execute("INSERT INTO words (words, rank) VALUES ('merge', ?)", [pages])
        if db.total_changes - before < 2:  # as SQLite documents it: nothing was left to do
            return
        pages = _MERGE_PAGES
