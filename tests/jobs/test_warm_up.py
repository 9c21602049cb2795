"""What a window's lane imports ahead of a job, and how."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from mistudio.core.configs import DemoConfig
from mistudio.core.dataset_configs import ImportDatasetConfig
from mistudio.jobs import warm_up
from mistudio.jobs.registry import JOB_KINDS
from tests.helpers.studio import new_studio, stories_file

ORDER = """
import gc, sys
from mistudio.jobs import warm_up
from mistudio.system import garbage
full, told = [], []
gc.callbacks.append(lambda phase, info: info["generation"] == 2 and full.append(phase))
preload = warm_up.preload_torch
def watched():
    told.append("torch" in sys.modules)
    return preload()
warm_up.preload_torch = watched
garbage.keep_what_is_there()
frozen = gc.get_freeze_count()
full.clear()
warm_up.warm_up(warm_up.TORCH)
assert "transformers" not in sys.modules
warm_up.warm_up()
assert told[0] is False, "the libraries are loaded before the import"
assert not full, "a full collection ran while libraries were imported"
assert gc.get_freeze_count() > frozen + 100_000
assert all(name in sys.modules for name in warm_up.MODELS)
warm_up.warm_up()
assert len(told) == 2, "what is there is not imported again"
"""


def test_libraries_come_first_and_no_full_collection_between() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ORDER], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_job_without_tensors_imports_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warmed: list[str] = []
    monkeypatch.setattr(warm_up, "warm_up", lambda modules: warmed.append(modules[0]))
    studio = new_studio(tmp_path / "data")
    try:
        text = str(stories_file(tmp_path))
        warm_up.warm_up_for(studio, studio.submit("import_dataset", ImportDatasetConfig(path=text)))
        assert not warmed
        warm_up.warm_up_for(studio, studio.submit("demo", DemoConfig(tokens=20_000)))
        assert warmed == ["torch"]
    finally:
        studio.close()


def test_every_job_of_the_gpu_needs_tensors() -> None:
    assert all(known.ahead == "tensors" for known in JOB_KINDS.values() if known.lane == "gpu")


def test_a_library_that_is_broken_is_left_to_its_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_up, "_warm", set())
    monkeypatch.setattr(warm_up, "preload_torch", list)
    before = gc.get_threshold()
    warm_up.warm_up(("no_such_library", "torch"))
    assert gc.get_threshold() == before


def test_the_hub_is_imported_without_torch() -> None:
    code = """
import sys
from mistudio.jobs.warm_up import HUB, warm_up
warm_up(HUB)
assert "huggingface_hub" in sys.modules
assert not {"torch", "transformers"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
