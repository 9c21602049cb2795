"""The feature table: statistics of a feature set joined with what the user wrote about features."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mistudio.core.ids import new_id, now
from mistudio.store.connection import Db
from mistudio.store.records import FeatureSetRow

SORT_COLUMNS = {
    "index": "s.feature_index",
    "label": "f.label IS NULL, f.label COLLATE NOCASE",
    "frequency": "s.frequency",
    "count": "s.count",
    "samples": "s.active_samples",
    "max": "s.max",
    "mean": "s.mean",
    "tokens": "s.top_tokens COLLATE NOCASE",
    "favorite": "f.is_favorite",
}


class FeatureFilter(NamedTuple):
    """Which features a list shows; every part narrows it further."""

    text: str = ""
    """searched in label, note, top tokens and promoted tokens; the last word may be unfinished"""
    live_only: bool = True
    favorites_only: bool = False
    show_hidden: bool = False
    min_frequency: float | None = None
    max_frequency: float | None = None


@dataclass(frozen=True)
class FeatureRow:
    """One feature as the table shows it."""

    index: int
    label: str | None
    label_source: str | None
    notes: str | None
    is_favorite: bool
    is_hidden: bool
    count: int
    frequency: float
    active_samples: int
    max: float
    mean: float
    top_tokens: str
    positive_tokens: str
    flags: str
    example: str
    """JSON list of [text, activation] pieces of the strongest example"""


def add_statistics(db: Db, feature_set_id: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the statistics rows of a feature set in one transaction, replacing earlier ones."""
    stamp = now()
    columns = (
        "feature_index",
        "count",
        "frequency",
        "active_samples",
        "max",
        "mean",
        "top_tokens",
        "flags",
        "positive_tokens",
        "example",
    )
    names = ", ".join(("feature_set_id", *columns, "created_at", "updated_at"))
    marks = ", ".join("?" for _ in range(len(columns) + 3))
    values = [
        [feature_set_id, *(row.get(column) for column in columns), stamp, stamp] for row in rows
    ]
    with db.atomic():
        db.execute("DELETE FROM feature_statistics WHERE feature_set_id = ?", [feature_set_id])
        db.conn.executemany(f"INSERT INTO feature_statistics ({names}) VALUES ({marks})", values)


def feature_ids(
    db: Db,
    feature_set: FeatureSetRow,
    wanted: FeatureFilter,
    *,
    sort: str = "frequency",
    descending: bool = True,
    limit: int | None = None,
) -> list[int]:
    """Indices of the features that pass a filter, in the order of a column; ties by index."""
    where, parameters = _conditions(db, feature_set, wanted)
    direction = "DESC" if descending else "ASC"
    keys = SORT_COLUMNS[sort].split(", ")
    keys[-1] += f" {direction}"
    sql = (
        "SELECT s.feature_index FROM feature_statistics s "
        "LEFT JOIN features f ON f.sae_id = ? AND f.feature_index = s.feature_index "
        f"WHERE {where} ORDER BY {', '.join(keys)}, s.feature_index"
    )
    if limit is not None:
        sql += f" LIMIT {int(limit)}"
    rows = db.execute(sql, [feature_set.sae_id, *parameters]).fetchall()
    return [row[0] for row in rows]


def _conditions(db: Db, feature_set: FeatureSetRow, wanted: FeatureFilter) -> tuple[str, list[Any]]:
    where = ["s.feature_set_id = ?"]
    parameters: list[Any] = [feature_set.id]
    if wanted.live_only:
        where.append("s.count > 0")
    if wanted.favorites_only:
        where.append("f.is_favorite = 1")
    if not wanted.show_hidden:
        where.append("COALESCE(f.is_hidden, 0) = 0")
    if wanted.min_frequency is not None:
        where.append("s.frequency >= ?")
        parameters.append(wanted.min_frequency)
    if wanted.max_frequency is not None:
        where.append("s.frequency <= ?")
        parameters.append(wanted.max_frequency)
    text = wanted.text.strip()
    if text:
        number = re.fullmatch(r"#?(\d+)", text)
        alternatives = ["s.feature_index = ?"] if number else []
        parameters += [int(number[1])] if number else []
        query = _prefix_query(db, text)
        if query:
            alternatives.append(
                "s.id IN (SELECT rowid FROM feature_statistics_fts "
                "WHERE feature_statistics_fts MATCH ?)"
            )
            alternatives.append(
                "f.id IN (SELECT rowid FROM features_fts WHERE features_fts MATCH ?)"
            )
            parameters += [query, query]
        where.append(f"({' OR '.join(alternatives)})" if alternatives else "0")
    return " AND ".join(where), parameters


def _prefix_query(db: Db, text: str) -> str:
    """The words as a full-text query whose last word is a prefix; "" without words."""
    words = re.findall(r"\w+", text)
    if not words:
        return ""
    return db.quote_fts(" ".join(words)) + "*"


def feature_rows(db: Db, feature_set: FeatureSetRow, indices: Sequence[int]) -> list[FeatureRow]:
    """Rows of the named features, in the given order."""
    marks = ", ".join("?" for _ in indices)
    found = db.execute(
        "SELECT s.feature_index, f.label, "
        "(SELECT l.source FROM feature_labels l WHERE l.id = f.label_id), f.notes, "
        "COALESCE(f.is_favorite, 0), COALESCE(f.is_hidden, 0), s.count, s.frequency, "
        "s.active_samples, s.max, s.mean, s.top_tokens, s.positive_tokens, s.flags, s.example "
        "FROM feature_statistics s "
        "LEFT JOIN features f ON f.sae_id = ? AND f.feature_index = s.feature_index "
        f"WHERE s.feature_set_id = ? AND s.feature_index IN ({marks})",
        [feature_set.sae_id, feature_set.id, *indices],
    ).fetchall()
    rows = {int(row[0]): _feature_row(row) for row in found}
    return [rows[index] for index in indices if index in rows]


def _feature_row(row: Sequence[Any]) -> FeatureRow:
    values = list(row)
    values[4:6] = bool(row[4]), bool(row[5])
    return FeatureRow(*values)


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
            "UPDATE features SET label = ?, label_id = ?, updated_at = ? "
            "WHERE sae_id = ? AND feature_index = ?",
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


def feature_sets(db: Db, sae_id: str) -> list[FeatureSetRow]:
    """The finished feature sets of an SAE: the one in use first.

    In use is the one that was found or chosen last.
    """
    from mistudio.store.tables import FEATURE_SETS

    return FEATURE_SETS.select(
        db,
        "sae_id = ? AND status = 'ready'",
        [sae_id],
        order="MAX(created_at, COALESCE(chosen_at, '')) DESC, created_at DESC",
    )


def newest_set(db: Db, sae_id: str) -> FeatureSetRow | None:
    """The feature set in use of an SAE: the newest, unless an older one was chosen since."""
    found = feature_sets(db, sae_id)
    return found[0] if found else None


def choose_set(db: Db, feature_set_id: str) -> None:
    """Use this feature set of its SAE from now on; raises `NotFound`."""
    from mistudio.store.tables import FEATURE_SETS

    FEATURE_SETS.get(db, feature_set_id)
    FEATURE_SETS.update(db, feature_set_id, chosen_at=now())
