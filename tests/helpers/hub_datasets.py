"""Dataset repositories on the local Hub, and what came of downloading them."""

from __future__ import annotations

import io
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mistudio.core.dataset_configs import DownloadDatasetConfig
from mistudio.jobs.runner import Studio
from mistudio.ml.data.text import TextStore
from mistudio.store.records import DatasetRow
from mistudio.store.tables import DATASETS
from tests.helpers.local_hub import LocalHub
from tests.helpers.studio import run

CARD = (
    b"---\nlicense: mit\nconfigs:\n- config_name: en\n  data_files:\n  - split: train\n"
    b"    path: en/*.jsonl\n- config_name: de\n  default: true\n  data_files:\n"
    b"  - split: train\n    path: de/train.csv\n  - split: test\n    path: de/test.csv\n"
    b"---\n# Two\n\nTwo languages.\n"
)


def rows(count: int, words: int = 8) -> list[dict[str, Any]]:
    """Rows that no compression makes small."""
    chance = random.Random(count)
    return [
        {"id": i, "title": f"T{i}", "text": f"{i} " + " ".join(
            f"{chance.getrandbits(40):x}" for _ in range(words))}
        for i in range(count)
    ]  # fmt: skip


def jsonl(made: list[dict[str, Any]]) -> bytes:
    return "\n".join(json.dumps(row) for row in made).encode()


def parquet(made: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(made), sink)
    return sink.getvalue()


def download(studio: Studio, repo: str, **values: Any) -> DatasetRow:
    result = run(studio, "download_dataset", DownloadDatasetConfig(repo=repo, **values))
    return DATASETS.get(studio.db(), result["dataset"])


def texts(studio: Studio, row: DatasetRow) -> list[str]:
    store = TextStore(studio.paths.dataset(row.id))
    return store.texts(0, len(store))


def languages(hub: LocalHub) -> None:
    hub.add("datasets", "o/two", {
        "README.md": CARD,
        "en/a.jsonl": jsonl(rows(30)),
        "de/train.csv": b"nr,content\n1,Guten Tag\n2,Hallo\n",
        "de/test.csv": b"nr,content\n3,Ja\n",
    })  # fmt: skip


def nothing_is_stored(studio: Studio) -> bool:
    folder = studio.paths.home / "datasets"
    left = [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []
    return not DATASETS.select(studio.db()) and not left


def part_bytes(hf_home: Path) -> int:
    """Bytes of the beginnings of files that were written."""
    return sum(path.stat().st_size for path in hf_home.rglob("*.part"))


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)
