"""After a killed process no row says that it is being worked on."""

from __future__ import annotations

from mistudio.core.dataset_configs import ImportDatasetConfig
from mistudio.jobs.runner import Studio
from mistudio.store import jobs
from mistudio.store.tables import DATASETS, JOBS, TOKENIZATIONS, TRAININGS

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
