"""The part of a sqlite-utils connection that the store uses, fully typed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
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
