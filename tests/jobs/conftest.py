"""A tiny studio with one trained SAE and its features, made once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mistudio.core.configs import HarvestConfig
from mistudio.core.paths import Paths
from mistudio.jobs.runner import Studio
from tests.helpers.hub import hf_home, hub  # noqa: F401
from tests.helpers.studio import new_studio, run, tiny_studio, tiny_training
from tests.helpers.survivors import base, nursery  # noqa: F401


@pytest.fixture(scope="session")
def trained_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with model, text, one BatchTopK SAE and its feature set."""
    home = tmp_path_factory.mktemp("trained")
    studio = tiny_studio(home)
    run(studio, "train", tiny_training())
    run(studio, "harvest", HarvestConfig(rows=64, context=32))
    studio.close()
    return home


@pytest.fixture
def trained(trained_home: Path, tmp_path: Path) -> Iterator[Studio]:
    """A copy of it that the test may change."""
    shutil.copytree(trained_home / "data", tmp_path / "data")
    studio = Studio(Paths.at(tmp_path / "data"))
    yield studio
    studio.close()


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    """A studio on an empty data folder."""
    made = new_studio(tmp_path / "data")
    yield made
    made.close()
