"""What the user writes of single features: label, note, star, hidden, colour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mistudio.core.errors import InvalidInput
from mistudio.core.ids import new_id, now
from mistudio.store.connection import Db
from mistudio.store.feature_conditions import COLOURS


def set_label(db: Db, sae_id: str, feature: int, text: str, source: str = "user") -> None:
    """Choose a label; a user's label is never replaced by one of another source.

    An empty text takes the label away.
    """
    text = " ".join(text.split())[:512]
    _ensure(db, sae_id, feature)
    with db.atomic():
        current = list(
            db.query(
                "SELECT l.source FROM features f JOIN feature_labels l ON l.id = f.label_id "
                "WHERE f.sae_id = ? AND f.feature_index = ?",
                [sae_id, feature],
            )
        )
        label_id = None
        if text:
            label_id = new_id("label")
            stamp = now()
            db.execute(
                "INSERT INTO feature_labels (id, sae_id, feature_index, text, source, "
                "created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
                [label_id, sae_id, feature, text, source, stamp, stamp],
            )
        if source != "user" and current and current[0]["source"] == "user":
            return
        db.execute(
            "UPDATE features SET label = ?, label_id = ?, label_score = NULL, label_pinned = 0, "
            "updated_at = ? WHERE sae_id = ? AND feature_index = ?",
            [text or None, label_id, now(), sae_id, feature],
        )


def set_note(db: Db, sae_id: str, feature: int, text: str) -> None:
    """Keep the user's note on a feature."""
    _set(db, sae_id, feature, "notes", text or None)


def set_favorite(db: Db, sae_id: str, feature: int, on: bool) -> None:
    """Star a feature or take the star away."""
    _set(db, sae_id, feature, "is_favorite", int(on))


def set_hidden(db: Db, sae_id: str, feature: int, on: bool) -> None:
    """Leave a feature out of lists, or show it again."""
    _set(db, sae_id, feature, "is_hidden", int(on))


def mark(
    db: Db,
    sae_id: str,
    features: Sequence[int],
    *,
    favorite: bool | None = None,
    hidden: bool | None = None,
    colour: str | None = None,
    note: str | None = None,
) -> None:
    """Star, hide, colour or note several features, or take it back; None leaves a mark as it is.

    An empty colour or note takes it away. Raises `InvalidInput` for a colour there is not.
    """
    if colour and colour not in COLOURS:
        raise InvalidInput(f"There is no colour {colour!r}; there are {', '.join(COLOURS)}.")
    marks = {
        "is_favorite": None if favorite is None else int(favorite),
        "is_hidden": None if hidden is None else int(hidden),
        "colour": colour,
        "notes": note,
    }
    stamp = now()
    with db.atomic():
        for column, value in marks.items():
            if value is None:
                continue
            kept = value if value != "" else None
            db.conn.executemany(
                f"INSERT INTO features (sae_id, feature_index, {column}, created_at, updated_at) "
                "VALUES (?, ?, ?, ?, ?) ON CONFLICT (sae_id, feature_index) DO UPDATE SET "
                f"{column} = excluded.{column}, updated_at = excluded.updated_at",
                [[sae_id, int(feature), kept, stamp, stamp] for feature in features],
            )


def _ensure(db: Db, sae_id: str, feature: int) -> None:
    stamp = now()
    with db.atomic():
        db.execute(
            "INSERT OR IGNORE INTO features (sae_id, feature_index, created_at, updated_at) "
            "VALUES (?, ?, ?, ?)",
            [sae_id, feature, stamp, stamp],
        )


def _set(db: Db, sae_id: str, feature: int, column: str, value: Any) -> None:
    _ensure(db, sae_id, feature)
    with db.atomic():
        db.execute(
            f"UPDATE features SET {column} = ?, updated_at = ? "
            "WHERE sae_id = ? AND feature_index = ?",
            [value, now(), sae_id, feature],
        )
