"""Sort keys and filters of one feature set as arrays, read column by column when first needed.

All arrays are aligned: place p belongs to feature `indices[p]`. An unknown value is NaN. The keys
belong to one connection and follow the revisions that triggers keep of what was written; those of
the set's own figures are kept in the database when `keep` is called.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mistudio.store import kept_keys
from mistudio.store.connection import Db
from mistudio.store.feature_conditions import DUPLICATE_ABOVE, FLAGS
from mistudio.store.kept_keys import revision_of
from mistudio.store.records import FeatureSetRow
from mistudio.store.tables import FEATURE_SETS

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


def best_score(source: str) -> str:
    """In SQL: the highest held-out score of a feature's labels from a source; f is the feature."""
    return (
        "(SELECT MAX(o.score) FROM feature_labels o WHERE o.sae_id = f.sae_id "
        f"AND o.feature_index = f.feature_index AND o.source = '{source}')"
    )


# name -> what is read of features f and their chosen label l
WRITTEN = {
    "favorite": "f.is_favorite",
    "hidden": "f.is_hidden",
    "score": "l.score",
    "rule_score": best_score("auto"),
    "model_score": best_score("model"),
}
WRITTEN_TEXTS = {
    "label": "f.label",
    "note": "f.notes",
    "source": "l.source",
    "colour": "f.colour",
}
SORTABLE = ("index", *STATISTICS, *STATISTIC_TEXTS, *WRITTEN, *WRITTEN_TEXTS, "lists")
NUMBERS = ("index", *STATISTICS, "score", "rule_score", "model_score", "lists")
FIRST_ORDER = "frequency falling"  # a table's own, kept as the keys are
_KEPT_SETS = 2


def columns_of(db: Db) -> frozenset[str]:
    """The columns of the statistics table: some figures come only with an analysis."""
    rows = db.execute("SELECT name FROM pragma_table_info('feature_statistics')").fetchall()
    return frozenset(row[0] for row in rows)


