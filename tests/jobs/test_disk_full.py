"""A full disk is a sentence; nothing half written stays, and what was there stays whole."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from mistudio.core import atomic
from mistudio.core.config import Config
from mistudio.core.configs import ExportSaeConfig, HarvestConfig
from mistudio.core.dataset_configs import ImportDatasetConfig, TokenizeConfig
from mistudio.core.errors import DiskFull, StudioError
from mistudio.jobs.runner import Studio
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
