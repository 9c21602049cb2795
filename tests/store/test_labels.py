"""Labels of features: what replaces what, and what never is."""

from __future__ import annotations

from typing import Any

import pytest

from mistudio.core.errors import NotFound
from mistudio.store import feature_marks, features, labels
from mistudio.store.database import Store
from mistudio.store.feature_conditions import NumberRange
from mistudio.store.features import FeatureFilter
from mistudio.store.records import FeatureSetRow
from mistudio.store.tables import FEATURE_SETS, SAES


@pytest.fixture
def found(store: Store) -> FeatureSetRow:
    db = store.db()
    sae = SAES.insert(
        db,
        name="s",
        origin="trained",
        encoder_type="sae",
        architecture="topk",
        d_in=4,
        d_out=4,
        n_latents=8,
        path="saes/s",
    )
    made = FEATURE_SETS.insert(db, sae_id=sae.id, status="ready", n_tokens=100)
    rows = [
        {"feature_index": i, "count": 10 if i < 6 else 0, "frequency": 0.1, "active_samples": 1}
        | {"max": 1.0, "mean": 0.5, "top_tokens": "", "flags": "", "positive_tokens": ""}
        | {"example": "[]"}
        for i in range(8)
    ]
    features.add_statistics(db, made.id, rows)
    return made


def rule(feature: int, text: str, auroc: float | None, *, chosen: bool = True) -> dict[str, Any]:
    scores = {"auroc": auroc, "positives": 20, "negatives": 30}
    method = "token" if chosen else "lens"
    told = {"method": method, "text": text, "chosen": chosen}
    return {"feature": feature, "scores": scores, **told}


def shown(store: Store, found: FeatureSetRow, feature: int) -> tuple[Any, ...]:
    row = features.feature_rows(store.db(), found, [feature])[0]
    return row.label, row.label_source, row.label_score, row.label_n


def test_rule_labels_are_chosen_and_replaced(store: Store, found: FeatureSetRow) -> None:
    db, sae = store.db(), found.sae_id
    made = [rule(0, "a", 0.9), rule(0, "b", 0.7, chosen=False), rule(1, "c", None)]
    labels.replace_auto(db, sae, made)
    assert shown(store, found, 0) == ("a", "auto", 0.9, 50)
    assert shown(store, found, 1) == ("c", "auto", None, 50)
    assert [(x.text, x.chosen) for x in labels.labels_of(db, sae, 0)] == [("a", True), ("b", False)]
    labels.replace_auto(db, sae, [rule(0, "new", 0.6)])
    assert shown(store, found, 0) == ("new", "auto", 0.6, 50)
    assert shown(store, found, 1) == (None, None, None, None), "its label is gone"
    assert len(labels.labels_of(db, sae, 0)) == 1


def test_a_users_label_is_never_replaced(store: Store, found: FeatureSetRow) -> None:
    db, sae = store.db(), found.sae_id
    labels.replace_auto(db, sae, [rule(0, "a", 0.9)])
    feature_marks.set_label(db, sae, 0, "mine")
    assert shown(store, found, 0) == ("mine", "user", None, None)
    labels.replace_auto(db, sae, [rule(0, "again", 0.95)])
    labels.add(db, sae, 0, "a model's", source="model", method="llm", model="m", score=0.99)
    assert shown(store, found, 0)[:2] == ("mine", "user")
    assert [x.text for x in labels.labels_of(db, sae, 0)] == ["mine", "a model's", "again"]
    feature_marks.set_label(db, sae, 0, "")
    labels.replace_auto(db, sae, [rule(0, "now", 0.5)])
    assert shown(store, found, 0)[0] == "now"
    assert "mine" in [x.text for x in labels.labels_of(db, sae, 0)], "it is still offered"


