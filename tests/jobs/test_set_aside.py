"""Deletions that can be taken back: everything comes back, or goes for good, whatever happens."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mistudio.core.errors import InUse
from mistudio.core.paths import Paths
from mistudio.jobs import set_aside
from mistudio.jobs.runner import Studio
from mistudio.jobs.set_aside import finish, settle, take_all_back, take_back
from mistudio.store import feature_lists
from mistudio.store.jobs import add_job
from mistudio.store.tables import (
    ACTIVATION_SETS,
    CHECKPOINTS,
    DATASETS,
    JOBS,
    MODELS,
    STEERING_RUNS,
    STEERING_VECTORS,
    TEMPLATES,
    TOKENIZATIONS,
)
from tests.gui import feature_world
from tests.helpers.aside_kills import content, world


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    world(tmp_path / "home")
    made = Studio(Paths.at(tmp_path / "home"))
    yield made
    made.close()


def fill(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * 100)


def everything(studio: Studio) -> dict[str, str]:
    """An object of every kind, by its kind; with files, and with rows that name it."""
    db, paths = studio.db(), studio.paths
    made = feature_world.add_world(db)
    fill(paths.sae(made.sae.id) / "weights")
    fill(paths.feature_set(made.feature_set.id) / "rows")
    names = feature_lists.create(db, "mine", "")
    feature_lists.add(db, names.id, made.sae.id, [1, 2])
    dataset = DATASETS.named(db, "tales")
    fill(paths.dataset(dataset.id) / "text" / "a.arrow")
    (tokens,) = TOKENIZATIONS.select(db, "dataset_id = ?", [dataset.id])
    fill(paths.tokens(dataset.id, tokens.id) / "ids")
    run = next(iter(db.query("SELECT id FROM trainings")))["id"]
    model = MODELS.insert(db, name="alone", origin="folder", path="/no", status="ready")
    fill(paths.model(model.id) / "weights")
    acts = ACTIVATION_SETS.insert(
        db, name="kept", status="interrupted", model_id=model.id, tokenization_id=tokens.id
    )
    fill(paths.home / "activations" / f".{acts.id}.part" / "shard")
    job = add_job(db, "extract_activations", "gpu", "Extract", {}, target_id=acts.id)
    JOBS.update(db, job.id, status="interrupted")
    other = add_job(db, "extract_activations", "gpu", "Extract", {}, target_id="x")
    JOBS.update(db, other.id, status="failed", retry_of=job.id)
    vector = STEERING_VECTORS.insert(
        db,
        name="v",
        group_id="g",
        model_name="alone",
        layer=0,
        hook="resid_post",
        method="mean",
        width=4,
        norm=1.0,
        path="vectors/v.safetensors",
    )
    fill(paths.home / "vectors" / "v.safetensors")
    steered = STEERING_RUNS.insert(
        db, mode="blended", prompt="p", config={}, status="completed", sae_id=made.sae.id
    )
    template = TEMPLATES.insert(db, kind="training", name="t", config={})
    checkpoint = CHECKPOINTS.insert(
        db, training_id=run, step=5, path=f"runs/{run}/checkpoints/step_5", loss=0.5
    )
    fill(paths.run(run) / "checkpoints" / "step_5" / "w")
    return {
        "saes": made.sae.id,
        "feature_sets": made.feature_set.id,
        "datasets": dataset.id,
        "tokenizations": tokens.id,
        "models": model.id,
        "trainings": run,
        "activation_sets": acts.id,
        "steering_vectors": vector.id,
        "steering_runs": steered.id,
        "templates": template.id,
        "checkpoints": checkpoint.id,
    }


def test_every_kind_comes_back_as_it_was_or_goes_without_a_trace(studio: Studio) -> None:
    ids = everything(studio)
    assert set(ids) == set(set_aside.KINDS)
    db = studio.db()
    db.execute("UPDATE trainings SET status = 'completed'")  # an unfinished one needs its text
    # what shows its examples from the text would keep the text from being deleted
    db.execute("DELETE FROM feature_sets WHERE tokenization_id = ?", [ids["tokenizations"]])
    before = content(studio)
    for kind, object_id in ids.items():
        places = [p for p in set_aside.KINDS[kind].places(studio, object_id) if p.exists()]
        if kind != "checkpoints":  # its mirror reads the run's folder, which has no real one
            folder = set_aside.set_aside(studio, kind, object_id)
            aside = content(studio)
            assert aside != before, kind
            assert not any(place.exists() for place in places), kind
            assert object_id not in json.dumps(aside["rows"][kind]), kind
            take_back(studio, folder)
            assert content(studio) == before, kind
    assert not (studio.paths.home / "deleted").exists()
    for kind in ("saes", "trainings", "activation_sets", "datasets", "models", "templates"):
        finish(studio, set_aside.set_aside(studio, kind, ids[kind]))
    left = content(studio)
    assert left["files"] == ["vectors/v.safetensors"]
    assert [json.loads(row)["name"] for row in left["rows"]["saes"]] == ["sae"]
    for table in ("features", "feature_list_items", "checkpoints"):
        assert left["rows"][table] == [], table
    assert ids["tokenizations"] not in json.dumps(left["rows"]["tokenizations"])
    ended = [json.loads(row) for row in left["rows"]["jobs"]]
    assert sorted(job["status"] for job in ended) == ["cancelled", "cancelled", "failed"]
    assert settle(studio) is None


def test_what_is_needed_is_refused_and_stays(studio: Studio) -> None:
    before = content(studio)
    (tokens,) = TOKENIZATIONS.select(studio.db())
    with pytest.raises(InUse, match="is used by"):
        set_aside.set_aside(studio, "tokenizations", tokens.id)
    assert content(studio) == before


def test_an_undo_that_is_no_longer_possible_deletes(studio: Studio) -> None:
    db = studio.db()
    made = TEMPLATES.insert(db, kind="training", name="t", config={"k": 1})
    folder = set_aside.set_aside(studio, "templates", made.id)
    again = TEMPLATES.insert(db, kind="training", name="t", config={"k": 2})
    with pytest.raises(InUse, match="cannot be undone any more"):
        take_back(studio, folder)
    assert [row.id for row in TEMPLATES.select(db, "name = 't'")] == [again.id]
    assert not folder.exists()
    with pytest.raises(InUse, match="It is deleted"):
        take_back(studio, folder)
    finish(studio, folder)  # the banner of one that is settled may still go


def test_a_reference_to_what_was_deleted_meanwhile_is_left_empty(studio: Studio) -> None:
    ids = everything(studio)
    db = studio.db()
    sets = set_aside.set_aside(studio, "activation_sets", ids["activation_sets"])
    model = set_aside.set_aside(studio, "models", ids["models"])
    finish(studio, model)
    take_all_back(studio, [sets])
    row = ACTIVATION_SETS.get(db, ids["activation_sets"])
    assert (row.model_id, row.tokenization_id) == (None, ids["tokenizations"])


def test_several_come_back_but_for_those_that_cannot(studio: Studio) -> None:
    db = studio.db()
    made = [TEMPLATES.insert(db, kind="training", name=n, config={}) for n in ("a", "b")]
    folders = [set_aside.set_aside(studio, "templates", row.id) for row in made]
    TEMPLATES.insert(db, kind="training", name="a", config={})
    with pytest.raises(InUse):
        take_all_back(studio, folders)
    assert TEMPLATES.find(db, made[1].id) is not None


def test_a_start_leaves_alone_what_a_living_window_may_take_back(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = TEMPLATES.insert(studio.db(), kind="training", name="t", config={})
    folder = set_aside.set_aside(studio, "templates", made.id)
    settle(studio)
    assert folder.exists()
    plan: dict[str, Any] = json.loads((folder / "plan.json").read_text())
    assert plan["pid"] == os.getpid()
    (folder / "plan.json").write_text(json.dumps({**plan, "started": plan["started"] - 100}))
    settle(studio)  # the number is another process's now
    assert not folder.exists()
    assert TEMPLATES.find(studio.db(), made.id) is None
