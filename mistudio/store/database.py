"""Opening the database: a connection per thread, migrations after a backup."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from sqlite_utils import Database

from mistudio.core.errors import Damaged, Mismatch
from mistudio.core.ids import now
from mistudio.store.connection import Db
from mistudio.store.schema import migrations


class _WriterFirst(Database):
    """A connection whose transactions take the write lock at once.

    A deferred transaction that reads before it writes fails at once, without waiting, if another
    connection has written in between.
    """

    @contextmanager
    def atomic(self) -> Generator[Database, None, None]:
        if self.conn.in_transaction:
            with super().atomic() as nested:
                yield nested
            return
        self.conn.execute("BEGIN IMMEDIATE")
        try:
            yield self
            self.conn.execute("COMMIT")
        except BaseException:
            self.conn.rollback()
            raise


class Store:
    """One SQLite file; `db()` gives the calling thread its own connection."""

    def __init__(self, path: Path, backups: Path) -> None:
        """Open or create the file and bring its schema up to date.

        Raises `Mismatch` for a database of a newer program, `Damaged` for an unreadable one.
        """
        self.path = path
        # by thread, as the system and as Python name it: Python's own thread-local values of a
        # thread that Qt runs are gone after each call into it, and its names are given again
        self._connections: dict[int, tuple[int, Db]] = {}
        self._lock = threading.Lock()
        existed = path.exists()
        try:
            self._migrate(backups if existed else None)
        except sqlite3.DatabaseError as error:
            self.close()
            if isinstance(error, sqlite3.OperationalError):
                raise
            kept = sorted(backups.glob("*.db")) if backups.is_dir() else []
            advice = f"a copy exists at {kept[-1]}" if kept else "move it away to start anew"
            raise Damaged(
                f"The database {path} is damaged; {advice}.", details=str(error)
            ) from error
        except Mismatch:
            self.close()
            raise

    def _connection(self) -> sqlite3.Connection:
        # Closed from the thread that closes the store, hence no same-thread check.
        connection = sqlite3.connect(self.path, timeout=5.0, check_same_thread=False)
        for pragma in (
            "journal_mode=WAL",
            "synchronous=NORMAL",
            "foreign_keys=ON",
            "busy_timeout=5000",
        ):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    def db(self) -> Db:
        """This thread's connection."""
        thread, native = threading.get_ident(), threading.get_native_id()
        with self._lock:
            left = self._connections.get(thread)
        if left is not None and left[0] == native:
            return left[1]
        if left is not None:  # of a thread that ended without a word
            left[1].close()
        found = cast(Db, self._database())
        with self._lock:
            self._connections[thread] = native, found
        return found

    def _database(self) -> _WriterFirst:
        # plug-ins of sqlite-utils are for its own commands; to look for some takes a while
        return _WriterFirst(self._connection(), execute_plugins=False)

    def release(self) -> None:
        """Close the calling thread's connection; a thread that ends calls this."""
        with self._lock:
            found = self._connections.pop(threading.get_ident(), None)
        if found is not None:
            found[1].close()

    def close(self) -> None:
        """Close every connection; the store cannot be used afterwards."""
        with self._lock:
            connections, self._connections = self._connections, {}
        for _, database in connections.values():
            database.close()

    def _migrate(self, backups: Path | None) -> None:
        """Bring the file up to date over this thread's connection, which stays for its reads."""
        db = cast(Database, self.db())
        empty = Database(memory=True, execute_plugins=False)
        known = {migration.name for migration in migrations.pending(empty)}
        empty.close()
        applied = {migration.name for migration in migrations.applied(db)}
        if applied - known:
            raise Mismatch(
                f"The database was made by a newer miStudio (schema {len(applied)}, this "
                f"reads {len(known)}). Update the program, or choose another data folder.",
                code="newer_database",
                details=", ".join(sorted(applied - known)),
            )
        if known - applied:
            if backups is not None and applied:
                self._backup(db, backups)
            migrations.apply(db)

    def _backup(self, db: Database, backups: Path) -> None:
        backups.mkdir(parents=True, exist_ok=True)
        db.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        stamp = now()[:19].replace(":", "-")
        shutil.copy2(self.path, backups / f"mistudio-{stamp}.db")
