"""Files that are nearly what their ending says: odd JSON, lone quotes, stray bytes, unreadable."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mistudio.core.control import JobControl
from mistudio.core.dataset_configs import ImportDatasetConfig
from mistudio.core.errors import Damaged, InvalidInput, StudioError
from mistudio.core.events import RecordingReporter
from mistudio.ml.data import readers_text
from mistudio.ml.data.facts import DatasetFacts
from mistudio.ml.data.import_text import import_text
from mistudio.ml.data.text import TextStore


def run(path: Path, content: str | bytes | None = None, **settings: Any) -> DatasetFacts:
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    config = ImportDatasetConfig(path=str(path), **settings)
    return import_text(config, path.parent / "ds", RecordingReporter(), JobControl())


def stored(path: Path) -> list[str]:
    store = TextStore(path.parent / "ds")
    return store.texts(0, len(store))


ROWS = [{"text": "one", "n": 1}, {"text": "two", "n": 2}]
TABLES = {
    "columns": {"text": ["one", "two"], "n": [1, 2]},
    "columns of pandas": {"text": {"0": "one", "1": "two"}, "n": {"0": 1, "1": 2}},
    "rows under a name": {"version": "1", "examples": ROWS, "labels": ["a"]},
}


@pytest.mark.parametrize("name", TABLES)
def test_one_object_that_is_a_table(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.json"
    run(path, json.dumps(TABLES[name], indent=1))
    assert stored(path) == ["one", "two"]
    assert TextStore(tmp_path / "ds").metadata(1) == {"n": "2"}


def test_one_object_that_is_a_row_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    run(path, json.dumps({"text": "alone", "parts": ROWS, "tags": ["a", "b"]}))
    assert stored(path) == ["alone"]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_lists_that_follow_each_other_and_indented_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    run(path, json.dumps(ROWS) + "\n" + json.dumps([{"text": "three"}]) + "\n")
    assert stored(path) == ["one", "two", "three"]
    run(path, "\n".join(json.dumps(row, indent=2) for row in ROWS))
    assert stored(path) == ["one", "two"]
    with pytest.raises(InvalidInput, match=r"Behind the list of 2 rows, a\.json.* is not valid"):
        run(path, json.dumps(ROWS) + ' {"text"')


def test_a_quote_open_at_the_end_swallows_no_rows(tmp_path: Path) -> None:
    content = 'text,n\n"one, two",1\n"open,2\nthree,3\n'
    with pytest.raises(InvalidInput, match=r"quote that opens in row 2 of a\.csv"):
        run(tmp_path / "a.csv", content, skip_bad_rows=True)
    run(tmp_path / "a.csv", 'text,n\n"one\ntwo",1\n"three",2')
    assert stored(tmp_path / "a.csv") == ["one\ntwo", "three"]


def test_quotes_of_a_tsv_belong_to_its_text_unless_they_enclose(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    run(path, 'n\ttext\n1\t"So" he said\n2\t"open\n3\tplain "x"\n')
    assert stored(path) == ['"So" he said', '"open', 'plain "x"']
    run(path, 'n\ttext\n1\t"a ""b"" c"\n2\t"two\nlines\tand a tab"\n3\tplain\n')
    assert stored(path) == ['a "b" c', "two\nlines\tand a tab", "plain"]


def test_stray_control_bytes_do_not_make_a_file_binary(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    run(path, b"hello\0world\nform\x0cfeed \x01\n")
    assert stored(path) == ["hello\0world", "form\x0cfeed \x01"]
    with pytest.raises(InvalidInput, match=r"is a binary file, not text\.$"):
        run(path, bytes(range(32)) * 40)
    with pytest.raises(InvalidInput, match=r"If it is UTF-16, choose that encoding\."):
        run(path, "plain words".encode("utf-16-le"))


def test_names_of_columns_stay_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    facts = run(path, "text,text_,body\none,two,three\n", text_column=("body",))
    assert facts.columns == TextStore(tmp_path / "ds").columns  # what a tokenisation asks for
    assert stored(path) == ["three"]
    assert TextStore(tmp_path / "ds").metadata(0) == {"text__": "one", "text_": "two"}
    run(tmp_path / "a.jsonl", '{"text": "kept", "half \\ud800": 1, "n": 2}\n')
    assert TextStore(tmp_path / "ds").metadata(0) == {"n": "2"}


def test_a_table_that_names_a_column_twice(tmp_path: Path) -> None:
    table = pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    for name in ("a.parquet", "a.arrow"):
        with pytest.raises(InvalidInput, match=rf"^{name} names a column twice\.$"):
            run(tmp_path / name)


def test_files_of_a_folder_without_rows_are_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    for name, content in (("a", "\n"), ("b", '{"text": "one"}'), ("c", " "), ("d", '"two"')):
        (folder / f"{name}.jsonl").write_text(content)
    run(folder)
    assert stored(folder) == ["one", "two"]
    (folder / "b.jsonl").unlink()
    (folder / "d.jsonl").unlink()
    with pytest.raises(InvalidInput, match=r"^c\.jsonl holds no rows\.$"):
        run(folder)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet", "a.arrow"])
def test_a_file_that_may_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / name
    path.write_text("x")
    opened = Path.open

    def refuse(self: Path, *args: Any, **options: Any) -> Any:
        if self == path:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(self, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InvalidInput, match=rf"is not permitted: could not read {name}\."):
        run(path)


def test_what_is_neither_file_nor_folder_and_no_gzip(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(InvalidInput, match=r"^pipe\.txt is neither a file nor a folder\.$"):
        run(tmp_path / "pipe.txt")
    with pytest.raises(Damaged, match=r"^a\.txt\.gz is damaged; get it again\.$"):
        run(tmp_path / "a.txt.gz", b"not packed")


def test_reading_tells_a_broken_disk(tmp_path: Path) -> None:
    sentence = r"^Could not read a\.txt: Input/output error\.$"
    with pytest.raises(StudioError, match=sentence), readers_text.reading(tmp_path / "a.txt"):
        raise OSError(5, "Input/output error")
