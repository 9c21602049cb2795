"""Labels of features: several each, one chosen; what the user wrote or chose is never replaced."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mistudio.core.errors import NotFound
from mistudio.core.ids import new_id, now
from mistudio.store.connection import Db
from mistudio.store.records import FeatureSetRow

AUTO, MODEL, USER, IMPORTED = "auto", "model", "user", "imported"
INTERPRETABLE = 0.8  # a chosen label with a higher score makes its feature interpretable
BINS = 20  # of the distribution of scores, from 0 to 1
CHUNK = 2000  # labels written in one transaction


@dataclass(frozen=True)
class Label:
    """One label of a feature.

    `score` is the held-out one (None: not scored) over `score_n` tokens or texts; `scores` all
    that was measured; `prompt` what a model was asked; `chosen` whether it is the feature's.
    """

    id: str
    index: int
    text: str
    source: str
    method: str | None
    model: str | None
    author: str | None
    score: float | None
    score_n: int | None
    scores: dict[str, Any]
    prompt: Any
    made_at: str
    chosen: bool


class Interpretability(NamedTuple):
    """Scores of the chosen labels of live features.

    `edges` and `counts` are their distribution; `methods` the number of chosen labels by method.
    """

    live: int
    labelled: int
    scored: int
    above: int
    edges: list[float]
    counts: list[int]
    methods: dict[str, int]

    @property
    def share(self) -> float | None:
        """Share of live features with a score above `INTERPRETABLE`; None before any is scored."""
        return self.above / self.live if self.live and self.scored else None


def labels_of(db: Db, sae_id: str, feature: int) -> list[Label]:
    """All labels of a feature: the chosen one, then the user's, then by falling score."""
    rows = db.query(
        "SELECT l.*, COALESCE(f.label_id = l.id, 0) AS chosen FROM feature_labels l "
        "LEFT JOIN features f ON f.sae_id = l.sae_id AND f.feature_index = l.feature_index "
        "WHERE l.sae_id = ? AND l.feature_index = ? "
        "ORDER BY chosen DESC, l.source = 'user' DESC, l.score IS NULL, l.score DESC, "
        "l.created_at DESC",
        [sae_id, feature],
    )
    return [_label(row) for row in rows]


def _label(row: Mapping[str, Any]) -> Label:
    return Label(
        row["id"],
        int(row["feature_index"]),
        row["text"],
        row["source"],
        row["method"],
        row["model"],
        row["author"],
        row["score"],
        row["score_n"],
        json.loads(row["scores"] or "{}"),
        json.loads(row["prompt"]) if row["prompt"] else None,
        row["updated_at"],
        bool(row["chosen"]),
    )


def replace_auto(db: Db, sae_id: str, made: Sequence[Mapping[str, Any]]) -> int:
    """Write rule labels in place of earlier ones; returns for how many features one is proposed.

    Each has `feature`, `method`, `text`, `scores` and `chosen`. A label that the user chose stays,
    and a feature keeps a chosen label that is not automatic.
    """
    with db.atomic():
        db.execute(
            "DELETE FROM feature_labels WHERE sae_id = ? AND source = 'auto' AND id NOT IN "
            "(SELECT label_id FROM features WHERE sae_id = ? AND label_pinned = 1 "
            "AND label_id IS NOT NULL)",
            [sae_id, sae_id],
        )
    chosen = 0
    for start in range(0, len(made), CHUNK):
        chosen += _write_auto(db, sae_id, made[start : start + CHUNK])
    with db.atomic():
        db.execute(
            "UPDATE features SET label = NULL, label_id = NULL, label_score = NULL, updated_at = ? "
            "WHERE sae_id = ? AND label_id IS NOT NULL AND NOT EXISTS "
            "(SELECT 1 FROM feature_labels l WHERE l.id = features.label_id)",
            [now(), sae_id],
        )
    return chosen


def _write_auto(db: Db, sae_id: str, made: Sequence[Mapping[str, Any]]) -> int:
    stamp = now()
    rows, chosen = list[list[Any]](), list[list[Any]]()
    for label in made:
        label_id, scores = new_id("label"), label["scores"]
        n = scores.get("positives", 0) + scores.get("negatives", 0)
        score, index = scores.get("auroc"), label["feature"]
        made_of = (label["text"], label["method"], score, n, _json(scores))
        rows.append([label_id, sae_id, index, *made_of, stamp, stamp])
        if label["chosen"]:
            chosen.append([label["text"], label_id, score, stamp, sae_id, index])
    with db.atomic():
        db.conn.executemany(
            "INSERT INTO feature_labels (id, sae_id, feature_index, text, source, method, score, "
            "score_n, scores, created_at, updated_at) "
            "VALUES (?, ?, ?, ?, 'auto', ?, ?, ?, ?, ?, ?)",
            rows,
        )
        db.conn.executemany(
            "INSERT OR IGNORE INTO features (sae_id, feature_index, created_at, updated_at) "
            "VALUES (?, ?, ?, ?)",
            [[sae_id, row[-1], stamp, stamp] for row in chosen],
        )
        # what stands there and is not automatic has been asked for by someone
        db.conn.executemany(
            "UPDATE features SET label = ?, label_id = ?, label_score = ?, updated_at = ? "
            "WHERE sae_id = ? AND feature_index = ? AND label_pinned = 0 AND NOT EXISTS (SELECT 1 "
            "FROM feature_labels l WHERE l.id = features.label_id AND l.source != 'auto')",
            chosen,
        )
    return len(chosen)


