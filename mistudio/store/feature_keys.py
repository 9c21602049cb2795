"""Sort keys and filters of one feature set as arrays, read column by column when first needed.

All arrays are aligned: place p belongs to feature `indices[p]`. An unknown value is NaN. The keys
belong to one connection and follow the revisions that triggers keep of what was written.
"""

from __future__ import annotations

import importlib
import re
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mistudio.core.errors import InvalidInput
from mistudio.store.connection import Db
from mistudio.store.feature_conditions import (
    ANY_COLOUR,
    COLOURS,
    DUPLICATE_ABOVE,
    FLAGS,
    Among,
    Condition,
    HasColour,
    HasFlag,
    InList,
    LabelState,
    Matches,
    NumberRange,
)
from mistudio.store.records import FeatureSetRow

Mask = NDArray[np.bool_]

# name -> column of feature_statistics
STATISTICS = {
    "count": "count",
    "frequency": "frequency",
    "samples": "active_samples",
    "max": "max",
    "mean": "mean",
    "mean_all": "mean_all",
    "skew": "skew",
    "kurtosis": "kurtosis",
    "top_token_share": "top_token_share",
    "nearest": "nearest",
    "nearest_cosine": "nearest_cosine",
    "ablation_ce": "ablation_ce",
}
STATISTIC_TEXTS = {
    "top_token": "top_token",
    "tokens": "top_tokens",
    "positive": "positive_tokens",
    "negative": "negative_tokens",
    "flags": "flags",
}
# name -> what is read of features f and their chosen label l
WRITTEN = {
    "favorite": "f.is_favorite",
    "hidden": "f.is_hidden",
    "score": "l.score",
}
WRITTEN_TEXTS = {
    "label": "f.label",
    "note": "f.notes",
    "source": "l.source",
    "colour": "f.colour",
}
SORTABLE = ("index", *STATISTICS, *STATISTIC_TEXTS, *WRITTEN, *WRITTEN_TEXTS, "lists")
NUMBERS = ("index", *STATISTICS, "score", "lists")
_KEPT_SETS = 2


def columns_of(db: Db) -> frozenset[str]:
    """The columns of the statistics table: some figures come only with an analysis."""
    rows = db.execute("SELECT name FROM pragma_table_info('feature_statistics')").fetchall()
    return frozenset(row[0] for row in rows)


