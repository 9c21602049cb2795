"""Importing as a job: the preview before it, its row, its index, and what a cancel leaves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mistudio.core import disk_room
from mistudio.core.control import JobControl
from mistudio.core.dataset_configs import ImportDatasetConfig
from mistudio.core.errors import Cancelled, DiskFull, InvalidInput, StudioError
from mistudio.core.events import RecordingReporter
from mistudio.core.paths import Paths
from mistudio.jobs.dataset_pages import sample_page
from mistudio.jobs.import_preview import preview_file
from mistudio.jobs.runner import Studio
from mistudio.ml.data import import_text
from mistudio.store.tables import DATASETS
from mistudio.store.text_index import TextIndex
from tests.helpers.studio import run


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    made = Studio(Paths.at(tmp_path / "home"))
    yield made
    made.close()


def lines(folder: Path, count: int = 300) -> Path:
    path = folder / "lines.jsonl"
    rows = [{"id": i, "body": f"line {i}" if i != 1 else " ", "tags": [1]} for i in range(count)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_preview(tmp_path: Path) -> None:
    path = lines(tmp_path)
    told = preview_file(ImportDatasetConfig(path=str(path)))
    assert told.samples == [f"line {i}" for i in range(11) if i != 1]
    assert (told.format, told.encoding, told.delimiter, told.sample_unit) == (
        "jsonl", "utf-8", "", "",
    )  # fmt: skip
    assert told.columns == {"id": "number", "body": "text", "tags": "list"}
    assert told.text_column == ("body",)
    assert (told.bytes, told.files, told.warning) == (path.stat().st_size, 1, "")
    (tmp_path / "a.csv").write_bytes("a;b\nFüße;1\n".encode("latin-1"))
    told = preview_file(ImportDatasetConfig(path=str(tmp_path / "a.csv")))
    assert (told.delimiter, told.columns) == ("semicolon", {"a": "text", "b": "number"})
    assert told.warning.startswith("Some bytes in the beginning (2) do not fit")
    (tmp_path / "a.txt").write_text("one\n\ntwo")
    assert preview_file(ImportDatasetConfig(path=str(tmp_path / "a.txt"))).sample_unit == (
        "paragraph"
    )


def test_preview_reads_only_the_beginning(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with path.open("wb") as stream:
        stream.write(b"word and more\n" * 10_000)
        stream.truncate(12_000_000_000)  # sparse: takes no room
    told = preview_file(ImportDatasetConfig(path=str(path)))
    assert told.samples == ["word and more"] * 10
    assert told.warning.startswith("This is 12.0 GB")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"id": 1}', "No column holds text; found id (number)."),
        ("{broken", "Row 1 of a.jsonl is not valid JSON."),
        ('{"text": " "}', "a.jsonl holds no text."),
        ("", "a.jsonl is empty."),
    ],
)
def test_preview_says_what_is_wrong(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(StudioError) as caught:
        preview_file(ImportDatasetConfig(path=str(tmp_path / "a.jsonl")))
    assert caught.value.sentence == sentence


def test_preview_wants_a_path() -> None:
    with pytest.raises(InvalidInput, match="File or folder is missing"):
        preview_file(ImportDatasetConfig())


def test_an_import_is_indexed(studio: Studio, tmp_path: Path) -> None:
    done = run(studio, "import_dataset", ImportDatasetConfig(path=str(lines(tmp_path))))
    row = DATASETS.get(studio.db(), done["dataset"])
    assert row.is_indexed
    assert (row.status, row.num_samples, row.name) == ("ready", 299, "lines")
    assert row.statistics is not None
    assert row.statistics["splits"] == {"train": [0, 299]}
    assert row.statistics["estimated_tokens"] > 0
    folder = studio.paths.dataset(row.id)
    assert row.size_bytes == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    assert [s.text for s in sample_page(studio, row, words="213").samples] == ["line 213"]


class CancelsIn(RecordingReporter):
    """Cancels the job when a phase begins."""

    def __init__(self, control: JobControl, phase: str) -> None:
        super().__init__()
        self._control, self._phase = control, phase

    def progress(
        self, fraction: float, phase: str, *, rate: str = "", eta_s: float | None = None
    ) -> None:
        super().progress(fraction, phase, rate=rate, eta_s=eta_s)
        if phase == self._phase:
            self._control.cancel()


def test_cancel_while_indexing_keeps_the_dataset(studio: Studio, tmp_path: Path) -> None:
    control = JobControl()
    reporter = CancelsIn(control, "Indexing")
    config = ImportDatasetConfig(path=str(lines(tmp_path)))
    with pytest.raises(Cancelled):
        studio.run_now("import_dataset", config, reporter, control)
    (row,) = DATASETS.select(studio.db())
    assert (row.status, row.is_indexed, row.num_samples) == ("ready", False, 299)
    assert sorted(p.name for p in studio.paths.dataset(row.id).iterdir()) == ["info.json", "text"]
    notes = [e.values["sentence"] for e in reporter.events if e.kind == "note"]
    assert any("word index was not built" in str(note) for note in notes)


def test_cancel_while_reading_leaves_nothing(studio: Studio, tmp_path: Path) -> None:
    control = JobControl()
    path = lines(tmp_path)
    before = path.read_bytes()
    with pytest.raises(Cancelled):
        studio.run_now(
            "import_dataset",
            ImportDatasetConfig(path=str(path)),
            CancelsIn(control, "Reading"),
            control,
        )
    assert DATASETS.select(studio.db()) == []
    assert list((studio.paths.home / "datasets").iterdir()) == []
    assert path.read_bytes() == before


def test_a_failing_index_is_only_a_note(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise DiskFull("The disk is full.")

    monkeypatch.setattr(TextIndex, "build", full)
    reporter = RecordingReporter()
    done = run(studio, "import_dataset", ImportDatasetConfig(path=str(lines(tmp_path))), reporter)
    row = DATASETS.get(studio.db(), done["dataset"])
    assert (row.status, row.is_indexed) == ("ready", False)
    notes = [str(e.values["sentence"]) for e in reporter.events if e.kind == "note"]
    assert "The dataset is ready without a word index. The disk is full." in notes


def test_no_room(studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = lines(tmp_path)
    monkeypatch.setattr(import_text, "_WORTH_ASKING", 0)
    monkeypatch.setattr(disk_room, "free_bytes", lambda path: 8_100_000_000)
    monkeypatch.setattr(disk_room, "reserved_bytes", lambda path: 8_100_000_000)
    with pytest.raises(StudioError, match=r"^Needs .* kB, 0 B are free \(8.1 GB of the disk"):
        run(studio, "import_dataset", ImportDatasetConfig(path=str(path)))
    assert DATASETS.select(studio.db()) == []


def test_reserve_is_the_smaller_of_a_tenth_and_ten_gigabytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    for total, reserved in ((50_000_000_000, 5_000_000_000), (10**12, 10_000_000_000)):
        usage = SimpleNamespace(total=total, used=0, free=reserved + 5)
        monkeypatch.setattr(disk_room.shutil, "disk_usage", lambda _, found=usage: found)
        assert disk_room.reserved_bytes(tmp_path / "not" / "yet") == reserved
        disk_room.require_room(tmp_path, 5)
        with pytest.raises(DiskFull, match="Needs 6 B, 5 B are free"):
            disk_room.require_room(tmp_path, 6)


def test_names_stay_apart(studio: Studio, tmp_path: Path) -> None:
    path = lines(tmp_path, 5)
    config = ImportDatasetConfig(path=str(path))
    for name in ("lines", "lines_2", "lines_3"):
        assert run(studio, "import_dataset", config)["name"] == name
    for wanted, name in (("last", "last_2"), ("sample", "sample_2"), ("n" * 255, "n" * 255)):
        config = ImportDatasetConfig(path=str(path), name=wanted)
        assert run(studio, "import_dataset", config)["name"] == name
    assert run(studio, "import_dataset", config)["name"] == "n" * 253 + "_2"
    odd = tmp_path / "two\nlines.txt"
    odd.write_text("text")
    config = ImportDatasetConfig(path=str(odd))
    assert run(studio, "import_dataset", config)["name"] == "two lines"


def test_a_name_that_several_have_is_not_enough_to_delete(studio: Studio, tmp_path: Path) -> None:
    config = ImportDatasetConfig(path=str(lines(tmp_path, 5)))
    ids = [str(run(studio, "import_dataset", config)["dataset"]) for _ in range(2)]
    DATASETS.update(studio.db(), ids[1], name="lines")  # as older versions left it
    with pytest.raises(InvalidInput, match=rf"^2 are called 'lines'\. .*: {ids[0]}, {ids[1]}\.$"):
        DATASETS.only(studio.db(), "lines")
    assert DATASETS.only(studio.db(), ids[0]).id == ids[0]
    assert DATASETS.only(studio.db(), "last").id in ids


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("a" * 300, r"^Could not look for the file: File name too long\.$"),
        ("~nobody-here/x.txt", r"^There is no file '~nobody-here/x\.txt'\.$"),
        ("bad\udcff.txt", r"^The name 'bad\?\.txt' has bytes that are no UTF-8"),
        ("no\0thing", "^There is no file"),
    ],
)
def test_what_no_path_can_be(studio: Studio, path: str, sentence: str) -> None:
    config = ImportDatasetConfig(path=path)
    with pytest.raises(StudioError, match=sentence):
        studio.submit("import_dataset", config)
    with pytest.raises(StudioError, match=sentence):
        preview_file(config)
