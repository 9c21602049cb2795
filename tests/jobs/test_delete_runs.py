"""Deleting several runs: what is told before, what goes, what stays."""

from __future__ import annotations

import pytest

from mistudio.core.atomic import directory_bytes
from mistudio.jobs.delete_runs import delete_runs, of_runs
from mistudio.jobs.runner import Studio
from mistudio.store import trainings
from mistudio.store.jobs import add_job
from mistudio.store.records import TrainingRow
from mistudio.store.tables import CHECKPOINTS, JOBS, SAES, TRAININGS


def add_run(studio: Studio, name: str, status: str, bytes_kept: int) -> TrainingRow:
    """A run without curves whose folder holds one checkpoint of so many bytes."""
    row = TRAININGS.insert(
        studio.db(),
        name=name,
        encoder_type="sae",
        architecture="topk",
        layer=1,
        hook="resid_post",
        config={},
        status=status,
    )
    place = studio.paths.run(row.id) / "checkpoints" / "step_1"
    place.mkdir(parents=True)
    (place / "weights").write_bytes(bytes(bytes_kept))
    trainings.record_checkpoint(
        studio.db(), row.id, 1, "p", size_bytes=bytes_kept, loss=1.0, l0=2.0, is_best=True
    )
    return row


def test_what_is_told_is_what_goes(trained: Studio) -> None:
    db = trained.db()
    own = TRAININGS.select(db)[0]
    paused, failed = add_run(trained, "p", "paused", 1000), add_run(trained, "f", "failed", 500)
    busy = add_run(trained, "b", "training", 70)
    job = add_job(db, "train", "gpu", "Train b", {}, target_id=busy.id)
    JOBS.update(db, job.id, status="running")
    waiting = add_job(db, "train", "gpu", "Train p", {}, target_id=paused.id)
    JOBS.update(db, waiting.id, status="paused")
    sae = str(own.sae_id)
    ids = [own.id, paused.id, failed.id, busy.id, "tr_gone", own.id]
    found = of_runs(trained, ids)
    runs = trained.paths.run(own.id).parent
    before = directory_bytes(runs)
    size_of_own = directory_bytes(trained.paths.run(own.id))
    assert found.ids == (own.id, paused.id, failed.id)
    assert found.size_bytes == size_of_own + 1500
    kept = len(trainings.checkpoints(db, own.id))
    assert (found.checkpoints, found.busy, found.unfinished) == (kept + 2, ["b"], ["p"])
    assert found.saes == [SAES.get(db, sae).name]
    assert found.title == "Delete 3 runs?"
    for part in ("“p” and “f”", f"{kept + 2} checkpoints", "never resumed: “p”.", "1 SAE.", "“b”."):
        assert part in found.sentences
    assert delete_runs(trained, found.ids) == ([own.id, paused.id, failed.id], [])
    assert [row.id for row in TRAININGS.select(db)] == [busy.id]
    assert before - directory_bytes(runs) == found.size_bytes
    assert not trained.paths.run(paused.id).exists()
    assert JOBS.get(db, waiting.id).status == "cancelled"
    assert not CHECKPOINTS.select(db, "training_id = ?", [own.id])
    assert SAES.get(db, sae).training_id is None


def test_a_run_that_began_to_work_meanwhile_stays(trained: Studio) -> None:
    db = trained.db()
    runs = [add_run(trained, name, "stopped", 10) for name in "ab"]
    found = of_runs(trained, [run.id for run in runs])
    job = add_job(db, "train", "gpu", "Train a", {}, target_id=runs[0].id)
    JOBS.update(db, job.id, status="running")
    gone, refused = delete_runs(trained, found.ids)
    assert gone == [runs[1].id]
    assert len(refused) == 1
    assert "the running job 'Train a'" in refused[0]
    assert trained.paths.run(runs[0].id).is_dir()


@pytest.mark.parametrize("count", [1, 7])
def test_names_are_listed_up_to_five(trained: Studio, count: int) -> None:
    runs = [add_run(trained, f"r{i}", "failed", 0) for i in range(count)]
    told = of_runs(trained, [run.id for run in runs]).sentences
    assert ("“r0”." if count == 1 else "“r4” and 2 more.") in told
    assert "The run" not in told
