"""Sort keys and conditions of the feature table, against plain Python over the same rows."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from mistudio.core.errors import InvalidInput
from mistudio.store import feature_conditions, feature_marks, features
from mistudio.store.connection import Db
from mistudio.store.database import Store
from mistudio.store.feature_conditions import (
    HasFlag,
    InList,
    LabelState,
    Matches,
    NumberRange,
)
from mistudio.store.feature_keys import keys_of
from mistudio.store.feature_neighbours import Nearest, write_nearest
from mistudio.store.features import FeatureFilter
from mistudio.store.records import FeatureSetRow
from mistudio.store.tables import FEATURE_SETS, SAES

WORDS = ["Harbour", "whale", "king", "apple", "Öl", "apple"]
N = 60


def rows() -> list[dict[str, Any]]:
    draw = random.Random(4)
    made: list[dict[str, Any]] = []
    for i in range(N):
        live = i % 7 != 0
        made.append(
            {
                "feature_index": i,
                "count": draw.randint(1, 20) if live else 0,
                "frequency": draw.random() if live else 0.0,
                "active_samples": draw.randint(1, 5),
                "max": round(draw.random(), 1) if live else 0.0,
                "mean": draw.random(),
                "mean_all": draw.random(),
                "skew": draw.gauss(0, 1) if i % 3 else None,
                "kurtosis": draw.random(),
                "top_token": draw.choice(WORDS) if live else None,
                "top_token_share": draw.random() if live else None,
                "top_tokens": draw.choice(WORDS) + " two",
                "positive_tokens": draw.choice(WORDS),
                "negative_tokens": None,
                "flags": "" if live else "dead",
                "example": "[]",
            }
        )
    made[5]["flags"] = "dense, single-token"
    return made


@pytest.fixture
def found(store: Store) -> FeatureSetRow:
    db = store.db()
    sae = SAES.insert(
        db, name="a", origin="trained", encoder_type="sae", architecture="topk",
        d_in=2, d_out=2, n_latents=N, path="saes/a", status="ready",
    )  # fmt: skip
    for _ in range(2):  # another set, so that row ids and features differ
        made = FEATURE_SETS.insert(db, sae_id=sae.id, status="ready")
        features.add_statistics(db, made.id, iter(rows()))
    return made


def listed(db: Db, found: FeatureSetRow, *conditions: Any, **values: Any) -> list[int]:
    sort, descending = values.pop("sort", "index"), values.pop("descending", False)
    wanted = FeatureFilter(conditions=conditions, **{"live_only": False, **values})
    return features.feature_ids(db, found, wanted, sort=sort, descending=descending)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("name", ["max", "skew", "top_token_share", "mean_all", "kurtosis"])
def test_numbers_sort_with_the_unknown_last(
    store: Store, found: FeatureSetRow, name: str, descending: bool
) -> None:
    sign = -1 if descending else 1
    expected = sorted(
        rows(), key=lambda row: (row[name] is None, sign * (row[name] or 0.0), row["feature_index"])
    )
    got = listed(store.db(), found, sort=name, descending=descending)
    assert got == [row["feature_index"] for row in expected]


@pytest.mark.parametrize("descending", [False, True])
def test_texts_sort_whatever_their_case_and_ties_by_index(
    store: Store, found: FeatureSetRow, descending: bool
) -> None:
    known = [row for row in rows() if row["top_token"]]
    missing = [row["feature_index"] for row in rows() if not row["top_token"]]
    known.sort(key=lambda row: row["top_token"].lower(), reverse=descending)
    expected = [row["feature_index"] for row in known] + missing
    assert listed(store.db(), found, sort="top_token", descending=descending) == expected


def test_every_column_sorts(store: Store, found: FeatureSetRow) -> None:
    for name in features.SORT_COLUMNS:
        assert sorted(listed(store.db(), found, sort=name)) == list(range(N)), name


def test_ranges_flags_and_their_combination(store: Store, found: FeatureSetRow) -> None:
    db, all_rows = store.db(), rows()
    low, high = NumberRange("max", low=0.3), NumberRange("skew", high=0.0)

    def expected(keep: Any) -> list[int]:
        return [row["feature_index"] for row in all_rows if keep(row)]

    def is_low(row: dict[str, Any]) -> bool:
        return row["max"] >= 0.3

    def is_high(row: dict[str, Any]) -> bool:
        return row["skew"] is not None and row["skew"] <= 0

    assert listed(db, found, low) == expected(is_low)
    assert listed(db, found, low, high) == expected(lambda r: is_low(r) and is_high(r))
    assert listed(db, found, low, high, any_of=True) == expected(lambda r: is_low(r) or is_high(r))
    assert listed(db, found, HasFlag("dead")) == expected(lambda r: r["count"] == 0)
    assert listed(db, found, HasFlag("dead", on=False)) == expected(lambda r: r["count"] > 0)
    assert listed(db, found, HasFlag("single-token")) == [5]
    assert listed(db, found, HasFlag("duplicate")) == []
    assert listed(db, found, within=[9, 3, 999]) == [3, 9]
    assert listed(db, found, within=[]) == []


def test_label_states_scores_and_expressions(store: Store, found: FeatureSetRow) -> None:
    db, sae = store.db(), found.sae_id
    feature_marks.set_label(db, sae, 4, "Kings of England")
    feature_marks.set_label(db, sae, 9, "rivers", source="auto")
    assert listed(db, found, LabelState("user")) == [4]
    assert listed(db, found, LabelState("auto")) == [9]
    assert len(listed(db, found, LabelState("none"))) == N - 2
    assert listed(db, found, sort="label")[:2] == [4, 9]
    db.execute("UPDATE feature_labels SET score = 0.75 WHERE feature_index = 9")
    assert listed(db, found, NumberRange("score", low=0.7)) == [9], "revisions follow every writer"
    assert features.feature_rows(db, found, [9])[0].label_score == 0.75
    assert listed(db, found, Matches("label", r"^kings? of")) == [4]
    expected = [r["feature_index"] for r in rows() if re.search("w.a|ö", r["top_tokens"], re.I)]
    assert listed(db, found, Matches("tokens", "w.a|ö")) == expected
    with pytest.raises(InvalidInput, match="no regular expression"):
        listed(db, found, Matches("label", "(a"))
    with pytest.raises(InvalidInput, match="no regular expression"):
        listed(db, found, Matches("note", "(?=a)"))


def test_keys_follow_what_is_written(store: Store, found: FeatureSetRow) -> None:
    db = store.db()
    assert listed(db, found, NumberRange("max", low=5)) == []
    before = keys_of(db, found).values("max")
    feature_marks.set_favorite(db, found.sae_id, 8, True)
    assert listed(db, found, favorites_only=True) == [8]
    assert keys_of(db, found).values("max") is before, "statistics are not read again for a star"
    db.execute("UPDATE feature_statistics SET max = 6 WHERE feature_index = 8")
    assert listed(db, found, NumberRange("max", low=5)) == [8]
    features.add_statistics(db, found.id, rows()[:3])
    assert listed(db, found) == [0, 1, 2]


def test_a_replacing_writer_is_seen_each_time(store: Store, found: FeatureSetRow) -> None:
    db = store.db()
    for on in (1, 0, 1):
        db.execute(
            "INSERT OR REPLACE INTO features (sae_id, feature_index, is_favorite, created_at, "
            "updated_at) VALUES (?, 2, ?, '', '')",
            [found.sae_id, on],
        )
        assert listed(db, found, favorites_only=True) == [2] * on


def test_columns_that_an_analysis_brings_are_read_once_they_are_there(
    store: Store, found: FeatureSetRow
) -> None:
    db = store.db()
    if not any(
        row[1] == "nearest_cosine" for row in db.execute("PRAGMA table_info(feature_statistics)")
    ):
        db.execute("ALTER TABLE feature_statistics ADD COLUMN nearest_cosine REAL")
    db.execute("UPDATE feature_statistics SET nearest_cosine = 0.95 WHERE feature_index = 11")
    assert listed(db, found, HasFlag("duplicate")) == [11]
    assert listed(db, found, sort="nearest_cosine", descending=True)[0] == 11
    assert features.feature_rows(db, found, [11])[0].nearest_cosine == 0.95


def test_conditions_survive_json() -> None:
    conditions = (
        NumberRange("max", 1.5),
        HasFlag("dead", False),
        LabelState("none"),
        InList("fl_1", False),
        Matches("label", "a+"),
    )
    assert feature_conditions.from_json(feature_conditions.to_json(conditions)) == conditions
    assert feature_conditions.from_json([{"kind": "range", "colour": 1}, {"kind": "x"}, 3]) == ()
    assert feature_conditions.from_json(None) == ()


class _Asked:
    """The statements that a connection ran."""

    def __init__(self, db: Db) -> None:
        self.statements: list[str] = []
        db.conn.set_trace_callback(self.statements.append)

    def rows_read(self) -> int:
        return sum("FROM feature_statistics" in sql for sql in self.statements)


def test_a_table_opens_from_kept_keys_without_reading_rows(
    store: Store, found: FeatureSetRow
) -> None:
    expected = listed(store.db(), found, sort="frequency", descending=True)
    store.release()
    asked = _Asked(store.db())
    assert listed(store.db(), found, sort="frequency", descending=True) == expected
    assert expected == [
        row["feature_index"]
        for row in sorted(rows(), key=lambda row: (-row["frequency"], row["feature_index"]))
    ]
    assert asked.rows_read() == 0
    listed(store.db(), found, sort="tokens")
    assert asked.rows_read() == 1
    keys_of(store.db(), found).keep()
    store.release()
    asked = _Asked(store.db())
    by_tokens = listed(store.db(), found, sort="tokens")
    assert asked.rows_read() == 0
    tokens = {row["feature_index"]: row["top_tokens"].lower() for row in rows()}
    assert by_tokens == sorted(tokens, key=lambda index: (tokens[index], index))


def test_a_table_opens_from_kept_keys_after_an_analysis(store: Store, found: FeatureSetRow) -> None:
    effect = {"ablation_ce": 0.5, "ablation_kl": 0.1, "ablation_percentile": 9.0, "ablation_p": 0.5}
    for write in (
        lambda: features.set_ablation(store.db(), found.id, [{"feature_index": 3, **effect}]),
        lambda: write_nearest(store.db(), found.id, [Nearest(4, 7, 0.99, True)]),
    ):
        write()
        store.release()
        asked = _Asked(store.db())
        assert len(listed(store.db(), found, sort="frequency", descending=True)) == N
        assert asked.rows_read() == 0
    assert listed(store.db(), found, sort="ablation_ce")[0] == 3


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM feature_keys",
        "DELETE FROM feature_keys WHERE name = 'rowids'",
        "DELETE FROM feature_keys WHERE name = 'frequency falling'",
        "UPDATE feature_keys SET data = zeroblob(length(data))",
        "UPDATE feature_keys SET data = substr(data, 9) WHERE name <> 'indices'",
        "UPDATE feature_keys SET dtype = '<c16'",
        "UPDATE feature_keys SET revision = revision + 1",
    ],
)
def test_absent_or_damaged_keys_are_read_from_the_rows(
    store: Store, found: FeatureSetRow, damage: str
) -> None:
    expected = [
        listed(store.db(), found, sort=sort, descending=True, min_frequency=0.2)
        for sort in ("frequency", "count", "max")
    ]
    keys_of(store.db(), found).keep()
    store.db().execute(damage)
    store.release()
    for sort, order in zip(("frequency", "count", "max"), expected, strict=True):
        got = listed(store.db(), found, sort=sort, descending=True, min_frequency=0.2)
        assert got == order, sort


def test_kept_keys_of_before_a_write_are_not_taken(store: Store, found: FeatureSetRow) -> None:
    db = store.db()
    listed(db, found, sort="max")
    keys_of(db, found).keep()
    db.execute(
        "UPDATE feature_statistics SET max = 9, frequency = 7 "
        "WHERE feature_index = 41 AND feature_set_id = ?",
        [found.id],
    )
    for _ in range(2):  # read anew, then from what that kept
        store.release()
        for sort in ("max", "frequency"):
            order = listed(store.db(), found, sort=sort, descending=True)
            assert order[0] == 41
            assert len(order) == N
        keys_of(store.db(), found).keep()
    features.add_statistics(store.db(), found.id, iter(rows()[:30]))
    store.release()
    assert len(listed(store.db(), found, sort="frequency")) == 30


def test_keys_are_left_unkept_while_another_writes(store: Store, found: FeatureSetRow) -> None:
    store.db().execute("DELETE FROM feature_keys")
    other = Store(store.path, store.path.parent / "backups")
    with other.db().atomic():
        assert len(listed(store.db(), found, sort="max")) == N
        keys_of(store.db(), found).keep()
    assert store.db().execute("SELECT COUNT(*) FROM feature_keys").fetchone()[0] == 0
    assert store.db().execute("PRAGMA busy_timeout").fetchone()[0] == 5000
    other.close()


def test_keys_that_were_read_before_a_write_are_not_kept(
    store: Store, found: FeatureSetRow
) -> None:
    store.db().execute("DELETE FROM feature_keys")
    listed(store.db(), found, sort="max")
    keys = keys_of(store.db(), found)
    other = Store(store.path, store.path.parent / "backups")
    other.db().execute("UPDATE feature_statistics SET max = 9 WHERE feature_index = 41")
    other.close()
    keys.keep()
    assert store.db().execute("SELECT COUNT(*) FROM feature_keys").fetchone()[0] == 0


def test_keys_go_with_their_set(store: Store, found: FeatureSetRow) -> None:
    FEATURE_SETS.delete(store.db(), found.id)
    left = store.db().execute("SELECT DISTINCT feature_set_id FROM feature_keys").fetchall()
    assert left
    assert found.id not in [row[0] for row in left]
