"""Training in several processes from the command line, as torchrun starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mistudio.core.config import to_dict
from tests.helpers.processes import ROOT, free_port
from tests.helpers.studio import new_studio, tiny_studio, tiny_training

pytestmark = pytest.mark.heavy


@pytest.fixture
def home(tmp_path: Path) -> Path:
    tiny_studio(tmp_path).close()
    return tmp_path / "data"


def words(home: Path, *rest: str) -> list[str]:
    return ["-m", "mistudio.cli", "train", *rest, "--home", str(home), "--json"]


def config_file(folder: Path, name: str, **values: object) -> str:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(to_dict(tiny_training(name=name, seed=3, **values))))
    return str(path)


def rows_of(home: Path, result: dict[str, Any]) -> list[dict[str, Any]]:
    """The "training" rows that a run has left in the database."""
    from mistudio.jobs.metric_files import read_rows

    studio = new_studio(home)
    try:
        return read_rows(studio, result["training"])
    finally:
        studio.close()


def by_torchrun(home: Path, *rest: str) -> dict[str, Any]:
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2"]
    launcher += ["--master_addr", "127.0.0.1", "--master_port", str(free_port())]
    found = subprocess.run(
        [sys.executable, *launcher, *words(home, *rest)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    results = [json.loads(line) for line in found.stdout.splitlines() if '"result"' in line]
    assert len(results) == 1  # one of the two reports
    return results[0]
