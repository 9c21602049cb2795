"""The feature table: statistics of a feature set joined with what the user wrote about features."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.core.ids import now
from mistudio.store.connection import Db
from mistudio.store.feature_conditions import Condition
from mistudio.store.feature_keys import (
    SORTABLE,
    FeatureKeys,
    Mask,
    best_score,
    columns_of,
    keep_first,
    keys_of,
)
from mistudio.store.feature_masks import combined, satisfying
from mistudio.store.records import FeatureSetRow
from mistudio.store.tables import FEATURE_SETS

SORT_COLUMNS = SORTABLE


class FeatureFilter(NamedTuple):
    """Which features a list shows; every part narrows it further."""

    text: str = ""
    """searched in label, note, top tokens and promoted tokens; the last word may be unfinished"""
    live_only: bool = True
    favorites_only: bool = False
    show_hidden: bool = False
    min_frequency: float | None = None
    max_frequency: float | None = None
    conditions: tuple[Condition, ...] = ()
    any_of: bool = False
    """one of the conditions is enough; else all must hold"""
    within: Sequence[int] | None = None
    """only these features, such as those found by another search"""


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
    label_method: str | None = None
    label_score: float | None = None
    """held-out score of the chosen label"""
    label_n: int | None = None
    mean_all: float | None = None
    skew: float | None = None
    kurtosis: float | None = None
    top_token: str | None = None
    top_token_share: float | None = None
    negative_tokens: str | None = None
    lists: str = ""
    """names of the lists that hold it"""
    nearest: int | None = None
    nearest_cosine: float | None = None
    ablation_ce: float | None = None
    colour: str | None = None
    """what the user marked it with"""
    rule_score: float | None = None
    """highest held-out score of its labels by rules, chosen or not"""
    model_score: float | None = None
    """the same of its labels by a model"""


def add_statistics(db: Db, feature_set_id: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the statistics rows of a feature set in one transaction, replacing earlier ones.

    The sort keys that a table asks for first are kept with them.
    """
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
        "nearest",
        "nearest_cosine",
        "mean_all",
        "skew",
        "kurtosis",
        "top_token",
        "top_token_share",
        "negative_tokens",
    )
    names = ", ".join(("feature_set_id", *columns, "created_at", "updated_at"))
    marks = ", ".join("?" for _ in range(len(columns) + 3))
    values = (
        [feature_set_id, *(row.get(column) for column in columns), stamp, stamp] for row in rows
    )
    with db.atomic():
        db.execute("DELETE FROM feature_statistics WHERE feature_set_id = ?", [feature_set_id])
        db.conn.executemany(f"INSERT INTO feature_statistics ({names}) VALUES ({marks})", values)
        db.execute(
            "INSERT INTO feature_revisions VALUES (?, 1) "
            "ON CONFLICT (scope) DO UPDATE SET revision = revision + 1",
            [feature_set_id],
        )
    keep_first(db, feature_set_id)


