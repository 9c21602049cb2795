"""Opening, migrating, refusing."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from pathlib import Path

import pytest
from sqlite_utils import Database

from mistudio.core.config import from_dict
from mistudio.core.dataset_configs import ImportDatasetConfig
from mistudio.core.errors import Damaged, Mismatch
from mistudio.store.database import Store
from mistudio.store.schema import migrations
from mistudio.store.tables import DATASETS, JOBS, MODELS


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


def test_a_thread_never_gets_the_connection_of_one_that_ended(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python gives the number of a thread that ended to another one."""
    first = store.db()
    assert store.db() is first
    monkeypatch.setattr(threading, "get_native_id", lambda: -1)
    second = store.db()
    assert second is not first
    assert second is store.db()
    with pytest.raises(sqlite3.ProgrammingError):
        first.execute("SELECT 1")
    store.release()
    assert store.db() is not second


def test_an_old_database_is_backed_up_and_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "mistudio.db"
    shutil.copy(Path(__file__).parent / "fixtures" / "schema_1.db", path)
    made = Store(path, tmp_path / "backups")
    assert [(m.name, m.format) for m in MODELS.select(made.db())] == [("tiny", "fp32")]
    assert [(d.name, d.is_indexed) for d in DATASETS.select(made.db())] == [("stories", False)]
    job = JOBS.get(made.db(), "job_1")
    assert from_dict(ImportDatasetConfig, job.config).text_column == ("body",)
    made.close()
    assert len(list((tmp_path / "backups").glob("*.db"))) == 1
    Store(path, tmp_path / "backups").close()
    assert len(list((tmp_path / "backups").glob("*.db"))) == 1, "nothing to migrate"


def test_a_database_of_the_future_is_refused_with_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "mistudio.db"
    made = Store(path, tmp_path / "backups")
    with made.db().atomic():
        made.db().execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) "
            "VALUES ('mistudio', 'from_the_future', '2099')"
        )
    made.close()
    known = len(migrations.pending(Database(memory=True)))
    told = f"newer miStudio \\(schema {known + 1}, this reads {known}\\)"
    with pytest.raises(Mismatch, match=told):
        Store(path, tmp_path / "backups")


def test_a_damaged_database_is_a_sentence_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "mistudio.db"
    path.write_bytes(b"this is no database, it is a text of some length" * 100)
    with pytest.raises(Damaged, match="is damaged"):
        Store(path, tmp_path / "backups")
    assert path.read_bytes().startswith(b"this is no database")
