"""What features are about, as text: for searching them by meaning, or by shared words."""

from __future__ import annotations

import re

from mistudio.store.connection import Db
from mistudio.store.records import FeatureSetRow


def texts(db: Db, feature_set: FeatureSetRow) -> list[tuple[int, str]]:
    """Feature and text of each that has a label or top tokens: the label, else the tokens."""
    rows = db.execute(
        "SELECT s.feature_index, COALESCE(NULLIF(f.label, ''), s.top_tokens) "
        "FROM feature_statistics s "
        "LEFT JOIN features f ON f.sae_id = ? AND f.feature_index = s.feature_index "
        "WHERE s.feature_set_id = ? AND COALESCE(NULLIF(f.label, ''), s.top_tokens, '') <> '' "
        "ORDER BY s.feature_index",
        [feature_set.sae_id, feature_set.id],
    ).fetchall()
    return [(row[0], row[1]) for row in rows]


def by_words(db: Db, feature_set: FeatureSetRow, text: str, limit: int) -> list[tuple[int, float]]:
    """Features that share words with a text in label, note, top or promoted tokens, best first.

    The score is BM25 as SQLite computes it (larger is better), summed over the two indices.
    """
    words = [word for word in re.findall(r"\w+", text) if word]
    if not words:
        return []
    query = " OR ".join(f'"{word}"' for word in words)
    scores: dict[int, float] = {}
    for sql, parameters in (
        (
            "SELECT f.feature_index, -bm25(features_fts) FROM features_fts w "
            "CROSS JOIN features f ON f.id = w.rowid WHERE features_fts MATCH ? AND f.sae_id = ? "
            "AND EXISTS (SELECT 1 FROM feature_statistics s WHERE s.feature_set_id = ? "
            "AND s.feature_index = f.feature_index)",
            [query, feature_set.sae_id, feature_set.id],
        ),
        (
            "SELECT s.feature_index, -bm25(feature_statistics_fts) FROM feature_statistics_fts w "
            "CROSS JOIN feature_statistics s ON s.id = w.rowid "
            "WHERE feature_statistics_fts MATCH ? AND s.feature_set_id = ?",
            [query, feature_set.id],
        ),
    ):
        for feature, score in db.execute(sql, parameters):
            scores[feature] = scores.get(feature, 0.0) + score
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:limit]
