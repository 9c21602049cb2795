"""Files of rows: packed in a thread, read again to the byte, refused when torn."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from mistudio.core.errors import Damaged
from mistudio.jobs.row_files import SAMPLED, RowFiles, read_lines, read_whole
from mistudio.ml.formats.row_schema import Schema, text, whole

SCHEMA: Schema = {"name": text, "number": whole}


def _lines(many: int) -> str:
    return "".join(f'{{"name":"é{i}","number":{i}}}\n' for i in range(many))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_rows_come_back_and_the_same_rows_give_the_same_bytes(tmp_path: Path, name: str) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        with RowFiles() as files:
            files.write(tmp_path / folder / name, _lines(200), SCHEMA, 200)
    rows = list(read_lines(tmp_path / "a" / name))
    assert rows == [{"name": f"é{i}", "number": i} for i in range(200)]
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-20],
        lambda data: data[:-8],
        lambda data: data[:40] + bytes([data[40] ^ 255]) + data[41:],
        lambda data: b"",
        lambda data: gzip.compress(_lines(199).encode(), mtime=0),
    ],
)
def test_a_torn_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[bytes], bytes]
) -> None:
    whole_write = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda path, data: whole_write(path, spoil(data)))
    with pytest.raises(Damaged), RowFiles() as files:
        files.write(tmp_path / "rows.jsonl.gz", _lines(200), SCHEMA, 200)


@pytest.mark.parametrize(
    ("content", "expected", "match"),
    [
        (_lines(9), 10, "9 of 10 rows"),
        (_lines(10)[:-1], 10, "rows"),
        (_lines(9) + '{"name":"a"}\n', 10, "row 10 has other fields"),
        (_lines(9) + '{"name":"a","number":NaN}\n', 10, "row 10: number is"),
        (_lines(SAMPLED) + "no row\n" + _lines(SAMPLED), 2 * SAMPLED + 1, "row 65 is no JSON"),
    ],
)
def test_lines_that_are_no_rows_are_refused(
    tmp_path: Path, content: str, expected: int, match: str
) -> None:
    with pytest.raises(Damaged, match=match), RowFiles() as files:
        files.write(tmp_path / "rows.jsonl.gz", content, SCHEMA, expected)


def test_what_went_wrong_with_an_earlier_file_ends_the_work(tmp_path: Path) -> None:
    def write_all() -> None:
        with RowFiles() as files:
            for name in ("first", *"abcdef"):
                files.write(tmp_path / f"{name}.jsonl", "", SCHEMA, 1 if name == "first" else 0)

    with pytest.raises(Damaged, match="first"):
        write_all()
    assert not (tmp_path / "f.jsonl").exists()


def test_an_empty_file_holds_no_rows(tmp_path: Path) -> None:
    with RowFiles() as files:
        files.write(tmp_path / "none.jsonl.gz", "", SCHEMA, 0)
    assert read_whole(tmp_path / "none.jsonl.gz") == b""
