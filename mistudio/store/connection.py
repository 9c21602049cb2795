"""The part of a sqlite-utils connection that the store uses, fully typed."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol


class Db(Protocol):
    """One thread's connection to the database."""

    @property
    def conn(self) -> sqlite3.Connection: ...

    def query(
        self, sql: str, params: Sequence[Any] | dict[str, Any] | None = None
    ) -> Iterator[dict[str, Any]]: ...

    def execute(
        self, sql: str, parameters: Sequence[Any] | dict[str, Any] | None = None
    ) -> sqlite3.Cursor: ...

    def atomic(self) -> AbstractContextManager[Any]: ...

    def quote_fts(self, query: str) -> str: ...

    def close(self) -> None: ...


@contextmanager
def durable(db: Db) -> Generator[None, None, None]:
    """A commit in this block waits until it, and every one before it, is on the disk.

    Elsewhere a commit outlives its process at once, but the power of the machine only some time
    later. Not within a transaction.
    """
    db.execute("PRAGMA synchronous=FULL")
    try:
        yield
    finally:
        db.execute("PRAGMA synchronous=NORMAL")
