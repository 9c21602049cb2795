"""Datasets of the Hub: preview, download, resume, cancel, limits, all against a local Hub."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mistudio.core.control import JobControl
from mistudio.core.dataset_configs import DownloadDatasetConfig
from mistudio.core.errors import (
    Cancelled,
    DiskFull,
    Gated,
    InUse,
    InvalidInput,
    NeedsToken,
    NoAnswer,
    NotFound,
    Offline,
    StudioError,
    Unsupported,
)
from mistudio.core.events import RecordingReporter
from mistudio.hub import setup
from mistudio.jobs.dataset_preview import preview
from mistudio.jobs.deletion import delete_dataset
from mistudio.jobs.runner import Studio
from mistudio.ml.data.text import TextStore
from mistudio.store.records import DatasetRow
from mistudio.store.tables import DATASETS, JOBS
from tests.helpers.local_hub import GOOD_TOKEN, LocalHub
from tests.helpers.studio import new_studio, run

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


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    made = new_studio(tmp_path / "data")
    yield made
    made.close()


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


def test_a_preview_tells_configs_splits_columns_and_first_rows(
    hub: LocalHub, studio: Studio
) -> None:
    languages(hub)
    found = preview(studio, "o/two")
    assert (found.configs, found.config) == (["en", "de"], "de")
    assert [(split.name, split.bytes) for split in found.splits] == [("train", 31), ("test", 16)]
    assert found.columns == {"nr": "number", "content": "text"}
    assert found.text_column == ("content",)
    assert found.first == [{"nr": "1", "content": "Guten Tag"}, {"nr": "2", "content": "Hallo"}]
    assert (found.licence, found.description) == ("mit", "Two languages.")
    assert found.size_bytes == 47
    assert not found.suggests_tokens
    english = preview(studio, "o/two", config="en", split="train")
    assert len(english.first) == 10
    assert english.text_column == ("text",)


def test_a_preview_stores_nothing(hub: LocalHub, studio: Studio, hf_home: Path) -> None:
    languages(hub)
    preview(studio, "o/two")
    assert [path for path in hf_home.rglob("*") if path.is_file()] == []
    assert nothing_is_stored(studio)


def test_large_datasets_are_warned_of(
    hub: LocalHub, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mistudio.jobs import hub_dataset

    languages(hub)
    monkeypatch.setattr(hub_dataset, "WARN_BYTES", 40)
    monkeypatch.setattr(hub_dataset, "LARGE_BYTES", 45)
    found = preview(studio, "o/two")
    assert found.warning == "This is a download of 47 B."
    assert found.suggests_tokens


@pytest.mark.parametrize(
    ("files", "values", "words"),
    [
        ({"script.py": b"x", "a.csv": b"a\n1"}, {}, "own loading script"),
        ({"README.md": b"# Empty"}, {}, "no files that can be read"),
        ({"a.jsonl": b'{"id": 1}\n'}, {}, r"No column holds text; found id \(number\)"),
        ({"a.csv": b"a,b\nx,y\n"}, {"config": "fr"}, "no config 'fr'"),
        ({"a.csv": b"a,b\nx,y\n"}, {"split": "test"}, "no split 'test'; found train"),
        ({"a.csv": b"a,b\nx,y\n"}, {"text_column": ("c",)}, "no column 'c'"),
        ({"a.csv": b"a,b\nx,y\n"}, {"revision": "v9"}, "no revision 'v9'"),
        ({"a.csv": b"a,b\n , \n"}, {}, "holds no text"),
        ({"a.parquet": b"broken"}, {}, "cannot be read"),
    ],
)
def test_what_cannot_be_had_is_said_and_leaves_nothing(
    hub: LocalHub, studio: Studio, files: dict[str, bytes], values: dict[str, Any], words: str
) -> None:
    hub.add("datasets", "o/script", files)
    with pytest.raises(StudioError, match=words) as raised:
        download(studio, "o/script", **values)
    assert raised.value.code != "bug"
    assert nothing_is_stored(studio)


@pytest.mark.parametrize(
    ("files", "values", "kind", "words"),
    [
        ({"script.py": b"x", "a.csv": b"a\n1"}, {}, Unsupported, "own loading script"),
        ({"README.md": b"# Empty"}, {}, Unsupported, "no files that can be read"),
        ({"a.csv": b"a,b\nx,y\n"}, {"config": "fr"}, InvalidInput, "no config 'fr'"),
        ({"a.csv": b"a,b\nx,y\n"}, {"revision": "v9"}, NotFound, "no revision 'v9'"),
    ],
)
def test_a_preview_says_what_cannot_be_had(
    hub: LocalHub,
    studio: Studio,
    files: dict[str, bytes],
    values: dict[str, Any],
    kind: type[StudioError],
    words: str,
) -> None:
    hub.add("datasets", "o/script", files)
    with pytest.raises(kind, match=words):
        preview(studio, "o/script", **values)


def test_a_preview_shows_columns_even_if_none_holds_text(hub: LocalHub, studio: Studio) -> None:
    hub.add("datasets", "o/ids", {"a.jsonl": b'{"id": 1}\n'})
    found = preview(studio, "o/ids")
    assert (found.text_column, found.first) == ((), [{"id": "1"}])
    assert found.warning == "No column holds text; found id (number)."


def test_missing_gated_and_private_repositories(hub: LocalHub, studio: Studio) -> None:
    languages(hub)
    hub.gated["o/two"] = {"bob"}
    with pytest.raises(NotFound, match="no dataset 'o/none' on the Hub"):
        preview(studio, "o/none")
    with pytest.raises(NeedsToken, match="'o/two' asks for an access token"):
        preview(studio, "o/two")
    with pytest.raises(Gated, match="must grant access first"):
        preview(studio, "o/two", token=GOOD_TOKEN)
    hub.gated["o/two"] = {"alice"}
    assert preview(studio, "o/two", token=GOOD_TOKEN).gated
    studio.tokens.keep("o/two", GOOD_TOKEN)
    row = download(studio, "o/two")
    assert row.num_samples == 3
    for path in studio.paths.home.rglob("*"):
        assert not path.is_file() or GOOD_TOKEN.encode() not in path.read_bytes(), path


def test_an_id_that_is_none_and_a_pasted_address(hub: LocalHub, studio: Studio) -> None:
    languages(hub)
    with pytest.raises(InvalidInput, match="Write owner/name"):
        preview(studio, "o//two")
    assert preview(studio, f"{hub.url}/datasets/o/two/tree/main").id == "o/two"


FORMATS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "data/train-00000-of-00001.parquet": parquet,
    "train.jsonl": jsonl,
    "train.json.gz": lambda made: gzip.compress(jsonl(made)),
    "train.txt": lambda made: "\n".join(row["text"] for row in made).encode(),
    "train.csv": lambda made: ("id,text\n" + "\n".join(
        f"{row['id']},{row['text']}" for row in made)).encode(),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_arrives_whole(hub: LocalHub, studio: Studio, name: str) -> None:
    made = rows(2500)
    hub.add("datasets", "o/set", {name: FORMATS[name](made), "README.md": b"# Set\n\nWords.\n"})
    row = download(studio, "o/set")
    assert texts(studio, row) == [one["text"] for one in made]
    assert (row.name, row.source, row.repo_id, row.config) == (
        "set",
        "huggingface",
        "o/set",
        "default",
    )
    assert row.commit_sha == hub.listing("datasets", "o/set")[0]
    assert (row.status, row.num_samples, row.description) == ("ready", 2500, "Words.")
    assert row.is_indexed


def test_splits_configs_and_joined_columns(hub: LocalHub, studio: Studio) -> None:
    languages(hub)
    both = download(studio, "o/two")
    store = TextStore(studio.paths.dataset(both.id))
    assert {name: list(part) for name, part in store.splits.items()} == {
        "train": [0, 1],
        "test": [2],
    }
    assert store.metadata(2) == {"nr": "3"}
    one = download(studio, "o/two", split="test", name="Only test")
    assert (one.name, texts(studio, one)) == ("Only test", ["Ja"])
    joined = download(studio, "o/two", config="en", text_column=("title", "text"))
    assert texts(studio, joined)[7] == f"T7\n\n{rows(30)[7]['text']}"
    assert joined.text_column == "title, text"


def test_the_first_rows_and_tokens_are_streamed_and_nothing_is_cached(
    hub: LocalHub, studio: Studio, hf_home: Path
) -> None:
    made = rows(40_000, 30)
    content = jsonl(made)
    hub.add("datasets", "o/big", {"train.jsonl": content})
    first = download(studio, "o/big", amount="rows", count=1500)
    assert texts(studio, first) == [row["text"] for row in made[:1500]]
    some = download(studio, "o/big", amount="tokens", count=10_000)
    characters = sum(map(len, texts(studio, some)))
    assert 40_000 <= characters < 41_000
    assert not list(hf_home.rglob("*.jsonl"))
    assert len(content) > 12_000_000
    assert hub.sent["train.jsonl"] <= 6_000_000


def test_a_second_time_nothing_is_fetched(hub: LocalHub, studio: Studio) -> None:
    hub.add("datasets", "o/set", {"train.jsonl": jsonl(rows(3000))})
    first = download(studio, "o/set")
    sent = dict(hub.sent)
    again = download(studio, "o/set")
    preview(studio, "o/set")
    assert hub.sent == sent
    assert texts(studio, again) == texts(studio, first)


def test_offline_takes_what_is_in_the_cache(hub: LocalHub, studio: Studio) -> None:
    languages(hub)
    download(studio, "o/two")
    setup.configure(address=hub.url, offline=True)
    asked = len(hub.log)
    assert download(studio, "o/two").num_samples == 3
    assert preview(studio, "o/two").text_column == ("content",)
    with pytest.raises(Offline, match="not on this machine"):
        preview(studio, "o/other")
    with pytest.raises(StudioError, match="Offline mode is on"):
        download(studio, "o/two", config="en")
    assert len(hub.log) == asked


def test_a_connection_that_breaks_is_taken_up_again(hub: LocalHub, studio: Studio) -> None:
    made = rows(20_000)
    content = jsonl(made)
    hub.add("datasets", "o/set", {"train.jsonl": content})
    hub.faults("train.jsonl").cuts = [len(content) // 3, len(content) // 4, 1000]
    assert texts(studio, download(studio, "o/set")) == [row["text"] for row in made]
    assert hub.sent["train.jsonl"] <= 1.1 * len(content)


def test_a_stream_that_breaks_is_taken_up_again(hub: LocalHub, studio: Studio) -> None:
    made = rows(20_000)
    hub.add("datasets", "o/set", {"train.jsonl": jsonl(made)})
    hub.faults("train.jsonl").cuts = [300_000, 1000, 70_000]
    row = download(studio, "o/set", amount="rows", count=15_000)
    assert texts(studio, row) == [one["text"] for one in made[:15_000]]
    hub.has_ranges = False
    whole = download(studio, "o/set", amount="rows", count=20_000)
    assert texts(studio, whole) == [one["text"] for one in made]


def test_a_stream_waits_where_the_server_has_a_problem(
    hub: LocalHub, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mistudio.hub import ranges

    monkeypatch.setattr(ranges, "WAITS_S", (0.01, 0.02, 0.03))
    made = rows(500)
    hub.add("datasets", "o/set", {"train.jsonl": jsonl(made)})
    hub.retry_after_s = 0
    hub.faults("train.jsonl").statuses = [500, 503, 429]
    report = RecordingReporter()
    config = DownloadDatasetConfig(repo="o/set", amount="rows", count=400)
    result = run(studio, "download_dataset", config, report)
    assert result["samples"] == 400
    told = [str(event.values["sentence"]) for event in report.events if event.kind == "note"]
    assert "The Hub has a problem (500). Try again later. It is asked again." in told
    phases = [str(event.values["phase"]) for event in report.events if event.kind == "progress"]
    assert "Waiting 0 s to try again" in phases
    hub.faults("train.jsonl").statuses = [500] * 4
    with pytest.raises(StudioError, match="has a problem"):
        run(studio, "download_dataset", config, report)
    assert len(DATASETS.select(studio.db())) == 1


def test_a_pause_gives_up_the_connection_of_a_stream(hub: LocalHub, studio: Studio) -> None:
    made = rows(30_000)
    hub.add("datasets", "o/set", {"train.jsonl": jsonl(made)})
    hub.faults("train.jsonl").stall_after = 700_000
    hub.faults("train.jsonl").stalls = 1
    config = DownloadDatasetConfig(repo="o/set", amount="rows", count=29_000)
    job, control = studio.submit("download_dataset", config), JobControl()
    worker = threading.Thread(target=studio.execute, args=(job, RecordingReporter(), control))
    worker.start()
    wait_until(lambda: hub.sent.get("train.jsonl", 0) >= 700_000)
    before = len(hub.requests("train.jsonl"))
    control.pause()
    worker.join(0.6)
    assert worker.is_alive()
    assert len(hub.requests("train.jsonl")) == before
    control.resume()
    worker.join(20)
    assert JOBS.get(studio.db(), job).status == "completed"
    assert texts(studio, DATASETS.select(studio.db())[0]) == [r["text"] for r in made[:29_000]]


def cancelled_while(
    studio: Studio, config: DownloadDatasetConfig, ready: Callable[[], bool]
) -> RecordingReporter:
    """Cancel the job once `ready`; it must end within a second."""
    job, control, report = (
        studio.submit("download_dataset", config),
        JobControl(),
        RecordingReporter(),
    )
    ended: list[float] = []

    def work() -> None:
        studio.execute(job, report, control)
        ended.append(time.monotonic())

    worker = threading.Thread(target=work)
    worker.start()
    wait_until(ready)
    asked = time.monotonic()
    control.cancel()
    worker.join(10)
    assert ended
    assert ended[0] - asked < 1.0
    assert JOBS.get(studio.db(), job).status == "cancelled"
    return report


def part_bytes(hf_home: Path) -> int:
    """Bytes of the beginnings of files that were written."""
    return sum(path.stat().st_size for path in hf_home.rglob("*.part"))


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


@pytest.mark.parametrize("amount", ["everything", "rows"])
def test_a_cancel_acts_at_once_even_when_the_server_is_silent(
    hub: LocalHub, studio: Studio, hf_home: Path, amount: str
) -> None:
    content = jsonl(rows(30_000))
    hub.add("datasets", "o/set", {"train.jsonl": content})
    hub.faults("train.jsonl").stall_after = 1_000_000
    config = DownloadDatasetConfig(repo="o/set", amount=amount, count=29_000)
    stream = amount == "rows"
    report = cancelled_while(
        studio,
        config,
        lambda: (
            hub.sent.get("train.jsonl", 0) >= 1_000_000
            and (stream or part_bytes(hf_home) > 700_000)
        ),
    )
    assert nothing_is_stored(studio)
    notes = [str(event.values["sentence"]) for event in report.events if event.kind == "note"]
    if not stream:
        assert any("stay in the cache; a retry goes on from there" in note for note in notes)
        hub.files.clear()
        download(studio, "o/set")
        assert hub.sent["train.jsonl"] <= 1.1 * len(content)
    else:
        assert not [path for path in hf_home.rglob("*") if path.is_file()]


def test_a_cancel_of_the_index_leaves_the_dataset(
    hub: LocalHub, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mistudio.jobs import download_dataset

    def cancelled(*_: object) -> bool:
        row = DATASETS.select(studio.db())[0]
        with pytest.raises(InUse, match="Download dataset two"):
            delete_dataset(studio, row.id)
        raise Cancelled

    languages(hub)
    monkeypatch.setattr(download_dataset, "index_after", cancelled)
    with pytest.raises(Cancelled):
        download(studio, "o/two")
    row = DATASETS.select(studio.db())[0]
    assert (row.status, texts(studio, row)) == ("ready", ["Guten Tag", "Hallo", "Ja"])
    delete_dataset(studio, row.id)
    assert nothing_is_stored(studio)


def test_a_job_that_was_killed_while_indexing_asks_for_nothing_again(
    hub: LocalHub, studio: Studio
) -> None:
    languages(hub)
    row = download(studio, "o/two")
    DATASETS.update(studio.db(), row.id, is_indexed=0)
    job = JOBS.select(studio.db())[0]
    JOBS.update(studio.db(), job.id, status="interrupted")
    asked = len(hub.log)
    studio.request(job.id, "resume")
    assert studio.execute(job.id) == "completed"
    assert [one.is_indexed for one in DATASETS.select(studio.db())] == [True]
    assert len(hub.log) == asked


def test_too_little_room_is_said_before_anything_is_fetched(
    hub: LocalHub, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("datasets", "o/set", {"train.jsonl": jsonl(rows(3000))})
    usage = type(shutil.disk_usage("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(10_000_000, 8_700_000, 1_300_000))
    with pytest.raises(StudioError, match=r"Needs \S+ kB, 300.0 kB are free") as raised:
        download(studio, "o/set")
    assert raised.value.code == DiskFull.code
    assert nothing_is_stored(studio)
    assert not hub.sent


def test_more_than_a_hundred_gigabytes_are_confirmed(
    hub: LocalHub, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mistudio.jobs import download_dataset

    languages(hub)
    monkeypatch.setattr(download_dataset, "LARGE_BYTES", 40)
    with pytest.raises(StudioError, match="Take the first rows or tokens"):
        download(studio, "o/two")
    assert download(studio, "o/two", accept_large=True).num_samples == 3


def test_a_dead_server_is_noticed_soon(hub: LocalHub, studio: Studio) -> None:
    setup.configure(address="http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(NoAnswer, match="cannot be reached"):
        preview(studio, "o/two")
    assert time.monotonic() - began < 5.5


def test_a_preview_can_be_given_up(hub: LocalHub, studio: Studio) -> None:
    languages(hub)
    hub.delay_s = 30.0
    control = JobControl()
    threading.Timer(0.2, control.cancel).start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        preview(studio, "o/two", control=control)
    assert time.monotonic() - began < 1.2


CHILD = """
import sys
from mistudio.core.config import from_dict
from mistudio.core.dataset_configs import DownloadDatasetConfig
from mistudio.core.paths import Paths
from mistudio.hub import setup
from mistudio.jobs.runner import Studio

setup.configure()
studio = Studio(Paths.at(sys.argv[1]))
studio.execute(studio.submit("download_dataset", DownloadDatasetConfig(repo="o/set")))
"""


def test_a_killed_download_goes_on_where_it_was(
    hub: LocalHub, studio: Studio, hf_home: Path
) -> None:
    made = rows(40_000)
    content = jsonl(made)
    hub.add("datasets", "o/set", {"train.jsonl": content})
    hub.faults("train.jsonl").stall_after = 3 * len(content) // 4
    environment = {**os.environ, "HF_ENDPOINT": hub.url}
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(studio.paths.home)], env=environment)
    try:
        wait_until(lambda: part_bytes(hf_home) > 3 * len(content) // 4 - 300_000)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    hub.files.clear()
    assert [row.status for row in DATASETS.select(studio.db())] == ["downloading"]
    studio.recover()
    assert not DATASETS.select(studio.db())
    job = JOBS.select(studio.db())[0]
    assert job.status == "interrupted"
    studio.request(job.id, "resume")
    assert studio.execute(job.id) == "completed"
    assert texts(studio, DATASETS.select(studio.db())[0]) == [row["text"] for row in made]
    assert hub.sent["train.jsonl"] <= 1.1 * len(content)
