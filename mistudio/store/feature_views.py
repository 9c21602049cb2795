"""Saved views of the feature table: a name for columns, order and filters."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from mistudio.core.errors import InvalidInput
from mistudio.core.ids import new_id, now
from mistudio.store.connection import Db

_LONGEST_NAME = 255


class FeatureView(NamedTuple):
    """A saved view; `config` are plain JSON values of the table."""

    id: str
    name: str
    config: dict[str, Any]


def views(db: Db) -> list[FeatureView]:
    """All views by name."""
    rows = db.execute(
        "SELECT id, name, config FROM feature_views ORDER BY name COLLATE NOCASE"
    ).fetchall()
    return [FeatureView(row[0], row[1], json.loads(row[2])) for row in rows]


def save(db: Db, name: str, config: dict[str, Any]) -> str:
    """Keep a view, in place of one of the same name; returns its id. Raises `InvalidInput`."""
    name, stamp = _checked(name), now()
    with db.atomic():
        db.execute(
            "INSERT INTO feature_views (id, name, config, created_at, updated_at) "
            "VALUES (?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET "
            "config = excluded.config, updated_at = excluded.updated_at",
            [new_id("feature_view"), name, json.dumps(config, ensure_ascii=False), stamp, stamp],
        )
    return db.execute("SELECT id FROM feature_views WHERE name = ?", [name]).fetchone()[0]


def rename(db: Db, view_id: str, name: str) -> None:
    """Give a view another name; raises `InvalidInput` if it is taken or no name."""
    name = _checked(name)
    if any(view.name == name and view.id != view_id for view in views(db)):
        raise InvalidInput(f"There is a view {name!r} already.")
    with db.atomic():
        db.execute(
            "UPDATE feature_views SET name = ?, updated_at = ? WHERE id = ?",
            [name, now(), view_id],
        )


def delete(db: Db, view_id: str) -> None:
    """Forget a view."""
    with db.atomic():
        db.execute("DELETE FROM feature_views WHERE id = ?", [view_id])


def _checked(name: str) -> str:
    name = " ".join(name.split())
    if not 1 <= len(name) <= _LONGEST_NAME:
        raise InvalidInput(f"A view's name has 1 to {_LONGEST_NAME} characters.")
    return name
