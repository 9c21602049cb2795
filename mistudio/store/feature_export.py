"""What is kept in the database of the features that are to be written or labelled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mistudio.core.errors import NotFound
from mistudio.core.ids import new_id, now
from mistudio.store.connection import Db
from mistudio.store.records import FeatureSetRow

BLOCK = 500  # features asked for in one statement
IMPORTED = "imported"  # the source of labels that another program gave


class Written(NamedTuple):
    """What the user and the labellers wrote about one feature; None where nothing is."""

    label: str | None = None
    source: str | None = None
    method: str | None = None
    model: str | None = None
    score: float | None = None
    score_n: int | None = None
    note: str | None = None
    is_favorite: bool = False
    is_hidden: bool = False
    lists: tuple[str, ...] = ()
    colour: str | None = None


def written_of(db: Db, sae_id: str, features: Sequence[int]) -> dict[int, Written]:
    """What is written about each of at most a few hundred features, by number."""
    marks = ", ".join("?" for _ in features)
    lists: dict[int, list[str]] = {}
    for feature, name in db.execute(
        "SELECT i.feature_index, l.name FROM feature_list_items i "
        "JOIN feature_lists l ON l.id = i.list_id "
        f"WHERE i.sae_id = ? AND i.feature_index IN ({marks}) ORDER BY l.name",
        [sae_id, *features],
    ):
        lists.setdefault(feature, []).append(name)
    rows = db.execute(
        "SELECT f.feature_index, f.label, l.source, l.method, l.model, l.score, l.score_n, "
        "f.notes, f.is_favorite, f.is_hidden, f.colour FROM features f "
        "LEFT JOIN feature_labels l ON l.id = f.label_id "
        f"WHERE f.sae_id = ? AND f.feature_index IN ({marks})",
        [sae_id, *features],
    )
    found = {row[0]: _written(row, tuple(lists.get(row[0], ()))) for row in rows}
    for feature in lists.keys() - found.keys():
        found[feature] = Written(lists=tuple(lists[feature]))
    return found


def _written(row: Sequence[Any], lists: tuple[str, ...]) -> Written:
    label, source, method, model, score, score_n, note, star, hidden, colour = row[1:]
    return Written(
        label,
        source,
        method,
        model,
        score,
        score_n,
        note,
        bool(star),
        bool(hidden),
        lists,
        colour,
    )


def chosen(db: Db, found: FeatureSetRow, which: str) -> list[int]:
    """Numbers of all, live, labelled or favourite features of a set, rising."""
    where = {
        "all": "1",
        "live": "s.count > 0",
        "labelled": "COALESCE(f.label, '') <> ''",
        "favourites": "f.is_favorite = 1",
    }[which]
    rows = db.execute(
        "SELECT s.feature_index FROM feature_statistics s "
        "LEFT JOIN features f ON f.sae_id = ? AND f.feature_index = s.feature_index "
        f"WHERE s.feature_set_id = ? AND {where} ORDER BY s.feature_index",
        [found.sae_id, found.id],
    )
    return [row[0] for row in rows]


def of_list(db: Db, sae_id: str, wanted: str) -> list[int]:
    """The features of an SAE in a list, named by id or name, in the list's order."""
    rows = list(
        db.execute(
            "SELECT id FROM feature_lists WHERE id = ? OR name = ? ORDER BY id = ? DESC LIMIT 1",
            [wanted, wanted, wanted],
        )
    )
    if not rows:
        raise NotFound(f"There is no list {wanted!r}.")
    items = db.execute(
        "SELECT feature_index FROM feature_list_items WHERE list_id = ? AND sae_id = ? "
        "ORDER BY position IS NULL, position, feature_index",
        [rows[0][0], sae_id],
    )
    return [row[0] for row in items]


def list_names(db: Db, sae_id: str) -> list[tuple[str, str, int]]:
    """Id, name and number of features of each list that holds features of an SAE, by name."""
    return [
        (row[0], row[1], row[2])
        for row in db.execute(
            "SELECT l.id, l.name, COUNT(*) FROM feature_lists l "
            "JOIN feature_list_items i ON i.list_id = l.id WHERE i.sae_id = ? "
            "GROUP BY l.id ORDER BY l.name",
            [sae_id],
        )
    ]


def labels_of(db: Db, sae_id: str, features: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
    """Every label of each feature, the shown one first: text, source, method, model, score."""
    marks = ", ".join("?" for _ in features)
    found: dict[int, list[dict[str, Any]]] = {}
    for row in db.query(
        "SELECT l.id, l.feature_index, l.text, l.source, l.method, l.model, l.score, l.created_at "
        "FROM feature_labels l LEFT JOIN features f "
        "ON f.sae_id = l.sae_id AND f.feature_index = l.feature_index "
        f"WHERE l.sae_id = ? AND l.feature_index IN ({marks}) "
        "ORDER BY l.feature_index, l.id = f.label_id DESC, l.created_at",
        [sae_id, *features],
    ):
        found.setdefault(row["feature_index"], []).append(row)
    return found


class Taken(NamedTuple):
    """What became of labels from elsewhere: added as the label shown, or beside another one."""

    shown: int
    beside: int
    repeated: int


def user_labelled(db: Db, sae_id: str) -> set[int]:
    """Features whose label is the user's own."""
    rows = db.execute(
        "SELECT f.feature_index FROM features f JOIN feature_labels l ON l.id = f.label_id "
        "WHERE f.sae_id = ? AND l.source = 'user'",
        [sae_id],
    )
    return {row[0] for row in rows}


def add_imported(db: Db, sae_id: str, labels: Iterable[Mapping[str, Any]]) -> Taken:
    """Keep labels of another program: `feature`, `text`, `method`, `model`, `note`.

    All are kept, in one transaction. The first of a feature becomes the one that is shown unless
    the feature has the user's own; a label that is there already is not kept twice.
    """
    users, stamp = user_labelled(db, sae_id), now()
    known = set(
        db.execute(
            "SELECT feature_index, text, COALESCE(method, ''), COALESCE(model, '') "
            "FROM feature_labels WHERE sae_id = ? AND source = ?",
            [sae_id, IMPORTED],
        ).fetchall()
    )
    shown: set[int] = set()
    beside = repeated = 0
    with db.atomic():
        for label in labels:
            feature, text = label["feature"], label["text"]
            key = (feature, text, label["method"] or "", label["model"] or "")
            if key in known:
                repeated += 1
                continue
            known.add(key)
            label_id = new_id("label")
            db.execute(
                "INSERT INTO feature_labels (id, sae_id, feature_index, text, source, method, "
                "model, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    label_id,
                    sae_id,
                    feature,
                    text,
                    IMPORTED,
                    key[2] or None,
                    key[3] or None,
                    stamp,
                    stamp,
                ],
            )
            if feature in users or feature in shown:
                beside += 1
                continue
            shown.add(feature)
            db.execute(
                "INSERT INTO features (sae_id, feature_index, label, label_id, created_at, "
                "updated_at) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (sae_id, feature_index) "
                "DO UPDATE SET label = excluded.label, label_id = excluded.label_id, "
                "updated_at = excluded.updated_at",
                [sae_id, feature, text, label_id, stamp, stamp],
            )
    return Taken(len(shown), beside, repeated)