def set_ablation(db: Db, feature_set_id: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write what ablating features does: ablation_ce, _kl, _percentile and _p by feature_index."""
    columns = ("ablation_ce", "ablation_kl", "ablation_percentile", "ablation_p")
    marks = ", ".join(f"{column} = ?" for column in columns)
    stamp = now()
    with db.atomic():
        db.conn.executemany(
            f"UPDATE feature_statistics SET {marks}, updated_at = ? "
            "WHERE feature_set_id = ? AND feature_index = ?",
            [
                [*(row[column] for column in columns), stamp, feature_set_id, row["feature_index"]]
                for row in rows
            ],
        )
    keep_first(db, feature_set_id)


def feature_ids(
    db: Db,
    feature_set: FeatureSetRow,
    wanted: FeatureFilter,
    *,
    sort: str = "frequency",
    descending: bool = True,
    limit: int | None = None,
) -> list[int]:
    """Indices of the features that pass a filter, in the order of a column; ties by index.

    What is unknown comes last. Raises `InvalidInput` for a bad regular expression.
    """
    return feature_index_array(
        db, feature_set, wanted, sort=sort, descending=descending, limit=limit
    ).tolist()


def feature_index_array(
    db: Db,
    feature_set: FeatureSetRow,
    wanted: FeatureFilter,
    *,
    sort: str = "frequency",
    descending: bool = True,
    limit: int | None = None,
) -> NDArray[np.int64]:
    """As `feature_ids`, as an array."""
    keys = keys_of(db, feature_set)
    order = keys.order(sort, descending=descending)
    return keys.indices[order[_mask(db, keys, feature_set, wanted)[order]][:limit]]


def _mask(db: Db, keys: FeatureKeys, feature_set: FeatureSetRow, wanted: FeatureFilter) -> Mask:
    """Where all parts of a filter hold."""
    holds = np.ones(len(keys), bool)
    if wanted.live_only:
        holds &= keys.values("count") > 0
    if wanted.favorites_only:
        holds &= keys.values("favorite") == 1
    if not wanted.show_hidden:
        holds &= ~keys.hidden()
    if wanted.min_frequency is not None:
        holds &= keys.values("frequency") >= wanted.min_frequency
    if wanted.max_frequency is not None:
        holds &= keys.values("frequency") <= wanted.max_frequency
    if wanted.conditions:
        masks = [satisfying(keys, condition) for condition in wanted.conditions]
        holds &= combined(masks, len(keys), any_of=wanted.any_of)
    if wanted.within is not None:
        holds &= keys.mask_of(wanted.within)
    if wanted.text.strip():
        holds &= _holding(db, keys, feature_set, wanted.text.strip())
    return holds


def _holding(db: Db, keys: FeatureKeys, feature_set: FeatureSetRow, text: str) -> Mask:
    """Where a search finds its words; a number also finds the feature of that index."""
    found = np.zeros(len(keys), bool)
    number = re.fullmatch(r"#?(\d{1,18})", text)
    if number:
        found |= keys.indices == int(number[1])
    query = _prefix_query(db, text)
    if query:
        found |= keys.mask_of_rows(
            _numbers(
                db,
                "SELECT group_concat(rowid) FROM feature_statistics_fts "
                "WHERE feature_statistics_fts MATCH ? AND rowid BETWEEN ? AND ?",
                [query, *keys.rowid_range()],
            )
        )
        found |= keys.mask_of_written(
            _numbers(
                db,
                "SELECT group_concat(rowid) FROM features_fts WHERE features_fts MATCH ?",
                [query],
            )
        )
    return found


def _numbers(db: Db, sql: str, values: Sequence[Any]) -> NDArray[np.int64]:
    """Whole numbers that a statement joins by commas: much faster to take over than rows."""
    joined = db.execute(sql, values).fetchone()[0]
    return np.fromstring(joined, np.int64, sep=",") if joined else np.empty(0, np.int64)


def _prefix_query(db: Db, text: str) -> str:
    """The words as a full-text query whose last word is a prefix; "" without words."""
    words = re.findall(r"\w+", text)
    if not words:
        return ""
    return db.quote_fts(" ".join(words)) + "*"


_AT_ONCE = 500  # values bound in one statement


def feature_rows(db: Db, feature_set: FeatureSetRow, indices: Sequence[int]) -> list[FeatureRow]:
    """Rows of the named features, in the given order."""
    there = columns_of(db)
    later = ", ".join(
        f"s.{column}" if column in there else "NULL"
        for column in ("nearest", "nearest_cosine", "ablation_ce")
    )
    rows: dict[int, FeatureRow] = {}
    for start in range(0, len(indices), _AT_ONCE):
        part = indices[start : start + _AT_ONCE]
        marks = ", ".join("?" for _ in part)
        found = db.execute(
            "SELECT s.feature_index, f.label, l.source, f.notes, "
            "COALESCE(f.is_favorite, 0), COALESCE(f.is_hidden, 0), s.count, s.frequency, "
            "s.active_samples, s.max, s.mean, s.top_tokens, s.positive_tokens, s.flags, s.example, "
            "l.method, l.score, l.score_n, "
            "s.mean_all, s.skew, s.kurtosis, s.top_token, s.top_token_share, s.negative_tokens, "
            "COALESCE((SELECT group_concat(n.name, ', ') "
            "FROM feature_list_items i JOIN feature_lists n ON n.id = i.list_id "
            "WHERE i.sae_id = ? AND i.feature_index = s.feature_index), ''), "
            f"{later}, f.colour, {best_score('auto')}, {best_score('model')} "
            "FROM feature_statistics s "
            "LEFT JOIN features f ON f.sae_id = ? AND f.feature_index = s.feature_index "
            "LEFT JOIN feature_labels l ON l.id = f.label_id "
            f"WHERE s.feature_set_id = ? AND s.feature_index IN ({marks})",
            [feature_set.sae_id, feature_set.sae_id, feature_set.id, *part],
        ).fetchall()
        rows.update((int(row[0]), _feature_row(row)) for row in found)
    return [rows[index] for index in indices if index in rows]


def _feature_row(row: Sequence[Any]) -> FeatureRow:
    values = list(row)
    values[4:6] = bool(row[4]), bool(row[5])
    return FeatureRow(*values)


def feature_sets(db: Db, sae_id: str) -> list[FeatureSetRow]:
    """The finished sets of an SAE, the one in use first: that found or chosen last."""
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
    FEATURE_SETS.get(db, feature_set_id)
    FEATURE_SETS.update(db, feature_set_id, chosen_at=now())
