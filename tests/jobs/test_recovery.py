"""After a killed process no row says that it is being worked on."""

from __future__ import annotations

import shutil

from mistudio.core.dataset_configs import ImportDatasetConfig
from mistudio.jobs.runner import Studio
from mistudio.store import jobs, trainings
from mistudio.store.tables import DATASETS, JOBS, SAES, TOKENIZATIONS, TRAININGS
from tests.helpers.studio import tiny_training

GONE = 2**22 - 3  # beyond any process id in use here


def test_half_made_rows_and_files_go(trained: Studio) -> None:
    db = trained.db()
    half = DATASETS.insert(db, name="half", source="local", status="ingesting")
    folder = trained.paths.dataset(half.id)
    folder.mkdir()
    whole = DATASETS.named(db, "stories")
    tokens = TOKENIZATIONS.insert(
        db,
        dataset_id=whole.id,
        tokenizer_name="t",
        settings_hash="h",
        context=8,
        status="tokenizing",
    )
    training = TRAININGS.named(db, "last")
    TRAININGS.update(db, training.id, status="training")
    trained.recover()
    assert DATASETS.find(db, half.id) is None
    assert not folder.exists()
    assert TOKENIZATIONS.find(db, tokens.id) is None
    assert TRAININGS.get(db, training.id).status == "interrupted"
    assert DATASETS.get(db, whole.id).status == "ready"


def test_figures_that_were_being_written_go_unless_a_job_is_at_it(trained: Studio) -> None:
    import os

    db = trained.db()
    sae = trained.paths.sae(TRAININGS.named(db, "last").sae_id or "")
    torn = sae / ".evaluation.json.abc.tmp"
    torn.write_text("{")
    job = jobs.add_job(db, "evaluate", "gpu", "x", {"sae": "last"})
    jobs.claim(db, job.id, os.getpid())
    trained.recover()
    assert torn.exists()
    JOBS.update(db, job.id, status="failed")
    trained.recover()
    assert not torn.exists()
    assert (sae / "evaluation.json").is_file()


def test_what_a_living_job_works_on_stays(trained: Studio) -> None:
    import os

    db = trained.db()
    half = DATASETS.insert(db, name="half", source="local", status="ingesting")
    job = jobs.add_job(db, "import_dataset", "io", "x", {"path": "x"})
    jobs.claim(db, job.id, os.getpid())
    trained.recover()
    assert DATASETS.find(db, half.id) is not None


def test_a_killed_import_can_be_resumed(trained: Studio) -> None:
    db = trained.db()
    path = trained.paths.tmp / "x.txt"
    path.write_text("one\n\ntwo\n\nthree")
    job = trained.submit("import_dataset", ImportDatasetConfig(path=str(path)))
    jobs.claim(db, job, GONE)
    assert [lost.id for lost in trained.recover()] == [job]
    trained.request(job, "resume")
    assert trained.execute(job) == "completed"
    assert (JOBS.get(db, job).result or {})["samples"] == 3


def test_an_import_killed_while_indexing_goes_on_with_its_dataset(trained: Studio) -> None:
    db = trained.db()
    path = trained.paths.tmp / "x.txt"
    path.write_text("one\n\ntwo\n\nthree")
    job = trained.submit("import_dataset", ImportDatasetConfig(path=str(path)))
    assert trained.execute(job) == "completed"
    made = str(JOBS.get(db, job).target_id)
    folder = trained.paths.dataset(made)
    (folder / "search.db").unlink()
    (folder / ".search.db.abc.tmp").write_text("half of an index")
    DATASETS.update(db, made, is_indexed=0)
    JOBS.update(db, job, status="running", pid=GONE)
    trained.recover()
    assert not list(folder.glob(".search.db.*"))
    before = len(DATASETS.select(db))
    trained.request(job, "resume")
    assert trained.execute(job) == "completed"
    assert (JOBS.get(db, job).result or {})["dataset"] == made
    assert len(DATASETS.select(db)) == before
    assert (folder / "search.db").is_file()


def test_what_a_killed_training_was_writing_goes(trained: Studio) -> None:
    db = trained.db()
    training = TRAININGS.named(db, "last")
    run = trained.paths.run(training.id)
    kept = trainings.checkpoints(db, training.id)
    sae = trained.paths.sae(training.sae_id or "")
    orphan = sae.with_name("sae_orphan")
    shutil.copytree(sae, orphan)
    foreign = sae.with_name("sae_foreign")  # of a training that this database does not know
    shutil.copytree(sae, foreign)
    card = foreign / "card.json"
    card.write_text(card.read_text().replace(training.id, "tr_unknown"))
    half = [
        run / "checkpoints" / ".step_00000040.abc.tmp",
        run / "checkpoints" / ".step_00000040.abc.old",
        run / "checkpoints" / "step_00000041",  # one that was being removed
        run / ".sae_x.tmp",
        run / "calibration",
    ]
    for folder in half:
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
    (run / ".config.json.abc.tmp").write_text("{")
    (run / "window-L1.resid_post.bin").write_bytes(b"0" * 100)
    shutil.rmtree(trained.paths.absolute(kept[0].path))
    TRAININGS.update(db, training.id, status="training")
    trained.recover()
    assert TRAININGS.get(db, training.id).status == "interrupted"
    assert sorted(p.name for p in run.iterdir()) == [
        "checkpoints", "config.json", "log.jsonl", "statistics.json",
    ]  # fmt: skip
    left = {row.step for row in trainings.checkpoints(db, training.id)}
    assert left == {row.step for row in kept[1:]}, "no row without its files"
    assert {p.name for p in (run / "checkpoints").iterdir()} == {f"step_{n:08d}" for n in left}
    assert not orphan.exists()
    assert foreign.is_dir()
    assert (sae / "sae_weights.safetensors").is_file()


def test_a_job_whose_training_had_ended_is_completed(trained: Studio) -> None:
    db = trained.db()
    job = JOBS.select(db, "kind = 'train'")[0]
    JOBS.update(db, job.id, status="running", pid=GONE, result=None)
    assert trained.recover() == []
    found = JOBS.get(db, job.id)
    assert found.status == "completed"
    assert (found.result or {})["sae"] == TRAININGS.get(db, job.target_id or "").sae_id


def test_a_training_whose_process_ended_while_it_was_queued_goes_on(trained: Studio) -> None:
    job = trained.submit("train", tiny_training(tokens=640))
    training = JOBS.get(trained.db(), job).target_id or ""
    assert trained.resume_training(training) == job
    TRAININGS.update(trained.db(), training, status="interrupted")  # killed between the two rows
    assert trained.resume_training(training) == job
    assert trained.execute(job) == "completed"
    sae = SAES.get(trained.db(), TRAININGS.get(trained.db(), training).sae_id or "")
    assert sae.checkpoint_step == 10
