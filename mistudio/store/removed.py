"""Rows that were taken out of the database and can be put back, for an undo."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple

from mistudio.core.errors import InUse
from mistudio.store.connection import Db


class Removed(NamedTuple):
    """Rows by table, in the order in which they can be put back."""

    rows: list[tuple[str, dict[str, Any]]]


def remove(db: Db, parts: Sequence[tuple[str, str, str]]) -> Removed:
    """Take rows out in one transaction; `parts` are (table, column, value), parents first."""
    taken: list[tuple[str, dict[str, Any]]] = []
    with db.atomic():
        for table, column, value in parts:
            found = db.query(f"SELECT * FROM {table} WHERE {column} = ?", [value])
            taken += [(table, dict(row)) for row in found]
        for table, column, value in reversed(parts):
            # one by one, so that what is kept of other tables hears of it
            db.execute(f"DELETE FROM {table} WHERE {column} = ?", [value])
    return Removed(taken)


def put_back(db: Db, removed: Removed) -> None:
    """Write the rows again; raises `InUse` if a name was taken meanwhile or a parent is gone."""
    try:
        with db.atomic():
            for table, row in removed.rows:
                columns, marks = ", ".join(row), ", ".join("?" for _ in row)
                db.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", list(row.values()))
    except sqlite3.IntegrityError as error:
        raise InUse(
            "This cannot be undone any more: something of the same name was made, or what it "
            "belongs to was deleted."
        ) from error