def test_a_choice_of_the_user_stays(store: Store, found: FeatureSetRow) -> None:
    db, sae = store.db(), found.sae_id
    labels.replace_auto(db, sae, [rule(0, "a", 0.9), rule(0, "b", 0.7, chosen=False)])
    other = next(x for x in labels.labels_of(db, sae, 0) if x.text == "b")
    labels.choose(db, sae, 0, other.id)
    assert shown(store, found, 0) == ("b", "auto", 0.7, 50)
    labels.replace_auto(db, sae, [rule(0, "c", 0.99)])
    labels.add(db, sae, 0, "a model's", source="model", method="llm", model="m")
    assert shown(store, found, 0)[0] == "b"
    with pytest.raises(NotFound):
        labels.choose(db, sae, 0, "lab_none")


def test_a_models_label_comes_before_rules_and_replaces_its_own(
    store: Store, found: FeatureSetRow
) -> None:
    db, sae = store.db(), found.sae_id
    labels.replace_auto(db, sae, [rule(2, "a", 0.9)])
    labels.add(db, sae, 2, "first", source="model", method="llm", model="m", prompt={"q": "?"})
    label_id = labels.add(db, sae, 2, "second", source="model", method="llm", model="m")
    labels.replace_auto(db, sae, [rule(2, "b", 0.9)])
    assert shown(store, found, 2)[:2] == ("second", "model")
    assert [x.text for x in labels.labels_of(db, sae, 2)] == ["second", "b"]
    labels.set_scores(db, label_id, 0.75, 100, {"detection": 0.75})
    assert shown(store, found, 2)[2:] == (0.75, 100)
    assert labels.labelled_by(db, sae, "llm", "m") == {2}


def test_interpretability_counts_live_features_only(store: Store, found: FeatureSetRow) -> None:
    db, sae = store.db(), found.sae_id
    assert labels.interpretability(db, found).share is None
    made = [rule(0, "a", 0.95), rule(1, "b", 0.8), rule(2, "c", None), rule(7, "dead", 1.0)]
    labels.replace_auto(db, sae, made)
    shown = labels.interpretability(db, found)
    assert (shown.live, shown.labelled, shown.scored, shown.above) == (6, 3, 2, 1)
    assert shown.share == pytest.approx(1 / 6)
    assert shown.counts[19] == 1
    assert shown.counts[16] == 1
    assert sum(shown.counts) == 2
    assert shown.methods == {"token": 3}


def test_features_sort_by_score_with_unscored_last(store: Store, found: FeatureSetRow) -> None:
    labels.replace_auto(store.db(), found.sae_id, [rule(1, "b", 0.5), rule(3, "a", 0.9)])
    for descending, expected in ((True, [3, 1]), (False, [1, 3])):
        ids = features.feature_ids(
            store.db(), found, FeatureFilter(), sort="score", descending=descending
        )
        assert ids[:2] == expected


def test_scores_by_rules_and_by_a_model_stand_beside_the_chosen_labels(
    store: Store, found: FeatureSetRow
) -> None:
    db, sae = store.db(), found.sae_id
    made = [rule(1, "b", 0.5), rule(1, "c", 0.7, chosen=False), rule(3, "a", 0.6)]
    labels.replace_auto(db, sae, made)
    label_id = labels.add(db, sae, 1, "by a model", source="model", method="llm", model="m")
    labels.set_scores(db, label_id, 0.4, 100, {"detection": 0.4})
    feature_marks.set_label(db, sae, 3, "mine")
    rows = features.feature_rows(db, found, [1, 3, 5])
    assert [(r.label_score, r.rule_score, r.model_score) for r in rows] == [
        (0.4, 0.7, 0.4),
        (None, 0.6, None),
        (None, None, None),
    ]
    by_rules = features.feature_ids(db, found, FeatureFilter(), sort="rule_score")
    assert by_rules[:2] == [1, 3]
    high = FeatureFilter(conditions=(NumberRange("rule_score", 0.65, None),))
    assert features.feature_ids(db, found, high) == [1]
