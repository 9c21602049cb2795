"""What takes room: sizes agree with the disk, users are counted, deletion frees what it says."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from mistudio.core.atomic import directory_bytes
from mistudio.core.errors import InUse, InvalidInput, NotFound
from mistudio.jobs import hub_pages, storage
from mistudio.jobs.hub_pages import CachedRepo
from mistudio.jobs.runner import Studio
from mistudio.store.tables import DATASETS, FEATURE_SETS, TOKENIZATIONS


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_pages, "cached_models", lambda studio: [])
    monkeypatch.setattr(hub_pages, "cached_datasets", lambda studio: [])


def test_every_item_has_its_size_and_its_users(trained: Studio) -> None:
    found = storage.usage(trained)
    by_kind = {item.kind: item for item in found.items}
    assert {"dataset", "tokenization", "training", "sae", "feature_set", "logs"} <= set(by_kind)
    home = trained.paths.home
    assert by_kind["training"].size_bytes == directory_bytes(home / "runs")
    assert by_kind["sae"].size_bytes == directory_bytes(home / "saes")
    assert by_kind["dataset"].used_by == "1 tokenisation"
    assert by_kind["tokenization"].used_by == "1 training, 1 feature set"
    assert by_kind["sae"].used_by == "1 feature set"
    sizes = [item.size_bytes for item in found.items]
    assert sizes == sorted(sizes, reverse=True)
    assert found.ours == sum(sizes)
    assert found.disk_free < found.disk_total


def test_deleting_frees_the_files_and_refuses_what_is_used(trained: Studio) -> None:
    keys = {item.kind: item.key for item in storage.usage(trained).items}
    with pytest.raises(InUse, match="the features of SAE"):
        storage.delete(trained, keys["tokenization"])
    folder = trained.paths.home / "features"
    assert directory_bytes(folder) > 0
    asked = storage.dependants_of(trained, keys["feature_set"])
    assert asked.size_bytes == directory_bytes(folder)
    storage.delete(trained, keys["feature_set"])
    assert directory_bytes(folder) == 0
    assert FEATURE_SETS.select(trained.db()) == []
    storage.delete(trained, keys["tokenization"])
    assert TOKENIZATIONS.select(trained.db()) == []
    storage.delete(trained, keys["dataset"])
    assert DATASETS.select(trained.db()) == []
    with pytest.raises(NotFound):
        storage.dependants_of(trained, keys["dataset"])
    with pytest.raises(InvalidInput):
        storage.delete(trained, "exports:all")


def test_a_cached_repository_is_deleted_by_its_commit(
    trained: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = CachedRepo("org/tiny", "model", "main", "c" * 40, 2000, 1234, Path("/cache"))
    gone: list[tuple[str, ...]] = []
    monkeypatch.setattr(hub_pages, "cached_models", lambda studio: [repo])
    monkeypatch.setattr(hub_pages, "delete_cached", lambda studio, *what: gone.append(what))
    item = next(i for i in storage.usage(trained).items if i.kind == "hub_model")
    assert (item.name, item.size_bytes) == ("org/tiny (main)", 1234)
    assert storage.dependants_of(trained, item.key).size_bytes == 1234
    storage.delete(trained, item.key)
    assert gone == [("model", "org/tiny", "c" * 40)]


def test_only_temporary_files_of_yesterday_go(trained: Studio) -> None:
    old, new = trained.paths.tmp / "old", trained.paths.tmp / "new.bin"
    old.mkdir()
    (old / "part").write_bytes(b"x" * 1000)
    new.write_bytes(b"y" * 10)
    os.utime(old, (time.time() - 90_000,) * 2)
    assert storage.clean_temporary(trained) == 1000
    assert [item.name for item in trained.paths.tmp.iterdir()] == ["new.bin"]


def test_the_disk_is_nearly_full_above_eighty_percent() -> None:
    assert not storage.is_nearly_full(20, 100)
    assert storage.is_nearly_full(19, 100)
    assert not storage.is_nearly_full(0, 0)
