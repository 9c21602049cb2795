"""Sorting, filtering, searching and labelling features."""

from __future__ import annotations

from typing import Any

import pytest

from mistudio.store import feature_marks, features
from mistudio.store.database import Store
from mistudio.store.features import FeatureFilter
from mistudio.store.records import FeatureSetRow
from mistudio.store.tables import FEATURE_SETS, SAES

WORDS = ["thou art", "the king", "water", "king Henry", "lord's"]


@pytest.fixture
def found(store: Store) -> FeatureSetRow:
    db = store.db()
    sae = SAES.insert(
        db, name="a", origin="trained", encoder_type="sae", architecture="topk",
        d_in=2, d_out=2, n_latents=5, path="saes/a", status="ready",
    )  # fmt: skip
    made = FEATURE_SETS.insert(db, sae_id=sae.id, status="ready")
    rows: list[dict[str, Any]] = [
        {
            "feature_index": i,
            "count": 10 * i,
            "frequency": i / 100,
            "active_samples": i,
            "max": 5.0 - i,
            "mean": 1.0,
            "top_tokens": WORDS[i],
            "flags": "",
            "positive_tokens": "alpha" if i == 2 else "beta",
            "example": "[]",
        }
        for i in range(5)
    ]
    features.add_statistics(db, made.id, rows)
    return made


def ids(store: Store, found: FeatureSetRow, **values: Any) -> list[int]:
    sort = values.pop("sort", "index")
    descending = values.pop("descending", False)
    wanted = FeatureFilter(**values)
    return features.feature_ids(store.db(), found, wanted, sort=sort, descending=descending)


def test_order_and_filters(store: Store, found: FeatureSetRow) -> None:
    assert ids(store, found) == [1, 2, 3, 4], "feature 0 never fired"
    assert ids(store, found, live_only=False) == [0, 1, 2, 3, 4]
    assert ids(store, found, sort="max", descending=True) == [1, 2, 3, 4]
    assert ids(store, found, sort="frequency", descending=True) == [4, 3, 2, 1]
    assert ids(store, found, min_frequency=0.02, max_frequency=0.03) == [2, 3]


def test_search_in_tokens_labels_notes_and_numbers(store: Store, found: FeatureSetRow) -> None:
    db, sae = store.db(), found.sae_id
    assert ids(store, found, text="king") == [1, 3]
    assert ids(store, found, text="kin") == [1, 3], "the last word may be unfinished"
    assert ids(store, found, text="alpha") == [2]
    feature_marks.set_label(db, sae, 4, "rivers and seas")
    feature_marks.set_note(db, sae, 1, "about monarchs")
    assert ids(store, found, text="river") == [4]
    assert ids(store, found, text="monarchs") == [1]
    assert ids(store, found, text="#3") == [3]
    feature_marks.set_label(db, sae, 4, "mountains")
    assert ids(store, found, text="rivers") == []


@pytest.mark.parametrize("text", ['"', "a OR", "NEAR(", "'; DROP TABLE", "*", "-", "lord's", "^x:"])
def test_any_text_is_a_valid_search(store: Store, found: FeatureSetRow, text: str) -> None:
    assert isinstance(ids(store, found, text=text), list)


def test_a_users_label_is_never_replaced_by_another_source(
    store: Store, found: FeatureSetRow
) -> None:
    db, sae = store.db(), found.sae_id
    feature_marks.set_label(db, sae, 2, "machine's guess", source="auto")
    feature_marks.set_label(db, sae, 2, "my name")
    feature_marks.set_label(db, sae, 2, "another guess", source="auto")
    row = features.feature_rows(db, found, [2])[0]
    assert (row.label, row.label_source) == ("my name", "user")
    feature_marks.set_label(db, sae, 2, "")
    assert features.feature_rows(db, found, [2])[0].label is None


def test_stars_and_hidden_features(store: Store, found: FeatureSetRow) -> None:
    db, sae = store.db(), found.sae_id
    feature_marks.set_favorite(db, sae, 3, True)
    feature_marks.set_hidden(db, sae, 1, True)
    assert ids(store, found, favorites_only=True) == [3]
    assert ids(store, found) == [2, 3, 4]
    assert ids(store, found, show_hidden=True) == [1, 2, 3, 4]
    rows = features.feature_rows(db, found, [3, 1])
    assert [(r.index, r.is_favorite, r.is_hidden) for r in rows] == [
        (3, True, False),
        (1, False, True),
    ]


def test_labels_outlive_a_new_harvest(store: Store, found: FeatureSetRow) -> None:
    db = store.db()
    feature_marks.set_label(db, found.sae_id, 2, "my name")
    FEATURE_SETS.delete(db, found.id)
    again = FEATURE_SETS.insert(db, sae_id=found.sae_id, status="ready")
    row: dict[str, Any] = {"feature_index": 2, "count": 1, "frequency": 0.1, "top_tokens": "x"}
    features.add_statistics(db, again.id, [row])
    assert ids(store, again, text="name") == [2]
    assert ids(store, again, text="water") == [], "the old statistics left the index"
