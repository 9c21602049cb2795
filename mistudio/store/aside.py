"""Takes an object's rows out of the database into a file of their own, whence they can come back.

What follows them by the schema is kept too: rows that go with them (ON DELETE CASCADE), and
references that lose them (ON DELETE SET NULL).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mistudio.core.errors import InUse
from mistudio.store.connection import Db, durable


@dataclass(frozen=True)
class _Link:
    """A column of `table` that names rows of another table."""

    table: str
    column: str
    parent: str
    rule: str  # CASCADE or SET NULL


@dataclass
class _Found:
    """What a deletion touches: (table, column, value) of rows, and references that lose theirs."""

    rows: list[tuple[str, str, Any]] = field(default_factory=list[tuple[str, str, Any]])
    references: list[tuple[str, str, Any, int]] = field(
        default_factory=list[tuple[str, str, Any, int]]
    )


def take_out(db: Db, file: Path, parts: Sequence[tuple[str, str]]) -> None:
    """Delete rows, (table, id), and what goes with them; the new file `file` holds it all.

    The file is whole and on the disk before anything is gone from the database.
    """
    with durable(db), db.atomic():
        links = list(_links(db))
        found = _Found()
        for table, row_id in parts:
            _gather(db, links, found, table, "id", row_id)
        with closing(sqlite3.connect(file)) as kept:
            _write(db, kept, found)
        for table, row_id in parts:
            db.execute(f"DELETE FROM {table} WHERE id = ?", [row_id])


def put_back(db: Db, file: Path) -> None:
    """Write the rows of a file again, within the caller's transaction.

    Raises `InUse` if something of the same name was made meanwhile, or a row that they belong to
    is gone.
    """
    links = list(_links(db))
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as kept:
        try:
            for (table,) in kept.execute("SELECT name FROM tables_in_order ORDER BY place"):
                columns, rows = _read(kept, table)
                _forget_gone(db, [link for link in links if link.table == table], columns, rows)
                names, marks = ", ".join(columns), ", ".join("?" for _ in columns)
                db.conn.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", rows)
            for table, column, value, place in kept.execute("SELECT * FROM lost_references"):
                db.execute(
                    f"UPDATE {table} SET {column} = ? WHERE rowid = ? AND {column} IS NULL",
                    [value, place],
                )
        except sqlite3.IntegrityError as error:
            raise InUse(
                "This cannot be undone any more: something of the same name was made, or what it "
                "belongs to was deleted."
            ) from error


def rows_of(file: Path, table: str) -> list[dict[str, Any]]:
    """The rows of one table that a file holds."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as kept:
        names = kept.execute("SELECT name FROM tables_in_order WHERE name = ?", [table])
        if names.fetchone() is None:
            return []
        columns, rows = _read(kept, table)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _links(db: Db) -> Iterator[_Link]:
    known = db.query("SELECT name FROM sqlite_master WHERE type = 'table'")
    for table in [str(row["name"]) for row in known]:
        for row in db.query(f"PRAGMA foreign_key_list({table})"):
            yield _Link(table, row["from"], row["table"], row["on_delete"])


def _gather(
    db: Db, links: Sequence[_Link], found: _Found, table: str, column: str, value: Any
) -> None:
    """Parents first, so that they can be written in this order again."""
    if (table, column, value) in found.rows:
        return
    found.rows.append((table, column, value))
    named = [link for link in links if link.parent == table]
    if not named:
        return
    ids = [row["id"] for row in db.query(f"SELECT id FROM {table} WHERE {column} = ?", [value])]
    for link in named:
        for one in ids:
            if link.rule == "CASCADE":
                _gather(db, links, found, link.table, link.column, one)
            else:
                losing = db.query(
                    f"SELECT rowid AS place FROM {link.table} WHERE {link.column} = ?", [one]
                )
                found.references += [(link.table, link.column, one, r["place"]) for r in losing]


def _write(db: Db, kept: sqlite3.Connection, found: _Found) -> None:
    kept.execute("CREATE TABLE tables_in_order (place INTEGER PRIMARY KEY, name TEXT UNIQUE)")
    kept.execute("CREATE TABLE lost_references (tbl TEXT, col TEXT, value, place INTEGER)")
    for table, column, value in found.rows:
        rows = db.conn.execute(f"SELECT * FROM {table} WHERE {column} = ?", [value])
        columns = [str(one[0]) for one in rows.description]
        made = kept.execute("INSERT OR IGNORE INTO tables_in_order (name) VALUES (?)", [table])
        if made.rowcount:
            kept.execute(f"CREATE TABLE rows_{table} ({', '.join(columns)})")
        marks = ", ".join("?" for _ in columns)
        kept.executemany(f"INSERT INTO rows_{table} VALUES ({marks})", rows)
    kept.executemany("INSERT INTO lost_references VALUES (?, ?, ?, ?)", found.references)
    kept.commit()


def _read(kept: sqlite3.Connection, table: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    rows = kept.execute(f"SELECT * FROM rows_{table}")
    return [str(one[0]) for one in rows.description], rows.fetchall()


def _forget_gone(
    db: Db, links: Sequence[_Link], columns: Sequence[str], rows: list[tuple[Any, ...]]
) -> None:
    """Rows that name something deleted meanwhile lose the name where the schema says so."""
    for link in links:
        if link.rule != "SET NULL":
            continue
        place = columns.index(link.column)
        named = {row[place] for row in rows if row[place] is not None}
        gone = {
            one
            for one in named
            if not list(db.query(f"SELECT 1 FROM {link.parent} WHERE id = ?", [one]))
            and all(one != row[columns.index("id")] for row in rows if link.parent == link.table)
        }
        if gone:
            rows[:] = [
                tuple(None if at == place and v in gone else v for at, v in enumerate(row))
                for row in rows
            ]
