"""Importing text: every format, odd characters, and a sentence for each kind of wrong file."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mistudio.core.control import JobControl
from mistudio.core.dataset_configs import ImportDatasetConfig
from mistudio.core.errors import Cancelled, Damaged, DiskFull, InvalidInput, NotFound, StudioError
from mistudio.core.events import RecordingReporter
from mistudio.ml.data.facts import DatasetFacts
from mistudio.ml.data.import_text import import_text, read_documents
from mistudio.ml.data.text import TextStore
from mistudio.ml.data.write_dataset import MAX_CHARACTERS

ODD = "Füße 🦊👨‍👩‍👧 漢字 e\u0301 שלום\u2028\x0b end"


def run(tmp_path: Path, name: str, content: bytes | str, **settings: Any) -> DatasetFacts:
    file = tmp_path / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    config = ImportDatasetConfig(path=str(file), **settings)
    return import_text(config, tmp_path / "ds", RecordingReporter(), JobControl())


def stored(tmp_path: Path) -> list[str]:
    store = TextStore(tmp_path / "ds")
    return store.texts(0, len(store))


def test_paragraphs_keep_their_lines(tmp_path: Path) -> None:
    facts = run(tmp_path, "a.txt", f"\n\none\r\n two\r\n \r\n\r\nthree\n\n\n\n{ODD}\nx")
    assert stored(tmp_path) == ["one\r\n two", "three", f"{ODD}\nx"]
    assert facts.num_samples == 3
    assert facts.characters == sum(len(text) for text in stored(tmp_path))
    assert facts.bytes == sum(len(text.encode()) for text in stored(tmp_path))
    assert json.loads((tmp_path / "ds" / "info.json").read_text()) == facts.to_dict()


def test_lines_and_whole_files(tmp_path: Path) -> None:
    run(tmp_path, "a.txt", "one\r\n\n two \nthree", sample_unit="line")
    assert stored(tmp_path) == ["one", " two ", "three"]
    run(tmp_path, "a.txt", "one\r\n\n two \nthree\n", sample_unit="file")
    assert stored(tmp_path) == ["one\r\n\n two \nthree\n"]


def test_lengths_and_histogram(tmp_path: Path) -> None:
    facts = run(tmp_path, "a.txt", "\n".join("x" * n for n in (1, 2, 3, 41)), sample_unit="line")
    assert (facts.length_min, facts.length_median, facts.length_max) == (1, 2.5, 41)
    assert facts.length_mean == 47 / 4
    assert facts.histogram_counts == [2, 1, *[0] * 16, 0, 1]
    assert facts.histogram_edges[:2] == [1.0, 3.0]


def test_bad_bytes_are_replaced_and_counted(tmp_path: Path) -> None:
    facts = run(tmp_path, "a.txt", b"caf\xe9 and \xff\xfe " + b"gut ist das. " * 20)
    assert facts.bad_bytes == 3
    assert stored(tmp_path)[0].startswith("caf\ufffd and \ufffd\ufffd gut")


def test_marked_encodings(tmp_path: Path) -> None:
    run(tmp_path, "a.txt", b"\xef\xbb\xbfone")
    assert stored(tmp_path) == ["one"]
    run(tmp_path, "a.txt", ODD.encode("utf-16"))
    assert stored(tmp_path) == [ODD]


def test_a_character_on_the_edge_of_a_block_survives(tmp_path: Path) -> None:
    text = "x" * ((1 << 20) - 1 - 500_000) + " " + "y" * 499_998 + "🦊 end"
    run(tmp_path, "a.txt", text, sample_unit="file")
    assert "".join(stored(tmp_path)) == text


def test_giant_documents_are_split_at_line_ends_without_loss(tmp_path: Path) -> None:
    line = "word " * 30 + "\n"
    text = line * (2 * MAX_CHARACTERS // len(line) + 100)
    facts = run(tmp_path, "a.jsonl", json.dumps({"text": text}))
    pieces = stored(tmp_path)
    assert (facts.split_documents, len(pieces)) == (1, 3)
    assert "".join(pieces) == text
    assert all(piece.endswith("\n") and len(piece) <= MAX_CHARACTERS for piece in pieces)


def test_giant_line_is_split_at_a_blank(tmp_path: Path) -> None:
    text = "word " * (MAX_CHARACTERS // 3)
    run(tmp_path, "a.txt", text, sample_unit="line")
    assert "".join(stored(tmp_path)) == text
    assert max(len(piece) for piece in stored(tmp_path)) <= MAX_CHARACTERS


def test_jsonl_with_metadata(tmp_path: Path) -> None:
    rows = [{"id": 1, "content": "one", "tags": ["a"]}, {"content": ODD, "id": None}]
    facts = run(tmp_path, "a.jsonl", "\n".join(json.dumps(row) for row in rows) + "\n\n")
    assert stored(tmp_path) == ["one", ODD]
    assert (facts.text_column, facts.columns) == ("content", ["id", "tags"])
    assert TextStore(tmp_path / "ds").metadata(0) == {"id": "1", "tags": '["a"]'}


def test_json_list_strings_and_surrogates(tmp_path: Path) -> None:
    run(tmp_path, "a.json", '["one", "two \\ud800"]')
    assert stored(tmp_path) == ["one", "two \ufffd"]


def test_bad_json_row_is_named(tmp_path: Path) -> None:
    content = '{"text": "fine"}\n' * 1041 + '{"text": "broken\n' + '{"text": "fine"}\n'
    with pytest.raises(InvalidInput) as caught:
        run(tmp_path, "notes.jsonl", content)
    assert caught.value.sentence == "Row 1,042 of notes.jsonl is not valid JSON."
    assert not (tmp_path / "ds").exists()


def test_row_without_text_is_named(tmp_path: Path) -> None:
    content = '{"text": "fine"}\n' * 1500 + '{"text": 7}\n'
    with pytest.raises(InvalidInput, match=r"Row 1,501 of a\.jsonl has no text in 'text'"):
        run(tmp_path, "a.jsonl", content)


def test_csv(tmp_path: Path) -> None:
    with (tmp_path / "t.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter=";")
        writer.writerows([["id", "body", "when"], [1, f'a;"b"\n{ODD}', "2024-01-02"], [2, "", ""]])
    facts = run(tmp_path, "a.csv", (tmp_path / "t.csv").read_bytes())
    assert stored(tmp_path) == [f'a;"b"\n{ODD}']
    assert (facts.text_column, facts.columns, facts.empty_documents) == ("body", ["id", "when"], 1)


def test_preferred_columns_and_override(tmp_path: Path) -> None:
    content = "title,Text,document\nA,B,C\n"
    assert run(tmp_path, "a.csv", content).text_column == "Text"
    assert run(tmp_path, "a.csv", content, text_column=("title",)).text_column == "title"
    assert stored(tmp_path) == ["A"]
    with pytest.raises(
        InvalidInput, match=r"no column 'body'; found title \(text\), Text \(text\)"
    ):
        run(tmp_path, "a.csv", content, text_column=("body",))


def test_csv_without_text_column(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        run(tmp_path, "a.csv", "id,date\n1,2024-03-01\n2,2024-03-02\n")
    assert caught.value.sentence == "No column holds text; found id (number), date (date)."


def test_csv_row_with_too_many_fields(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"Row 2 of a\.csv has 3 fields, the header 2"):
        run(tmp_path, "a.csv", "a,b\nx,y\nx,y,z\n")


def test_long_csv_field(tmp_path: Path) -> None:
    run(tmp_path, "a.csv", "text\n" + "w " * 200_000 + "\n")
    assert len(stored(tmp_path)[0]) == 400_000


def test_parquet(tmp_path: Path) -> None:
    table = pa.table({"n": [1, 2, 3], "text": ["one", None, ODD]})
    pq.write_table(table, tmp_path / "t.parquet")
    facts = run(tmp_path, "a.parquet", (tmp_path / "t.parquet").read_bytes())
    assert stored(tmp_path) == ["one", ODD]
    assert TextStore(tmp_path / "ds").metadata(1) == {"n": "3"}
    assert facts.columns == ["n"]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.txt", b"", "a.txt is empty."),
        ("a.txt", b" \n\r\n ", "a.txt holds no text."),
        ("a.txt", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a.txt is a binary file, not text."),
        (
            "a.csv",
            bytes(range(128, 256)) * 9,
            "a.csv is a binary file, not text. If it is text, choose its encoding.",
        ),
        ("a.jsonl", b"\n\n", "a.jsonl holds no rows."),
        ("a.jsonl", b"[1, 2", "Row 3 of a.jsonl is not valid JSON."),
        ("a.jsonl", b"7\n", "No column holds text; found nothing."),
        ("a.csv", b"text\n", "No column holds text; found text (empty)."),
        ("a.csv", b"a,a\nx,y\n", "The header of a.csv names a column twice."),
        ("a.parquet", b"PAR1 nonsense", "a.parquet is no readable parquet file."),
    ],
)
def test_wrong_files_leave_a_sentence_and_no_debris(
    tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    with pytest.raises(StudioError) as caught:
        run(tmp_path, name, content)
    assert caught.value.sentence == sentence
    assert sorted(p.name for p in tmp_path.iterdir()) == [name]


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(StudioError, match="There is no file"):
        list(read_documents(ImportDatasetConfig(path=str(tmp_path / "none.txt"))))
    with pytest.raises(InvalidInput, match="holds no text files"):
        list(read_documents(ImportDatasetConfig(path=str(tmp_path))))


def test_cancel_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    control = JobControl()
    control.cancel()
    with pytest.raises(Cancelled):
        import_text(
            ImportDatasetConfig(path=str(tmp_path / "a.txt")),
            tmp_path / "ds", RecordingReporter(), control,
        )  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mistudio.ml.data.text_writer.TextWriter.add", full)
    with pytest.raises(DiskFull, match="The disk is full: could not store the text"):
        run(tmp_path, "a.txt", "text")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_store_reads_by_number_across_batches(tmp_path: Path) -> None:
    run(tmp_path, "a.txt", "\n".join(f"line {i}" for i in range(2500)), sample_unit="line")
    store = TextStore(tmp_path / "ds")
    assert len(store) == 2500
    assert [store.text(i) for i in (0, 999, 1000, 2499)] == [
        "line 0", "line 999", "line 1000", "line 2499",
    ]  # fmt: skip
    assert store.texts(998, 1002) == ["line 998", "line 999", "line 1000", "line 1001"]
    with pytest.raises(IndexError):
        store.text(2500)


def test_damaged_and_missing_store(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="import it again"):
        TextStore(tmp_path)
    run(tmp_path, "a.txt", "text")
    file = tmp_path / "ds" / "text" / "train.arrow"
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(Damaged, match="import it again"):
        TextStore(tmp_path / "ds")
