"""Opening, migrating, refusing."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from mistudio.core.errors import Damaged, Mismatch
from mistudio.store.database import Store
from mistudio.store.tables import DATASETS


def test_settings_of_every_connection(store: Store) -> None:
    db = store.db()
    assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert db.execute("PRAGMA foreign_keys").fetchone()[0] == 1
    assert db.execute("PRAGMA busy_timeout").fetchone()[0] == 5000


def test_two_threads_read_and_write_at_once(store: Store) -> None:
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for i in range(40):
                DATASETS.insert(store.db(), name=f"{name}{i}", source="local")
                DATASETS.select(store.db())
        except BaseException as error:
            failures.append(error)
            raise
        finally:
            store.release()

    threads = [threading.Thread(target=work, args=(n,)) for n in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(DATASETS.select(store.db())) == 80


def test_an_old_database_is_backed_up_before_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "mistudio.db"
    first = Store(path, tmp_path / "backups")
    DATASETS.insert(first.db(), name="kept", source="local")
    # as if made by a version that knew one migration less than there will be
    first.db().execute("UPDATE _sqlite_migrations SET name = 'older' WHERE 0")
    first.close()
    again = Store(path, tmp_path / "backups")
    assert [d.name for d in DATASETS.select(again.db())] == ["kept"]
    again.close()
    assert not (tmp_path / "backups").exists(), "nothing to migrate, nothing to back up"


def test_a_database_of_the_future_is_refused_with_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "mistudio.db"
    made = Store(path, tmp_path / "backups")
    with made.db().atomic():
        made.db().execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) "
            "VALUES ('mistudio', 'from_the_future', '2099')"
        )
    made.close()
    with pytest.raises(Mismatch, match=r"newer miStudio \(schema 2, this reads 1\)"):
        Store(path, tmp_path / "backups")


def test_a_damaged_database_is_a_sentence_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "mistudio.db"
    path.write_bytes(b"this is no database, it is a text of some length" * 100)
    with pytest.raises(Damaged, match="is damaged"):
        Store(path, tmp_path / "backups")
    assert path.read_bytes().startswith(b"this is no database")
