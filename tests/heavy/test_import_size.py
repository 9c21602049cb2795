"""Imports of large files: speed, and memory that does not grow with the file."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mistudio.jobs.bench_search import bench_search

pytestmark = pytest.mark.heavy

_IMPORT = """
import resource, sys
from pathlib import Path
from mistudio.core.control import JobControl
from mistudio.core.dataset_configs import ImportDatasetConfig
from mistudio.core.events import SilentReporter
from mistudio.core.paths import Paths
from mistudio.jobs.import_dataset import import_rows
from mistudio.jobs.runner import Studio

studio = Studio(Paths.at(Path(sys.argv[2])))
config = ImportDatasetConfig(path=sys.argv[1])
row = import_rows(studio, config, SilentReporter(), JobControl(), source="local")
studio.close()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def made(folder: Path, size: int) -> Path:
    """A jsonl file of about `size` bytes, with words that repeat as in a language."""
    import random

    chance = random.Random(0)
    words = ["".join(chance.choices("etaoinshrdlu", k=chance.randint(2, 9))) for _ in range(20_000)]
    path, written = folder / f"{size}.jsonl", 0
    with path.open("w", encoding="utf-8") as stream:
        while written < size:
            texts = [" ".join(chance.choices(words, k=chance.randint(50, 400))) for _ in range(100)]
            block = "".join(json.dumps({"n": written, "text": t + " é漢"}) + "\n" for t in texts)
            stream.write(5 * block)
            written += 5 * len(block)
    return path


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    peaks: list[int] = []
    for size in (100_000_000, 500_000_000):
        path, began = made(tmp_path, size), time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", _IMPORT, str(path), str(tmp_path / f"home{size}")],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout))
        assert size / (time.monotonic() - began) > 1e9 / 60, "less than 1 GB in a minute"
    assert max(peaks) < 1_000_000_000
    assert peaks[1] < 1.3 * peaks[0]


def test_search_of_a_million_samples() -> None:
    figures = bench_search(1_000_000)
    assert figures["page_ms"] < 100
    slow = {name: value for name, value in figures.items() if name.endswith("_ms") and value >= 300}
    assert not slow
