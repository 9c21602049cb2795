"""Harvests from stored activations, the choice among feature sets, one harvest at a time."""

from __future__ import annotations

import pytest

from mistudio.core.configs import HarvestConfig
from mistudio.core.errors import InUse, Mismatch
from mistudio.core.events import RecordingReporter
from mistudio.core.model_configs import ExtractConfig
from mistudio.jobs import feature_pages, harvest_source, lookup
from mistudio.jobs.deletion import delete_feature_set
from mistudio.jobs.runner import Studio
from mistudio.store import features
from mistudio.store.features import FeatureFilter
from mistudio.store.tables import ACTIVATION_SETS, FEATURE_SETS, SAES
from tests.helpers.studio import run

ROWS = HarvestConfig(rows=64, context=32)


def extract(studio: Studio, name: str, **values: object) -> None:
    config = {"model": "tiny", "dataset": "stories", "layers": "1", "name": name, "batch": 32}
    run(studio, "extract_activations", ExtractConfig(**{**config, **values}))  # type: ignore[arg-type]


def test_stored_activations_give_what_the_model_gives(trained: Studio) -> None:
    extract(trained, "exact", dtype="fp32")
    extract(trained, "rounded", dtype="fp16")
    sae = lookup.sae(trained, "last")
    live = features.feature_sets(trained.db(), sae.id)[0]
    assert {s.name for s in harvest_source.fitting_sets(trained.db(), sae)} == {"exact", "rounded"}
    exact = run(trained, "harvest", HarvestConfig(rows=64, context=32, activations="exact"))
    first = feature_pages.find(trained, sae, FeatureFilter(live_only=False))
    assert exact["tokens"] == live.n_tokens
    assert exact["live_features"] == live.n_live
    assert sum(row.count for row in first) > 0
    report = RecordingReporter()
    run(trained, "harvest", HarvestConfig(rows=64, context=32, activations="rounded"), report)
    said = [str(event.values.get("sentence")) for event in report.events]
    assert any("stored in fp16" in sentence for sentence in said)


def test_a_set_of_other_hooks_is_refused_before_it_is_queued(trained: Studio) -> None:
    extract(trained, "elsewhere", layers="2")
    with pytest.raises(Mismatch, match="nothing of layer 1"):
        trained.submit("harvest", HarvestConfig(activations="elsewhere"))
    extract(trained, "here")
    row = ACTIVATION_SETS.named(trained.db(), "here")
    ACTIVATION_SETS.update(trained.db(), row.id, model_id=None)
    with pytest.raises(Mismatch, match="not of tiny"):
        trained.submit("harvest", HarvestConfig(activations="here"))


def test_the_batch_and_free_shapes_reach_the_store(trained: Studio) -> None:
    db = trained.db()
    strict = features.feature_sets(db, lookup.sae(trained, "last").id)[0]
    same = run(trained, "harvest", HarvestConfig(rows=64, context=32, batch_size=40))
    assert same["store_hash"] == strict.store_hash
    fast = run(trained, "harvest", HarvestConfig(rows=64, context=32, batch_size=24, fast=True))
    found = FEATURE_SETS.get(db, str(fast["feature_set"])).summary or {}
    assert (found["fast"], found["tile_rows"]) == (True, 24)
    assert found["n_tokens"] == strict.n_tokens
    pending = {"status": "extracting"}
    FEATURE_SETS.update(db, str(fast["feature_set"]), **pending)
    FEATURE_SETS.update(db, str(same["feature_set"]), **pending)
    again = run(trained, "harvest", HarvestConfig(rows=64, context=32))
    assert again["feature_set"] == same["feature_set"], "another batch goes on with the same set"
    assert FEATURE_SETS.find(db, str(fast["feature_set"])) is None, "free shapes do not"


def test_one_harvest_of_an_sae_at_a_time(trained: Studio) -> None:
    sae = lookup.sae(trained, "last")
    job = trained.submit("harvest", HarvestConfig(sae=sae.id, rows=64, context=32))
    with pytest.raises(InUse, match="being found already"):
        trained.submit("harvest", HarvestConfig(sae=sae.id))
    trained.request(job, "cancel")
    trained.submit("harvest", HarvestConfig(sae=sae.id))


def test_the_set_in_use_is_the_newest_or_the_chosen(trained: Studio) -> None:
    sae = lookup.sae(trained, "last")
    db = trained.db()
    first = features.feature_sets(db, sae.id)[0]
    second = str(run(trained, "harvest", HarvestConfig(rows=32, context=32))["feature_set"])
    newest = features.newest_set(db, sae.id)
    assert newest is not None
    assert newest.id == second
    assert (newest.summary or {})["seconds"] > 0
    features.choose_set(db, first.id)
    assert [found.id for found in features.feature_sets(db, sae.id)] == [first.id, second]
    assert feature_pages.page(trained, sae, 0).feature_set_id == first.id
    delete_feature_set(trained, first.id)
    assert feature_pages.page(trained, sae, 0).feature_set_id == second
    assert not trained.paths.feature_set(first.id).exists()


def test_the_estimate_of_bytes_is_near_what_is_written(trained: Studio) -> None:
    sae = lookup.sae(trained, "last")
    found = features.feature_sets(trained.db(), sae.id)[0]
    l0 = (found.summary or {})["l0"]
    sae = SAES.get(trained.db(), sae.id)
    size, used = harvest_source.estimated_bytes(sae, ROWS)
    assert used == pytest.approx(l0, rel=0.3)
    vocabulary = (trained.paths.feature_set(found.id) / "vocabulary.arrow").stat().st_size
    assert found.size_bytes is not None
    assert size == pytest.approx(found.size_bytes - vocabulary, rel=0.25)
    assert FEATURE_SETS.get(trained.db(), found.id).chosen_at is None


def test_masks_are_those_of_the_training(trained: Studio) -> None:
    sae = lookup.sae(trained, "last")
    SAES.update(trained.db(), sae.id, config={**(sae.config or {}), "norm_cut": 1.0})
    made = run(trained, "harvest", HarvestConfig(rows=32, context=32))
    found = FEATURE_SETS.get(trained.db(), str(made["feature_set"]))
    summary = found.summary or {}
    assert summary["settings"]["norm_cut"] == 1.0
    assert summary["masked"]["extreme"] > summary["n_all"] // 4
    assert summary["n_tokens"] + sum(summary["masked"].values()) == summary["n_all"]