def set_output(db: Db, sae_id: str, feature: int, text: str, output: Mapping[str, Any]) -> bool:
    """Keep what steering showed of the chosen label, if it still reads `text`; whether it did."""
    rows = db.execute(
        "SELECT l.id, l.scores FROM features f JOIN feature_labels l ON l.id = f.label_id "
        "WHERE f.sae_id = ? AND f.feature_index = ? AND l.text = ?",
        [sae_id, feature, text],
    ).fetchall()
    if not rows:
        return False
    scores = {**json.loads(rows[0][1] or "{}"), "output": dict(output)}
    with db.atomic():
        db.execute("UPDATE feature_labels SET scores = ? WHERE id = ?", [_json(scores), rows[0][0]])
    return True


def add(
    db: Db,
    sae_id: str,
    feature: int,
    text: str,
    *,
    source: str,
    method: str = "",
    model: str = "",
    author: str = "",
    score: float | None = None,
    score_n: int | None = None,
    scores: Mapping[str, Any] | None = None,
    prompt: Any = None,
) -> str:
    """Keep a label of a model or of an import, in place of an earlier one of the same source,
    method and model; it is chosen unless the user wrote or chose one. Returns its id."""
    text, stamp, label_id = " ".join(text.split())[:512], now(), new_id("label")
    with db.atomic():
        db.execute(
            "INSERT OR IGNORE INTO features (sae_id, feature_index, created_at, updated_at) "
            "VALUES (?, ?, ?, ?)",
            [sae_id, feature, stamp, stamp],
        )
        db.execute(
            "DELETE FROM feature_labels WHERE sae_id = ? AND feature_index = ? AND source = ? "
            "AND COALESCE(method, '') = ? AND COALESCE(model, '') = ? AND source != 'user' AND id "
            "NOT IN (SELECT label_id FROM features WHERE sae_id = ? AND feature_index = ? "
            "AND label_pinned = 1 AND label_id IS NOT NULL)",
            [sae_id, feature, source, method, model, sae_id, feature],
        )
        db.execute(
            "INSERT INTO feature_labels (id, sae_id, feature_index, text, source, method, model, "
            "author, score, score_n, scores, prompt, created_at, updated_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                *(label_id, sae_id, feature, text, source, method, model or None, author or None),
                *(score, score_n, _json(dict(scores or {})), _json(prompt), stamp, stamp),
            ],
        )
        db.execute(
            "UPDATE features SET label = ?, label_id = ?, label_score = ?, updated_at = ? "
            "WHERE sae_id = ? AND feature_index = ? AND label_pinned = 0 AND NOT EXISTS "
            "(SELECT 1 FROM feature_labels l WHERE l.id = features.label_id AND l.source = 'user')",
            [text, label_id, score, stamp, sae_id, feature],
        )
    return label_id


def choose(db: Db, sae_id: str, feature: int, label_id: str) -> None:
    """Make a label the feature's, as the user's own choice; raises `NotFound`."""
    found = [one for one in labels_of(db, sae_id, feature) if one.id == label_id]
    if not found:
        raise NotFound("This label is gone; the feature was labelled anew.")
    label = found[0]
    with db.atomic():
        db.execute(
            "UPDATE features SET label = ?, label_id = ?, label_score = ?, label_pinned = 1, "
            "updated_at = ? WHERE sae_id = ? AND feature_index = ?",
            [label.text, label.id, label.score, now(), sae_id, feature],
        )


def set_scores(
    db: Db, label_id: str, score: float | None, n: int | None, scores: Mapping[str, Any]
) -> None:
    """Keep what a label scored, also where it is the chosen one."""
    stamp = now()
    written = _json(dict(scores))
    with db.atomic():
        db.execute(
            "UPDATE feature_labels SET score = ?, score_n = ?, scores = ?, updated_at = ? "
            "WHERE id = ?",
            [score, n, written, stamp, label_id],
        )
        db.execute(
            "UPDATE features SET label_score = ?, updated_at = ? WHERE label_id = ?",
            [score, stamp, label_id],
        )


def labelled_by(db: Db, sae_id: str, method: str, model: str, since: str = "") -> set[int]:
    """Features that have a label of a method and model, made at `since` (ISO 8601) or later."""
    rows = db.execute(
        "SELECT DISTINCT feature_index FROM feature_labels "
        "WHERE sae_id = ? AND method = ? AND model = ? AND created_at >= ?",
        [sae_id, method, model, since],
    ).fetchall()
    return {int(row[0]) for row in rows}


def interpretability(db: Db, feature_set: FeatureSetRow) -> Interpretability:
    """How the chosen labels of a feature set's live features score."""
    rows = db.execute(
        "SELECT f.label_score, l.method, l.id IS NOT NULL FROM feature_statistics s "
        "LEFT JOIN features f ON f.sae_id = ? AND f.feature_index = s.feature_index "
        "LEFT JOIN feature_labels l ON l.id = f.label_id "
        "WHERE s.feature_set_id = ? AND s.count > 0",
        [feature_set.sae_id, feature_set.id],
    ).fetchall()
    scores = [row[0] for row in rows if row[0] is not None]
    methods: dict[str, int] = {}
    for _, method, labelled in rows:
        if labelled:
            methods[method or USER] = methods.get(method or USER, 0) + 1
    return Interpretability(
        len(rows),
        sum(methods.values()),
        len(scores),
        sum(score > INTERPRETABLE for score in scores),
        [step / BINS for step in range(BINS + 1)],
        _counts(scores),
        methods,
    )


def _counts(scores: Iterable[float]) -> list[int]:
    counts = [0] * BINS
    for score in scores:
        counts[min(BINS - 1, int(score * BINS))] += 1
    return counts


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)
