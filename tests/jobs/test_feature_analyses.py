"""A kept analysis is found again, and never after one of its inputs changed."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from mistudio.jobs import feature_analyses
from mistudio.jobs.runner import Studio
from mistudio.store.records import FeatureSetRow, SaeRow
from mistudio.store.tables import FEATURE_SETS, SAES


@pytest.fixture
def sae(studio: Studio) -> SaeRow:
    return SAES.insert(
        studio.db(),
        name="small",
        origin="training",
        encoder_type="sae",
        architecture="topk",
        d_in=4,
        d_out=4,
        n_latents=8,
        path="saes/small",
        weights_hash="w",
        status="ready",
    )


@pytest.fixture
def found(studio: Studio, sae: SaeRow) -> FeatureSetRow:
    return FEATURE_SETS.insert(
        studio.db(), sae_id=sae.id, config={}, store_hash="s", path="features/x", status="ready"
    )


class Counted:
    """An analysis that counts how often it runs."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self) -> dict[str, Any]:
        self.runs += 1
        return {"run": self.runs}


def test_the_second_call_is_not_computed(studio: Studio, sae: SaeRow, found: FeatureSetRow) -> None:
    compute = Counted()
    first = feature_analyses.kept(studio, sae, found, "k", 1, {"top": 5}, compute, feature=3)
    second = feature_analyses.kept(studio, sae, found, "k", 1, {"top": 5}, compute, feature=3)
    assert compute.runs == 1
    assert first == second
    assert second.result == {"run": 1}
    assert feature_analyses.known(studio, sae, found, "k", 1, {"top": 5}, feature=3) == first


@pytest.mark.parametrize("change", ["weights", "store", "version", "parameters", "feature", "kind"])
def test_a_changed_input_is_computed_anew(
    studio: Studio, sae: SaeRow, found: FeatureSetRow, change: str
) -> None:
    compute = Counted()
    feature_analyses.kept(studio, sae, found, "k", 1, {"top": 5}, compute, feature=3)
    other_sae = dataclasses.replace(sae, weights_hash="v") if change == "weights" else sae
    other = dataclasses.replace(found, store_hash="t") if change == "store" else found
    feature_analyses.kept(
        studio,
        other_sae,
        other,
        "j" if change == "kind" else "k",
        2 if change == "version" else 1,
        {"top": 6 if change == "parameters" else 5},
        compute,
        feature=4 if change == "feature" else 3,
    )
    assert compute.runs == 2


def test_an_analysis_is_computed_again_on_request(
    studio: Studio, sae: SaeRow, found: FeatureSetRow
) -> None:
    compute = Counted()
    for anew in (False, True):
        feature_analyses.kept(studio, sae, found, "k", 1, {}, compute, anew=anew)
    known = feature_analyses.known(studio, sae, found, "k", 1, {})
    assert known is not None
    assert known.result == {"run": 2}