class FeatureKeys:
    """The arrays of one set on one connection; `keys_of` gives those that are up to date."""

    def __init__(self, db: Db, feature_set: FeatureSetRow) -> None:
        self.db, self.feature_set = db, feature_set
        self._statistics: dict[str, Any] = {}
        self._written: dict[str, Any] = {}
        self._revisions = (-1, -1)
        self._unkept: dict[str, NDArray[Any]] = {}
        self.indices: NDArray[np.int64] = np.empty(0, np.int64)
        self._rowids: NDArray[np.int64] = np.empty(0, np.int64)

    def bring_up_to_date(self) -> None:
        """Drop what was read before something was written."""
        before = self._revisions
        found = self.feature_set
        self._revisions = revision_of(self.db, found.id), revision_of(self.db, found.sae_id)
        if self._revisions[0] != before[0]:
            self._statistics, self._written, self._unkept = {}, {}, {}
            self._find_indices()
        elif self._revisions[1] != before[1]:
            self._written = {}

    def _find_indices(self) -> None:
        rowids, indices = self._kept("rowids"), self._kept("indices")
        if rowids is None or indices is None or len(rowids) != len(indices):
            self._read_indices()
            self._unkept |= {"rowids": self._rowids, "indices": self.indices}
        else:
            self._rowids, self.indices = rowids.astype(np.int64), indices.astype(np.int64)

    def _kept(self, name: str) -> NDArray[Any] | None:
        return kept_keys.kept(self.db, self.feature_set.id, self._revisions[0], name)

    def keep(self) -> None:
        """Keep in the database what was read from rows since the last call: it takes some time,
        so that it is not done before an answer."""
        if self._unkept:
            kept_keys.keep(self.db, self.feature_set.id, self._revisions[0], self._unkept)
        self._unkept = {}

    def _read_indices(self) -> None:
        """Read places and, in the same pass, what every first question asks for."""
        # numbers joined to a text are taken over much faster than rows; a frequency, which would be
        # rounded, is made again from its count where that is what was written
        found = self.db.execute(
            "SELECT group_concat(id), group_concat(feature_index), group_concat(count), "
            "SUM(frequency IS NOT count * 1.0 / ?) "
            "FROM feature_statistics NOT INDEXED WHERE feature_set_id = ?",
            [self.feature_set.n_tokens, self.feature_set.id],
        ).fetchone()
        ids, indices, counts = (np.fromstring(text or "", np.int64, sep=",") for text in found[:3])
        every = np.argsort(indices, kind="stable")
        self.indices, self._rowids = indices[every], ids[every]
        if len(counts) == len(ids):
            self._own("count", counts[every].astype(np.float64))
            if found[3] == 0 and self.feature_set.n_tokens:
                self._own("frequency", self._statistics["count"] / self.feature_set.n_tokens)

    def _own(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        """Remember an array of the set's own figures."""
        self._statistics[name] = self._unkept[name] = array
        return array

    def _scan(self, columns: str, fields: list[tuple[str, str]], count: int = -1) -> Any:
        """Columns of the set's rows in the order of their ids: by index each row is a search."""
        cursor = self.db.execute(
            f"SELECT {columns} FROM feature_statistics NOT INDEXED "
            "WHERE id BETWEEN ? AND ? AND feature_set_id = ? ORDER BY id",
            [*self.rowid_range(), self.feature_set.id],
        )
        return np.fromiter(cursor, np.dtype(fields), count)

    def _known(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scanned numbers at their places, infinity as unknown."""
        found = np.empty(len(self))
        found[self._cached_order_of_rowids()] = values
        found[np.isinf(found)] = np.nan
        return found

    def __len__(self) -> int:
        return len(self.indices)

    def values(self, name: str) -> NDArray[np.float64]:
        """A column as float64; texts as the rank of their order, whatever the case."""
        if name == "index":
            return self.indices.astype(np.float64)
        if name not in STATISTICS and name not in STATISTIC_TEXTS:
            if name not in self._written:
                self._written[name] = self._read(name)
            return self._written[name]
        if name not in self._statistics:
            before = self._kept(name)
            if before is not None and len(before) == len(self):
                self._statistics[name] = before
            else:
                self._own(name, self._read(name))
        return self._statistics[name]

    def _read(self, name: str) -> NDArray[np.float64]:
        if name in STATISTICS:
            return self._numbers(STATISTICS[name])
        if name == "lists":
            return self._placed(
                "SELECT feature_index, COUNT(*) FROM feature_list_items WHERE sae_id = ? "
                "GROUP BY feature_index",
                self.feature_set.sae_id,
            )
        if name in WRITTEN:
            return self._placed(written(WRITTEN[name]), self.feature_set.sae_id)
        if name in STATISTIC_TEXTS:
            column = STATISTIC_TEXTS[name]
            sql = (
                f"SELECT feature_index, {column} FROM feature_statistics WHERE feature_set_id = ? "
                f"AND {column} <> '' ORDER BY {column} COLLATE NOCASE"
            )
            return self._ranks(sql, self.feature_set.id)
        column = WRITTEN_TEXTS[name]
        sql = f"{written(column)} AND {column} <> '' ORDER BY {column} COLLATE NOCASE"
        return self._ranks(sql, self.feature_set.sae_id)

    def _numbers(self, column: str) -> NDArray[np.float64]:
        if column not in columns_of(self.db):
            return np.full(len(self), np.nan)
        # a number stands for the unknown, which numpy could not take; infinity is no figure
        rows = self._scan(f"COALESCE({column}, 9e999)", [("value", "<f8")], len(self))
        return self._known(rows["value"])

    def _placed(self, sql: str, scope: str) -> NDArray[np.float64]:
        """Values of (feature, value) rows at their features' places; the unknown stays NaN."""
        rows = self.db.execute(sql, [scope]).fetchall()
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
        for feature, text in self.db.execute(sql, [scope]):
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
        key = f"{name} {'falling' if descending else 'rising'}"
        is_own = name in STATISTICS or name in STATISTIC_TEXTS
        orders = self._statistics if is_own else self._written
        if key in orders:
            return orders[key]
        before = self._kept(key) if key == FIRST_ORDER else None
        if before is not None and len(before) == len(self):
            orders[key] = before.astype(np.int64)
            return orders[key]
        values = self.values(name)
        orders[key] = np.argsort(-values if descending else values, kind="stable")
        if key == FIRST_ORDER:
            self._unkept[key] = orders[key].astype("<u4")
        return orders[key]

    def mask_of(self, features: Sequence[int] | NDArray[np.int64]) -> Mask:
        """True at the places of the given features."""
        mask = np.zeros(len(self), bool)
        mask[self.places_of(features)] = True
        return mask

    def hidden(self) -> Mask:
        """Which features are hidden: few, so that no others are read."""
        if "hidden mask" not in self._written:
            rows = self.db.execute(
                "SELECT feature_index FROM features WHERE sae_id = ? AND is_hidden = 1",
                [self.feature_set.sae_id],
            ).fetchall()
            self._written["hidden mask"] = self.mask_of([row[0] for row in rows])
        return self._written["hidden mask"]

    def mask_of_written(self, rowids: Sequence[int] | NDArray[np.int64]) -> Mask:
        """True at the places of the given row ids of `features`."""
        if "rows" not in self._written:
            cursor = self.db.execute(
                "SELECT id, feature_index FROM features WHERE sae_id = ?", [self.feature_set.sae_id]
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

    def label_states(self) -> dict[str, Mask]:
        """Which features have a label of each source; "none" have no label."""
        if "states" not in self._written:
            rows = self.db.execute(
                "SELECT f.feature_index, COALESCE(l.source, 'user') FROM features f "
                "LEFT JOIN feature_labels l ON l.id = f.label_id "
                "WHERE f.sae_id = ? AND f.label <> ''",
                [self.feature_set.sae_id],
            ).fetchall()
            by_source: dict[str, list[int]] = {}
            for feature, source in rows:
                by_source.setdefault(source, []).append(feature)
            masks = {source: self.mask_of(found) for source, found in by_source.items()}
            masks["none"] = ~self.mask_of([row[0] for row in rows])
            self._written["states"] = masks
        return self._written["states"]

    def flags(self) -> dict[str, Mask]:
        """Which features have each flag."""
        if "flag masks" not in self._statistics:
            self._statistics["flag masks"] = self._read_flags()
        return self._statistics["flag masks"]

    def _read_flags(self) -> dict[str, Mask]:
        by_text: dict[str, list[int]] = {}
        for feature, text in self.db.execute(
            "SELECT feature_index, flags FROM feature_statistics "
            "WHERE feature_set_id = ? AND flags <> ''",
            [self.feature_set.id],
        ):
            by_text.setdefault(text, []).append(feature)
        masks = {flag: np.zeros(len(self), bool) for flag in FLAGS}
        for text, features in by_text.items():
            for flag in text.split(", "):
                if flag in masks:
                    masks[flag] |= self.mask_of(features)
        masks["duplicate"] |= self.values("nearest_cosine") > DUPLICATE_ABOVE
        return masks


def written(column: str) -> str:
    """A statement for a column of what is written of the features of an SAE."""
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


def keep_first(db: Db, feature_set_id: str) -> None:
    """Read, and so keep, what a table asks for when it opens: after a set was written."""
    keys = FeatureKeys(db, FEATURE_SETS.get(db, feature_set_id))
    keys.bring_up_to_date()
    keys.order("frequency", descending=True)
    keys.keep()


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