class FeatureKeys:
    """The arrays of one set on one connection; `keys_of` gives those that are up to date."""

    def __init__(self, db: Db, feature_set: FeatureSetRow) -> None:
        self._db, self._set = db, feature_set
        self._statistics: dict[str, Any] = {}
        self._written: dict[str, Any] = {}
        self._revisions = (-1, -1)
        self.indices: NDArray[np.int64] = np.empty(0, np.int64)
        self._rowids: NDArray[np.int64] = np.empty(0, np.int64)
        self._order: NDArray[np.int64] = np.empty(0, np.int64)
        self._id_range = (0, -1)

    def bring_up_to_date(self) -> None:
        """Drop what was read before something was written."""
        found = dict(
            self._db.execute(
                "SELECT scope, revision FROM feature_revisions WHERE scope IN (?, ?)",
                [self._set.id, self._set.sae_id],
            ).fetchall()
        )
        revisions = found.get(self._set.id, 0), found.get(self._set.sae_id, 0)
        if revisions[0] != self._revisions[0]:
            self._statistics, self._written = {}, {}
            self._read_indices()
        elif revisions[1] != self._revisions[1]:
            self._written = {}
        self._revisions = revisions

    def _read_indices(self) -> None:
        """Read places and, in the same pass, what every first question asks for."""
        # numbers joined to a text are taken over much faster than rows; a frequency, which would be
        # rounded, is made again from its count where that is what was written
        found = self._db.execute(
            "SELECT group_concat(id), group_concat(feature_index), group_concat(count), "
            "SUM(frequency IS NOT count * 1.0 / ?) "
            "FROM feature_statistics NOT INDEXED WHERE feature_set_id = ?",
            [self._set.n_tokens, self._set.id],
        ).fetchone()
        ids, indices, counts = (np.fromstring(text or "", np.int64, sep=",") for text in found[:3])
        by_id = np.argsort(ids, kind="stable")
        self._id_range = (int(ids.min()), int(ids.max())) if len(ids) else (0, -1)
        self._order = np.argsort(indices[by_id], kind="stable")
        every = by_id[self._order]
        self.indices, self._rowids = indices[every], ids[every]
        if len(counts) == len(ids):
            self._statistics["count"] = counts[every].astype(np.float64)
            if found[3] == 0 and self._set.n_tokens:
                self._statistics["frequency"] = self._statistics["count"] / self._set.n_tokens

    def _scan(self, columns: str, fields: list[tuple[str, str]], count: int = -1) -> Any:
        """Columns of the set's rows in the order of their ids: by index each row is a search."""
        cursor = self._db.execute(
            f"SELECT {columns} FROM feature_statistics NOT INDEXED "
            "WHERE id BETWEEN ? AND ? AND feature_set_id = ? ORDER BY id",
            [*self._id_range, self._set.id],
        )
        return np.fromiter(cursor, np.dtype(fields), count)

    def _known(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scanned numbers at their places, infinity as unknown."""
        found = np.array(values[self._order], np.float64)
        found[np.isinf(found)] = np.nan
        return found

    def __len__(self) -> int:
        return len(self.indices)

    def values(self, name: str) -> NDArray[np.float64]:
        """A column as float64; texts as the rank of their order, whatever the case."""
        if name == "index":
            return self.indices.astype(np.float64)
        kept = self._kept_in(name)
        if name not in kept:
            kept[name] = self._read(name)
        return kept[name]

    def _kept_in(self, name: str) -> dict[str, Any]:
        own = name in STATISTICS or name in STATISTIC_TEXTS
        return self._statistics if own else self._written

    def _read(self, name: str) -> NDArray[np.float64]:
        if name in STATISTICS:
            return self._numbers(STATISTICS[name])
        if name == "lists":
            return self._placed(
                "SELECT feature_index, COUNT(*) FROM feature_list_items WHERE sae_id = ? "
                "GROUP BY feature_index",
                self._set.sae_id,
            )
        if name in WRITTEN:
            return self._placed(_written(WRITTEN[name]), self._set.sae_id)
        if name in STATISTIC_TEXTS:
            column = STATISTIC_TEXTS[name]
            sql = (
                f"SELECT feature_index, {column} FROM feature_statistics WHERE feature_set_id = ? "
                f"AND {column} <> '' ORDER BY {column} COLLATE NOCASE"
            )
            return self._ranks(sql, self._set.id)
        column = WRITTEN_TEXTS[name]
        sql = f"{_written(column)} AND {column} <> '' ORDER BY {column} COLLATE NOCASE"
        return self._ranks(sql, self._set.sae_id)

    def _numbers(self, column: str) -> NDArray[np.float64]:
        if column not in columns_of(self._db):
            return np.full(len(self), np.nan)
        # a number stands for the unknown, which numpy could not take; infinity is no figure
        rows = self._scan(f"COALESCE({column}, 9e999)", [("value", "<f8")], len(self))
        return self._known(rows["value"])

    def _placed(self, sql: str, scope: str) -> NDArray[np.float64]:
        """Values of (feature, value) rows at their features' places; the unknown stays NaN."""
        rows = self._db.execute(sql, [scope]).fetchall()
        found = np.full(len(self), np.nan)
        if rows:
            pairs = np.array(rows, np.float64)
            places, known = self._places(pairs[:, 0].astype(np.int64))
            found[places] = pairs[known, 1]
        return found

    def _ranks(self, sql: str, scope: str) -> NDArray[np.float64]:
        """Ranks of (feature, text) rows that come in order; equal texts have equal ranks."""
        features: list[int] = []
        ranks: list[int] = []
        rank, before = -1, None
        for feature, text in self._db.execute(sql, [scope]):
            folded = text.lower()
            if folded != before:
                rank, before = rank + 1, folded
            features.append(feature)
            ranks.append(rank)
        found = np.full(len(self), np.nan)
        places, known = self._places(np.array(features, np.int64))
        found[places] = np.array(ranks, np.float64)[known]
        return found

    def _places(self, features: NDArray[np.int64]) -> tuple[NDArray[np.int64], Mask]:
        """Places of features, and which of the given ones this set has."""
        return _found_in(self.indices, features)

    def places_of(self, features: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Places of those features that the set has, in the given order."""
        return self._places(np.asarray(features, np.int64))[0]

    def order(self, name: str, *, descending: bool) -> NDArray[np.int64]:
        """All places in the order of a column; the unknown last, ties by index."""
        kept, key = self._kept_in(name), f"{name} {'falling' if descending else 'rising'}"
        if key not in kept:
            values = self.values(name)
            kept[key] = np.argsort(-values if descending else values, kind="stable")
        return kept[key]

    def mask_of(self, features: Sequence[int] | NDArray[np.int64]) -> Mask:
        """True at the places of the given features."""
        mask = np.zeros(len(self), bool)
        mask[self.places_of(features)] = True
        return mask

    def hidden(self) -> Mask:
        """Which features are hidden: few, so that no others are read."""
        if "hidden mask" not in self._written:
            rows = self._db.execute(
                "SELECT feature_index FROM features WHERE sae_id = ? AND is_hidden = 1",
                [self._set.sae_id],
            ).fetchall()
            self._written["hidden mask"] = self.mask_of([row[0] for row in rows])
        return self._written["hidden mask"]

    def mask_of_written(self, rowids: Sequence[int] | NDArray[np.int64]) -> Mask:
        """True at the places of the given row ids of `features`."""
        if "rows" not in self._written:
            cursor = self._db.execute(
                "SELECT id, feature_index FROM features WHERE sae_id = ?", [self._set.sae_id]
            )
            pairs = np.fromiter(cursor, np.dtype([("id", "<i8"), ("index", "<i8")]))
            pairs.sort(order="id")
            self._written["rows"] = np.array(pairs["id"]), np.array(pairs["index"])
        ids, indices = self._written["rows"]
        return self.mask_of(indices[_found_in(ids, np.asarray(rowids, np.int64))[0]])

    def mask_of_rows(self, rowids: Sequence[int] | NDArray[np.int64]) -> Mask:
        """True at the places of the given row ids of `feature_statistics`."""
        mask = np.zeros(len(self), bool)
        order = self._cached_order_of_rowids()
        places, _ = _found_in(self._rowids[order], np.asarray(rowids, np.int64))
        mask[order[places]] = True
        return mask

    def _cached_order_of_rowids(self) -> NDArray[np.int64]:
        if "rowids" not in self._statistics:
            self._statistics["rowids"] = np.argsort(self._rowids, kind="stable")
        return self._statistics["rowids"]

    def rowid_range(self) -> tuple[int, int]:
        """The least and the greatest row id of the set; (0, -1) without rows."""
        if not len(self):
            return 0, -1
        return int(self._rowids.min()), int(self._rowids.max())

    def flags(self) -> dict[str, Mask]:
        """Which features have each flag."""
        if "flag masks" not in self._statistics:
            self._statistics["flag masks"] = self._read_flags()
        return self._statistics["flag masks"]

    def _read_flags(self) -> dict[str, Mask]:
        by_text: dict[str, list[int]] = {}
        for feature, text in self._db.execute(
            "SELECT feature_index, flags FROM feature_statistics "
            "WHERE feature_set_id = ? AND flags <> ''",
            [self._set.id],
        ):
            by_text.setdefault(text, []).append(feature)
        masks = {flag: np.zeros(len(self), bool) for flag in FLAGS}
        for text, features in by_text.items():
            for flag in text.split(", "):
                if flag in masks:
                    masks[flag] |= self.mask_of(features)
        masks["duplicate"] |= self.values("nearest_cosine") > DUPLICATE_ABOVE
        return masks

    def satisfying(self, condition: Condition) -> Mask:
        """Where a condition holds. Raises `InvalidInput` for a bad expression or column."""
        if isinstance(condition, NumberRange):
            return self._in_range(condition)
        if isinstance(condition, HasFlag):
            flags = self.flags()
            if condition.flag not in flags:
                raise InvalidInput(f"There is no flag {condition.flag!r}.")
            return flags[condition.flag] == condition.on
        if isinstance(condition, LabelState):
            return self._label_state(condition.state)
        if isinstance(condition, HasColour):
            return self._has_colour(condition.colour) == condition.on
        if isinstance(condition, InList):
            return self._in_list(condition.list_id) == condition.on
        if isinstance(condition, Among):
            return self.mask_of(condition.features)
        return self._matching(condition)

    def _in_range(self, wanted: NumberRange) -> Mask:
        if wanted.column not in NUMBERS:
            raise InvalidInput(f"There is no column of numbers {wanted.column!r}.")
        values = self.values(wanted.column)
        if wanted.column == "lists":
            values = np.nan_to_num(values)
        mask = ~np.isnan(values)
        if wanted.low is not None:
            mask &= values >= wanted.low
        if wanted.high is not None:
            mask &= values <= wanted.high
        return mask

    def _label_state(self, state: str) -> Mask:
        if "states" not in self._written:
            rows = self._db.execute(
                "SELECT f.feature_index, COALESCE(l.source, 'user') FROM features f "
                "LEFT JOIN feature_labels l ON l.id = f.label_id "
                "WHERE f.sae_id = ? AND f.label <> ''",
                [self._set.sae_id],
            ).fetchall()
            by_source: dict[str, list[int]] = {}
            for feature, source in rows:
                by_source.setdefault(source, []).append(feature)
            masks = {source: self.mask_of(found) for source, found in by_source.items()}
            masks["none"] = ~self.mask_of([row[0] for row in rows])
            self._written["states"] = masks
        return self._written["states"].get(state, np.zeros(len(self), bool))

    def _has_colour(self, colour: str) -> Mask:
        if colour not in (ANY_COLOUR, *COLOURS):
            raise InvalidInput(f"There is no colour {colour!r}; there are {', '.join(COLOURS)}.")
        sql = "SELECT feature_index FROM features WHERE sae_id = ? AND colour"
        rows = (
            self._db.execute(f"{sql} IS NOT NULL", [self._set.sae_id]).fetchall()
            if colour == ANY_COLOUR
            else self._db.execute(f"{sql} = ?", [self._set.sae_id, colour]).fetchall()
        )
        return self.mask_of([row[0] for row in rows])

    def _in_list(self, list_id: str) -> Mask:
        rows = self._db.execute(
            "SELECT feature_index FROM feature_list_items WHERE list_id = ? AND sae_id = ?",
            [list_id, self._set.sae_id],
        ).fetchall()
        return self.mask_of([row[0] for row in rows])

    def _matching(self, wanted: Matches) -> Mask:
        if wanted.column in STATISTIC_TEXTS:
            column = STATISTIC_TEXTS[wanted.column]
            sql = f"SELECT feature_index, {column} FROM feature_statistics WHERE feature_set_id = ?"
            scope = self._set.id
        elif wanted.column in WRITTEN_TEXTS:
            column = WRITTEN_TEXTS[wanted.column]
            sql, scope = _written(column), self._set.sae_id
        else:
            raise InvalidInput(f"There is no column of text {wanted.column!r}.")
        rows = self._db.execute(f"{sql} AND {column} <> ''", [scope]).fetchall()
        if not rows:
            matching([""], wanted.pattern)  # says what is wrong with it
            return np.zeros(len(self), bool)
        features, texts = zip(*rows, strict=True)
        return self.mask_of(np.array(features, np.int64)[matching(texts, wanted.pattern)])


def matching(texts: Sequence[str], pattern: str) -> Mask:
    """Which texts hold a regular expression, whatever the case, in time linear in their length.

    Raises `InvalidInput` for an expression that is none, or one that looks around or back.
    """
    pa: Any = importlib.import_module("pyarrow")
    pc: Any = importlib.import_module("pyarrow.compute")
    encoded = [text.encode() for text in texts]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    # from its parts, as pyarrow loads pandas to look at a list
    array = pa.LargeStringArray.from_buffers(
        len(encoded), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded))
    )
    options = pc.MatchSubstringOptions(pattern, ignore_case=True)
    try:
        found = pc.call_function("match_substring_regex", [array], options)
    except pa.ArrowInvalid as error:
        said = re.sub(r"^Invalid regular expression: ", "", str(error)).strip()
        raise InvalidInput(f"{pattern!r} is no regular expression: {said}.") from error
    return np.array(found.to_pylist(), bool)


def _written(column: str) -> str:
    return (
        f"SELECT f.feature_index, {column} FROM features f "
        "LEFT JOIN feature_labels l ON l.id = f.label_id WHERE f.sae_id = ?"
    )


def _found_in(
    rising: NDArray[np.int64], wanted: NDArray[np.int64]
) -> tuple[NDArray[np.int64], Mask]:
    """Places of `wanted` in a rising array, of those that are there, and which those are."""
    places = np.searchsorted(rising, wanted)
    known = places < len(rising)
    known[known] = rising[places[known]] == wanted[known]
    return places[known], known


_CACHE: weakref.WeakKeyDictionary[Any, dict[str, FeatureKeys]] = weakref.WeakKeyDictionary()


def keys_of(db: Db, feature_set: FeatureSetRow) -> FeatureKeys:
    """The keys of a set on this connection, up to date; those of the last two sets are kept."""
    kept = _CACHE.setdefault(db, {})
    keys = kept.pop(feature_set.id, None) or FeatureKeys(db, feature_set)
    kept[feature_set.id] = keys
    while len(kept) > _KEPT_SETS:
        del kept[next(iter(kept))]
    keys.bring_up_to_date()
    return keys


def combined(masks: Sequence[Mask], size: int, *, any_of: bool) -> Mask:
    """All of the masks, or at least one of them; without masks all places."""
    if not masks:
        return np.ones(size, bool)
    found = np.full(size, not any_of)
    for mask in masks:
        found = found | mask if any_of else found & mask
    return found
