"""Lists of features, and saved views of the table."""

from __future__ import annotations

from typing import Any

import pytest

from mistudio.core.errors import InvalidInput, NotFound
from mistudio.store import feature_lists, feature_marks, feature_views, features
from mistudio.store.connection import Db
from mistudio.store.database import Store
from mistudio.store.feature_conditions import InList, NumberRange
from mistudio.store.features import FeatureFilter
from mistudio.store.records import FeatureSetRow
from mistudio.store.tables import FEATURE_SETS, SAES


def add_set(db: Db, name: str) -> FeatureSetRow:
    sae = SAES.insert(
        db, name=name, origin="trained", encoder_type="sae", architecture="topk",
        d_in=2, d_out=2, n_latents=5, path="saes/a", status="ready",
    )  # fmt: skip
    made = FEATURE_SETS.insert(db, sae_id=sae.id, status="ready")
    rows: list[dict[str, Any]] = [
        {"feature_index": i, "count": 1, "frequency": 0.1, "max": 1.0} for i in range(700)
    ]
    features.add_statistics(db, made.id, rows)
    return made


def listed(db: Db, found: FeatureSetRow, *conditions: Any, sort: str = "index") -> list[int]:
    wanted = FeatureFilter(conditions=conditions)
    return features.feature_ids(db, found, wanted, sort=sort, descending=sort == "lists")


def test_lists_hold_features_of_several_saes(store: Store) -> None:
    db = store.db()
    first, second = add_set(db, "first"), add_set(db, "second")
    made = feature_lists.create(db, "  places  ", "of the map")
    assert feature_lists.add(db, made.id, first.sae_id, [4, 2]) == 2
    assert feature_lists.add(db, made.id, first.sae_id, [2, 9]) == 1
    feature_lists.add(db, made.id, second.sae_id, [3])
    assert listed(db, first, InList(made.id)) == [2, 4, 9]
    assert 2 not in listed(db, first, InList(made.id, on=False))
    assert listed(db, second, InList(made.id)) == [3]
    assert listed(db, first, NumberRange("lists", low=1)) == [2, 4, 9]
    assert len(listed(db, first, NumberRange("lists", high=0))) == 697
    feature_lists.set_note(db, made.id, first.sae_id, 2, "the best one")
    feature_marks.set_label(db, first.sae_id, 2, "rivers")
    items = feature_lists.items(db, made.id)
    assert [(item.sae_name, item.feature) for item in items] == [
        ("first", 4), ("first", 2), ("first", 9), ("second", 3),
    ]  # fmt: skip
    assert (items[1].label, items[1].note) == ("rivers", "the best one")
    assert [(f.name, f.count) for f in feature_lists.lists(db)] == [("places", 4)]
    assert features.feature_rows(db, first, [2])[0].lists == "places"
    assert feature_lists.lists_of(db, first.sae_id, 2) == [made.id]
    feature_lists.remove(db, made.id, first.sae_id, [2])
    assert listed(db, first, InList(made.id)) == [4, 9]
    feature_lists.delete(db, made.id)
    assert listed(db, first, InList(made.id)) == []
    assert listed(db, first, NumberRange("lists", low=1)) == []


def test_names_of_lists_are_unique_and_words(store: Store) -> None:
    db = store.db()
    one = feature_lists.create(db, "one")
    two = feature_lists.create(db, "two")
    with pytest.raises(InvalidInput, match="already"):
        feature_lists.create(db, "one")
    with pytest.raises(InvalidInput, match="already"):
        feature_lists.rename(db, two.id, "one")
    with pytest.raises(InvalidInput, match="1 to 255"):
        feature_lists.create(db, " ")
    feature_lists.rename(db, one.id, "one", "with words")
    feature_lists.rename(db, one.id, "three")
    assert feature_lists.named(db, "three").description == "with words"
    assert feature_lists.named(db, two.id).name == "two"
    with pytest.raises(NotFound):
        feature_lists.named(db, "one")


def test_many_features_at_once(store: Store) -> None:
    db = store.db()
    found = add_set(db, "many")
    made = feature_lists.create(db, "all")
    assert feature_lists.add(db, made.id, found.sae_id, range(700)) == 700
    feature_lists.remove(db, made.id, found.sae_id, range(1, 700))
    assert listed(db, found, InList(made.id)) == [0]


def test_views_are_kept_replaced_renamed_and_deleted(store: Store) -> None:
    db = store.db()
    first = feature_views.save(db, "rare", {"sort": "max"})
    assert feature_views.save(db, "rare", {"sort": "skew"}) == first
    second = feature_views.save(db, "dense", {"columns": ["index"]})
    assert [view.config for view in feature_views.views(db)] == [
        {"columns": ["index"]}, {"sort": "skew"},
    ]  # fmt: skip
    with pytest.raises(InvalidInput, match="already"):
        feature_views.rename(db, second, "rare")
    feature_views.rename(db, second, "often")
    feature_views.delete(db, first)
    assert [view.name for view in feature_views.views(db)] == ["often"]
    with pytest.raises(InvalidInput, match="1 to 255"):
        feature_views.save(db, "", {})
