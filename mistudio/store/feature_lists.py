"""The user's lists of features: across SAEs, with a note per feature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mistudio.core.errors import InvalidInput, NotFound
from mistudio.core.ids import new_id, now
from mistudio.store.connection import Db
from mistudio.store.removed import Removed
from mistudio.store.removed import remove as remove_rows

_LONGEST_NAME = 255
_AT_ONCE = 500


@dataclass(frozen=True)
class FeatureList:
    """A list; `count` are its features of all SAEs."""

    id: str
    name: str
    description: str
    count: int


class ListItem(NamedTuple):
    """A feature in a list."""

    sae_id: str
    sae_name: str
    feature: int
    label: str | None
    note: str


def lists(db: Db) -> list[FeatureList]:
    """All lists by name."""
    rows = db.execute(
        "SELECT l.id, l.name, COALESCE(l.description, ''), COUNT(i.list_id) FROM feature_lists l "
        "LEFT JOIN feature_list_items i ON i.list_id = l.id "
        "GROUP BY l.id ORDER BY l.name COLLATE NOCASE, l.created_at"
    ).fetchall()
    return [FeatureList(*row) for row in rows]


def named(db: Db, wanted: str) -> FeatureList:
    """The list with this id or name; raises `NotFound`."""
    for found in lists(db):
        if wanted in (found.id, found.name):
            return found
    raise NotFound(f"There is no list {wanted!r}. `mistudio features lists` shows what there is.")


def create(db: Db, name: str, description: str = "") -> FeatureList:
    """A new, empty list. Raises `InvalidInput` for a bad name or one that is taken."""
    name = _checked(db, name)
    made, stamp = new_id("feature_list"), now()
    with db.atomic():
        db.execute(
            "INSERT INTO feature_lists (id, name, description, created_at, updated_at) "
            "VALUES (?, ?, ?, ?, ?)",
            [made, name, description.strip() or None, stamp, stamp],
        )
    return FeatureList(made, name, description.strip(), 0)


def rename(db: Db, list_id: str, name: str, description: str | None = None) -> None:
    """Give a list another name, and a description unless None. Raises as `create`."""
    name = _checked(db, name, list_id)
    with db.atomic():
        db.execute(
            "UPDATE feature_lists SET name = ?, description = COALESCE(?, description), "
            "updated_at = ? WHERE id = ?",
            [name, description, now(), list_id],
        )


def delete(db: Db, list_id: str) -> Removed:
    """Forget a list; its features stay as they are. What is returned can be put back."""
    # its items by themselves, so that what is kept of each SAE hears of it
    parts = [("feature_lists", "id", list_id), ("feature_list_items", "list_id", list_id)]
    return remove_rows(db, parts)


def add(db: Db, list_id: str, sae_id: str, features: Sequence[int]) -> int:
    """Put features at the end of a list; those in it stay where they are. How many are new."""
    with db.atomic():
        (before, last) = db.execute(
            "SELECT COUNT(*), COALESCE(MAX(position), 0) FROM feature_list_items WHERE list_id = ?",
            [list_id],
        ).fetchone()
        stamp = now()
        db.conn.executemany(
            "INSERT OR IGNORE INTO feature_list_items "
            "(list_id, sae_id, feature_index, position, created_at, updated_at) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (
                [list_id, sae_id, int(feature), last + place, stamp, stamp]
                for place, feature in enumerate(features, 1)
            ),
        )
        (after,) = db.execute(
            "SELECT COUNT(*) FROM feature_list_items WHERE list_id = ?", [list_id]
        ).fetchone()
    return after - before


def remove(db: Db, list_id: str, sae_id: str, features: Sequence[int]) -> None:
    """Take features out of a list."""
    with db.atomic():
        for start in range(0, len(features), _AT_ONCE):
            part = [int(feature) for feature in features[start : start + _AT_ONCE]]
            marks = ", ".join("?" for _ in part)
            db.execute(
                "DELETE FROM feature_list_items WHERE list_id = ? AND sae_id = ? "
                f"AND feature_index IN ({marks})",
                [list_id, sae_id, *part],
            )


def set_note(db: Db, list_id: str, sae_id: str, feature: int, note: str) -> None:
    """Say why a feature is in a list."""
    with db.atomic():
        db.execute(
            "UPDATE feature_list_items SET note = ?, updated_at = ? "
            "WHERE list_id = ? AND sae_id = ? AND feature_index = ?",
            [note.strip() or None, now(), list_id, sae_id, feature],
        )


def items(db: Db, list_id: str) -> list[ListItem]:
    """What a list holds, in the order it was put in."""
    rows = db.execute(
        "SELECT i.sae_id, s.name, i.feature_index, f.label, COALESCE(i.note, '') "
        "FROM feature_list_items i JOIN saes s ON s.id = i.sae_id "
        "LEFT JOIN features f ON f.sae_id = i.sae_id AND f.feature_index = i.feature_index "
        "WHERE i.list_id = ? ORDER BY i.position, i.feature_index",
        [list_id],
    ).fetchall()
    return [ListItem(*row) for row in rows]


def lists_of(db: Db, sae_id: str, feature: int) -> list[str]:
    """Ids of the lists that hold a feature."""
    rows = db.execute(
        "SELECT list_id FROM feature_list_items WHERE sae_id = ? AND feature_index = ?",
        [sae_id, feature],
    ).fetchall()
    return [row[0] for row in rows]


def _checked(db: Db, name: str, list_id: str = "") -> str:
    name = " ".join(name.split())
    if not 1 <= len(name) <= _LONGEST_NAME:
        raise InvalidInput(f"A list's name has 1 to {_LONGEST_NAME} characters.")
    if any(found.name == name and found.id != list_id for found in lists(db)):
        raise InvalidInput(f"There is a list {name!r} already.")
    return name
