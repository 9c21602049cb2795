"""Results of feature analyses, found again by a hash of everything that they depend on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from mistudio.core.ids import now
from mistudio.store.connection import Db

WHOLE_SAE = -1  # the feature index of an analysis that is of all features


class Analysis(NamedTuple):
    """What an analysis found, and when (UTC, ISO 8601)."""

    result: Any
    made_at: str


def find(db: Db, sae_id: str, feature: int, kind: str, key_hash: str) -> Analysis | None:
    """The kept result of an analysis with exactly these inputs."""
    rows = db.execute(
        "SELECT result, updated_at FROM feature_analyses "
        "WHERE sae_id = ? AND feature_index = ? AND kind = ? AND key_hash = ?",
        [sae_id, feature, kind, key_hash],
    ).fetchall()
    return Analysis(json.loads(rows[0][0]), rows[0][1]) if rows else None


def keep(db: Db, sae_id: str, feature: int, kind: str, key_hash: str, result: Any) -> Analysis:
    """Keep a result of plain JSON values, in place of an earlier one with the same inputs."""
    written, stamp = json.dumps(result, ensure_ascii=False), now()
    with db.atomic():
        db.execute(
            "INSERT OR REPLACE INTO feature_analyses "
            "(sae_id, feature_index, kind, key_hash, result, created_at, updated_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            [sae_id, feature, kind, key_hash, written, stamp, stamp],
        )
    return Analysis(json.loads(written), stamp)


def find_all(db: Db, sae_id: str, kind: str, key_hash: str) -> dict[int, Any]:
    """The kept results of an analysis with exactly these inputs, by feature."""
    rows = db.execute(
        "SELECT feature_index, result FROM feature_analyses "
        "WHERE sae_id = ? AND kind = ? AND key_hash = ?",
        [sae_id, kind, key_hash],
    ).fetchall()
    return {int(feature): json.loads(written) for feature, written in rows}


def features_of(db: Db, sae_id: str, kind: str, key_hash: str) -> set[int]:
    """The features of which such results are kept."""
    rows = db.execute(
        "SELECT feature_index FROM feature_analyses WHERE sae_id = ? AND kind = ? AND key_hash = ?",
        [sae_id, kind, key_hash],
    ).fetchall()
    return {int(row[0]) for row in rows}


def keep_all(db: Db, sae_id: str, kind: str, key_hash: str, results: Mapping[int, Any]) -> None:
    """Keep results of several features in one transaction."""
    stamp = now()
    with db.atomic():
        db.conn.executemany(
            "INSERT OR REPLACE INTO feature_analyses "
            "(sae_id, feature_index, kind, key_hash, result, created_at, updated_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                [sae_id, feature, kind, key_hash, json.dumps(result), stamp, stamp]
                for feature, result in results.items()
            ],
        )


def forget(db: Db, sae_id: str, kind: str, key_hash: str, before: str) -> None:
    """Let results with these inputs that are older than a time go, to be computed again."""
    with db.atomic():
        db.execute(
            "DELETE FROM feature_analyses "
            "WHERE sae_id = ? AND kind = ? AND key_hash = ? AND updated_at < ?",
            [sae_id, kind, key_hash, before],
        )
