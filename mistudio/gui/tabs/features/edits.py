"""What the user writes about features: run in the query thread, return what was changed.

The returned text is the id under which the publisher announces it, `sae/index`.
"""

from __future__ import annotations

from typing import Any

from mistudio.store import feature_marks, labels


def published(sae_id: str, index: int) -> str:
    """How a change of one feature is announced."""
    return f"{sae_id}/{index}"


def parse_published(text: str) -> tuple[str, int | None]:
    """The SAE and the feature of an announcement; None: several features."""
    sae_id, _, index = text.partition("/")
    return sae_id, int(index) if index.isdigit() else None


def turn_favorite(db: Any, sae_id: str, index: int) -> str:
    """Set the star if it is not set, else take it away."""
    feature_marks.set_favorite(db, sae_id, index, not _flag(db, sae_id, index, "is_favorite"))
    return published(sae_id, index)


def turn_hidden(db: Any, sae_id: str, index: int) -> str:
    """Hide a feature, or show it again."""
    feature_marks.set_hidden(db, sae_id, index, not _flag(db, sae_id, index, "is_hidden"))
    return published(sae_id, index)


def turn_several(db: Any, sae_id: str, indices: list[int], mark: str) -> str:
    """Set a mark ("favorite" or "hidden") of features; if all have it, take it away."""
    rows = db.execute(
        f"SELECT feature_index FROM features WHERE sae_id = ? AND is_{mark} = 1", [sae_id]
    ).fetchall()
    marked = {row[0] for row in rows}
    on = not marked.issuperset(indices)
    if mark == "favorite":
        feature_marks.mark(db, sae_id, indices, favorite=on)
    else:
        feature_marks.mark(db, sae_id, indices, hidden=on)
    return f"{sae_id}/"


def paint(db: Any, sae_id: str, indices: list[int], colour: str) -> str:
    """Mark features with a colour; "" takes the mark away."""
    feature_marks.mark(db, sae_id, indices, colour=colour)
    return published(sae_id, indices[0]) if len(indices) == 1 else f"{sae_id}/"


def write_label(db: Any, sae_id: str, index: int, text: str) -> str:
    """Choose the user's label; an empty one takes it away."""
    feature_marks.set_label(db, sae_id, index, text)
    return published(sae_id, index)


def choose_label(db: Any, sae_id: str, index: int, label_id: str) -> str:
    """Make one of a feature's labels the chosen one."""
    labels.choose(db, sae_id, index, label_id)
    return published(sae_id, index)


def write_note(db: Any, sae_id: str, index: int, text: str) -> str:
    """Keep the user's note."""
    feature_marks.set_note(db, sae_id, index, text)
    return published(sae_id, index)


def _flag(db: Any, sae_id: str, index: int, column: str) -> bool:
    found = db.execute(
        f"SELECT {column} FROM features WHERE sae_id = ? AND feature_index = ?", [sae_id, index]
    ).fetchone()
    return bool(found and found[0])
