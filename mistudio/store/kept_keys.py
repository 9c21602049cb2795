"""Sort keys that a feature set keeps beside its rows, so that a table opens without reading them.

An array is of one revision of its set, as triggers count what is written, and is taken only while
that is the revision. It stays in the database, not in a file beside it: so neither a restored
backup nor an interruption can part an array from the rows it was read from.
"""

from __future__ import annotations

import contextlib
import sqlite3
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mistudio.store.connection import Db

_TYPES = ("<i8", "<u4", "<f8")


def revision_of(db: Db, scope: str) -> int:
    """How often something of a feature set, or of an SAE's features, was written."""
    found = db.execute("SELECT revision FROM feature_revisions WHERE scope = ?", [scope]).fetchone()
    return int(found[0]) if found else 0


def kept(db: Db, feature_set_id: str, revision: int, name: str) -> NDArray[Any] | None:
    """An array of this revision; None if there is none, or if its bytes are not what they were."""
    found = db.execute(
        "SELECT dtype, checksum, data FROM feature_keys "
        "WHERE feature_set_id = ? AND name = ? AND revision = ?",
        [feature_set_id, name, revision],
    ).fetchone()
    if found is None or found[0] not in _TYPES or zlib.crc32(found[2]) != found[1]:
        return None
    return np.frombuffer(found[2], found[0])


def keep(db: Db, feature_set_id: str, revision: int, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Keep arrays that were read at a revision, unless the set has been written since.

    Nothing waits for this: while another connection writes, or where the disk is full or cannot
    be written, they are left out and read from the rows next time.
    """
    if db.conn.in_transaction:
        return
    rows = [
        [feature_set_id, name, revision, dtype, zlib.crc32(data), data]
        for name, array in arrays.items()
        for dtype, data in [(_type_of(array), array.tobytes())]
    ]
    waits = db.execute("PRAGMA busy_timeout").fetchone()[0]
    db.execute("PRAGMA busy_timeout = 0")
    try:
        with contextlib.suppress(sqlite3.OperationalError), db.atomic():
            if revision_of(db, feature_set_id) != revision:
                return
            db.execute(
                "DELETE FROM feature_keys WHERE feature_set_id = ? AND revision <> ?",
                [feature_set_id, revision],
            )
            db.conn.executemany(
                "INSERT OR REPLACE INTO feature_keys VALUES (?, ?, ?, ?, ?, ?)", rows
            )
    finally:
        db.execute(f"PRAGMA busy_timeout = {int(waits)}")


def _type_of(array: NDArray[Any]) -> str:
    return next(name for name in _TYPES if array.dtype == np.dtype(name))
