"""A full disk is a sentence; nothing half written stays, and what was there stays whole."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mistudio.core import atomic
from mistudio.core.config import Config
from mistudio.core.configs import ExportSaeConfig, HarvestConfig
from mistudio.core.dataset_configs import ImportDatasetConfig, TokenizeConfig
from mistudio.core.errors import DiskFull, StudioError
from mistudio.core.events import RecordingReporter
from mistudio.jobs.runner import Studio
from mistudio.ml.training import learner as learning
from mistudio.store import trainings
from mistudio.store.tables import DATASETS, FEATURE_SETS, JOBS, SAES, TOKENIZATIONS, TRAININGS
from tests.helpers.studio import run, tiny_training


def import_(folder: Path) -> Config:
    (folder / "more.txt").write_text("one\n\ntwo\n\nthree")
    return ImportDatasetConfig(path=str(folder / "more.txt"))


CASES: dict[str, Callable[[Path], Config]] = {
    "import_dataset": import_,
    "tokenize": lambda folder: TokenizeConfig(dataset="stories", model="tiny", context=8),
    "train": lambda folder: tiny_training(tokens=640),
    "harvest": lambda folder: HarvestConfig(rows=32, context=32, seed=9),
    "export_sae": lambda folder: ExportSaeConfig(out=str(folder / "out")),
}


def working(studio: Studio) -> list[str]:
    """Files of the data folder that hold results, without logs and the database."""
    kept = ("datasets", "saes", "features")
    return sorted(
        str(path.relative_to(studio.paths.home))
        for name in kept
        for path in (studio.paths.home / name).rglob("*")
    )


@pytest.mark.parametrize("kind", CASES)
def test_nothing_half_written_stays(
    trained: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    tables = (DATASETS, TOKENIZATIONS, SAES, FEATURE_SETS)
    rows = [len(table.select(trained.db())) for table in tables]
    files = working(trained)
    config = CASES[kind](tmp_path)

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(atomic, "fsync_path", full)
        with pytest.raises(StudioError) as caught:
            run(trained, kind, config)
    assert caught.value.code == DiskFull.code
    assert "Free some space" in caught.value.sentence
    assert [len(table.select(trained.db())) for table in tables] == rows
    assert working(trained) == files
    assert not (tmp_path / "out").exists()
    assert JOBS.select(trained.db())[0].status == "failed"
    assert TRAININGS.named(trained.db(), "last").status in ("completed", "failed")
    newest = TRAININGS.named(trained.db(), "last")
    if kind == "train":
        assert list(trained.paths.checkpoints(newest.id).glob("*")) == []


def test_metric_rows_wait_for_room(trained: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    """No checkpoint is written that is ahead of the rows; the run and every row come through."""
    written, saved = trainings.add_metrics, learning.save_checkpoint
    rows: dict[int, int] = {}
    tries: list[int] = []

    def add(db: Any, training: Any, found: Any) -> None:
        tries.append(len(found))
        if len(tries) in (2, 3):
            raise sqlite3.OperationalError("database or disk is full")
        written(db, training, found)

    def save(folder: Path, checkpoint: Any) -> Path:
        rows[checkpoint.step] = len(trainings.metrics(trained.db(), folder.name))
        return saved(folder, checkpoint)

    monkeypatch.setattr(trainings, "add_metrics", add)
    monkeypatch.setattr(learning, "save_checkpoint", save)
    report = RecordingReporter()
    result = run(trained, "train", tiny_training(), report)
    assert result["outcome"] == "completed"
    assert rows[100] == 10
    assert all(count == step // 10 for step, count in rows.items())
    told = [str(e.values["sentence"]) for e in report.events if e.kind == "note"]
    assert any("The training goes on without this checkpoint" in text for text in told)
    steps = [row["step"] for row in trainings.metrics(trained.db(), result["training"])]
    assert steps == list(range(10, 101, 10))


def test_a_log_that_finds_no_room_ends_no_run(
    trained: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def full(path: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
        if path.name == "log.jsonl" and mode == "a":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return opened(path, mode, *rest, **named)

    monkeypatch.setattr(Path, "open", full)
    assert run(trained, "train", tiny_training(tokens=640))["outcome"] == "completed"
