"""Every format, encoding, delimiter and folder that an import reads, and how bad rows are told."""

from __future__ import annotations

import bz2
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mistudio.core.control import JobControl
from mistudio.core.dataset_configs import ImportDatasetConfig
from mistudio.core.errors import Cancelled, Damaged, InvalidInput, StudioError
from mistudio.core.events import RecordingReporter
from mistudio.ml.data import readers_json, source
from mistudio.ml.data.facts import DatasetFacts
from mistudio.ml.data.import_text import import_text
from mistudio.ml.data.text import TextStore

ODD = "Füße 🦊 漢字 e\u0301\r\nשלום"


def run(path: Path, **settings: Any) -> DatasetFacts:
    config = ImportDatasetConfig(path=str(path), **settings)
    return import_text(config, path.parent / "ds", RecordingReporter(), JobControl())


def stored(path: Path) -> list[str]:
    store = TextStore(path.parent / "ds")
    return store.texts(0, len(store))


def file(folder: Path, name: str, content: str | bytes) -> Path:
    made = folder / name
    made.parent.mkdir(parents=True, exist_ok=True)
    made.write_bytes(content.encode() if isinstance(content, str) else content)
    return made


ROWS = [{"text": ODD, "n": 1}, {"text": 'two "[{,', "n": 2}, {"n": 3, "text": "three"}]
SHAPES = {
    "list": json.dumps(ROWS),
    "indented list": json.dumps(ROWS, indent=2, ensure_ascii=False),
    "one per line": "\n".join(map(json.dumps, ROWS)),
    "wrapped": json.dumps({"version": "1.1", "count": 3, "data": ROWS}),
    "wrapped, indented": json.dumps({"data": ROWS, "more": [1]}, indent=1),
    "one after another": "\n".join(json.dumps(row, indent=2) for row in ROWS),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_shapes_of_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str, block: int
) -> None:
    monkeypatch.setattr("mistudio.ml.data.readers_text._BLOCK", block)
    monkeypatch.setattr("mistudio.ml.data.readers_text._HEAD", max(block, 120))
    path = file(tmp_path, "a.json", " \n" + SHAPES[shape])
    facts = run(path)
    assert stored(path) == [row["text"] for row in ROWS]
    assert TextStore(tmp_path / "ds").metadata(2) == {"n": "3"}
    assert (facts.format, facts.columns) == ("json", ["n"])


def test_one_object_alone_and_numbers_at_the_edge(tmp_path: Path) -> None:
    path = file(tmp_path, "a.json", '{"text": "alone"}')
    run(path)
    assert stored(path) == ["alone"]
    values = list(
        readers_json._list_items(source.Source(), source.SourceFile(path), iter("[12,3]"))
    )
    assert values == [12, 3]


@pytest.mark.parametrize(
    ("content", "number"),
    [
        ('[{"text": "a"}, {"text": "b"', 2),
        ('[{"text": "a"}, {"text": oops}, {"text": "b"}]', 2),
        ('[{"text": "a"} {"text": "b"', 2),
        ('{"data": [{"text": "a"},', 2),
    ],
)
def test_broken_list_names_the_row(tmp_path: Path, content: str, number: int) -> None:
    with pytest.raises(InvalidInput, match=rf"^Row {number} of a\.json is not valid JSON\.$"):
        run(file(tmp_path, "a.json", content))
    assert not (tmp_path / "ds").exists()


def test_a_row_without_end_is_refused_in_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers_json, "MAX_ROW", 1000)
    monkeypatch.setattr("mistudio.ml.data.readers_text._HEAD", 100)
    monkeypatch.setattr("mistudio.ml.data.readers_text._BLOCK", 100)
    long = json.dumps({"text": "x" * 5000})
    for name, content in (("a.json", f"[{long}]"), ("a.jsonl", long)):
        with pytest.raises(InvalidInput, match=r"Row 1 of .* is longer than 1,000 characters"):
            run(file(tmp_path, name, content))
    path = file(tmp_path, "b.jsonl", f'{long}\n{{"text": "kept"}}\n')
    assert run(path, skip_bad_rows=True).skipped_rows == 1
    assert stored(path) == ["kept"]


def test_bad_rows_are_counted_and_left_out(tmp_path: Path) -> None:
    lines = ['{"text": "one"}', "{broken", "[1]", '{"text": 7}', '{"text": null}', '{"text": "2"}']
    path = file(tmp_path, "a.jsonl", "\n".join(lines))
    facts = run(path, skip_bad_rows=True)
    assert stored(path) == ["one", "2"]
    assert (facts.skipped_rows, facts.empty_documents) == (3, 1)
    path = file(tmp_path, "a.csv", "text,n\none,1\na,b,c\ntwo,2\n")
    assert run(path, skip_bad_rows=True).skipped_rows == 1
    assert stored(path) == ["one", "two"]


def test_a_quote_that_never_closes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import csv

    before = csv.field_size_limit(1000)
    try:
        with pytest.raises(InvalidInput, match=r"quote that opens in row 1 of a\.csv"):
            run(file(tmp_path, "a.csv", 'text\n"open ' + "x y\n" * 500), skip_bad_rows=True)
    finally:
        csv.field_size_limit(before)


@pytest.mark.parametrize(
    ("name", "content", "settings"),
    [
        ("a.csv", '"x;y",text;z\n', {}),
        ("a.tsv", "x,y\ttext\n", {}),
        ("a.csv", "x,y|text\n", {"delimiter": "pipe"}),
        ("a.txt", "x\ttext\n", {"format": "tsv"}),
    ],
)
def test_delimiters(tmp_path: Path, name: str, content: str, settings: dict[str, Any]) -> None:
    mark = {"a.tsv": "\t", "a.txt": "\t"}.get(name, "|" if "delimiter" in settings else ";")
    if name == "a.csv" and not settings:
        content = '"x;y,,,";text\n'
    path = file(tmp_path, name, content + f"1{mark}one, two\n2{mark}three\n")
    run(path, **settings)
    assert stored(path) == ["one, two", "three"]


@pytest.mark.parametrize(
    ("encoding", "codec", "text"),
    [
        ("auto", "utf-8-sig", ODD),
        ("auto", "utf-16", ODD),
        ("auto", "utf-32", ODD),
        ("utf-16", "utf-16-le", ODD),
        ("utf-16", "utf-16-be", "plain and " + ODD),
        ("latin-1", "latin-1", "Füße"),
        ("cp1252", "cp1252", "“Füße”"),
        ("gb18030", "gb18030", "漢字 🦊"),
        ("shift_jis", "shift_jis", "日本語"),
        ("euc_kr", "euc_kr", "한국어"),
    ],
)
def test_encodings(tmp_path: Path, encoding: str, codec: str, text: str) -> None:
    path = file(tmp_path, "a.txt", text.encode(codec))
    facts = run(path, encoding=encoding, sample_unit="file")
    assert stored(path) == [text]
    assert facts.bad_bytes == 0


def test_wrong_encoding_is_counted(tmp_path: Path) -> None:
    path = file(tmp_path, "a.txt", "日本語 and much plain text beside it".encode("shift_jis"))
    assert run(path).bad_bytes > 0
    path = file(tmp_path, "b.txt", "Füße".encode("latin-1"))
    assert run(path, encoding="utf-8").bad_bytes == 2


@pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress)])
def test_compressed_text(tmp_path: Path, ending: str, pack: Any) -> None:
    content = "\n".join(json.dumps({"text": f"row {i} {ODD}"}) for i in range(500)).encode()
    path = file(tmp_path, f"a.jsonl{ending}", pack(content[:9000]) + pack(content[9000:]))
    facts = run(path)
    assert stored(path) == [f"row {i} {ODD}" for i in range(500)]
    assert facts.format == "jsonl"
    broken = file(tmp_path, f"b.jsonl{ending}", pack(content)[:-200])
    with pytest.raises(Damaged, match=r"b\.jsonl.* is damaged"):
        run(broken)
    with pytest.raises(Damaged, match=r"c\.csv.* is damaged"):
        run(file(tmp_path, f"c.csv{ending}", b"no such thing"))


def test_several_text_columns(tmp_path: Path) -> None:
    rows = [
        {"title": "T1", "body": "B1", "n": 1},
        {"title": "", "body": "B2", "n": 2},
        {"title": "T3", "body": None, "n": 3},
    ]
    path = file(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    facts = run(path, text_column=("title", "body"))
    assert stored(path) == ["T1\n\nB1", "B2", "T3"]
    assert (facts.text_column, facts.columns) == ("title, body", ["n"])
    pq.write_table(pa.table({k: [r[k] for r in rows] for k in rows[0]}), tmp_path / "a.parquet")
    run(tmp_path / "a.parquet", text_column=("body", "title"))
    assert stored(path) == ["B1\n\nT1", "B2", "T3"]


TABLE = pa.table(
    {
        "id": pa.array([1, 2, 3], pa.int32()),
        "text": pa.array(["one", None, ODD]),
        "tags": pa.array([["a"], [], None]),
        "picture": pa.array([{"bytes": b"\x89P", "path": "x"}] * 3),
        "kind": pa.array(["u", "v", "u"]).dictionary_encode(),
    }
)


@pytest.mark.parametrize("name", ["file.arrow", "stream.arrow", "a.parquet"])
def test_tables(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "a.parquet":
        pq.write_table(TABLE, path, row_group_size=2)
    else:
        make = pa.ipc.new_file if name == "file.arrow" else pa.ipc.new_stream
        with pa.OSFile(str(path), "wb") as sink, make(sink, TABLE.schema) as writer:
            writer.write_table(TABLE, max_chunksize=2)
    facts = run(path)
    assert stored(path) == ["one", ODD]
    assert facts.columns == ["id", "tags", "kind"]
    assert TextStore(tmp_path / "ds").metadata(0) == {"id": "1", "tags": '["a"]', "kind": "u"}
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    with pytest.raises(Damaged):
        run(path)


def test_one_large_batch_is_read_by_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mistudio.ml.data.readers_arrow._SLICE_BYTES", 1000)
    table = pa.table({"text": [f"{i} {ODD}" for i in range(300)]})
    sink = pa.OSFile(str(tmp_path / "a.arrow"), "wb")
    with sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    run(tmp_path / "a.arrow")
    assert stored(tmp_path / "a.arrow") == table.column("text").to_pylist()


def test_save_to_disk_folders(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    one = datasets.Dataset.from_dict({"content": ["a", "b"], "n": [1, 2]})
    one.save_to_disk(tmp_path / "one")
    run(tmp_path / "one")
    assert stored(tmp_path / "one") == ["a", "b"]
    both = datasets.DatasetDict({"test": one, "train": one.select([1])})
    both.save_to_disk(tmp_path / "both")
    facts = run(tmp_path / "both")
    assert stored(tmp_path / "both") == ["b", "a", "b"]
    assert facts.splits == {"train": [0, 1], "test": [1, 3]}
    assert facts.format == "saved"
    next((tmp_path / "both" / "test").glob("*.arrow")).unlink()
    with pytest.raises(Damaged, match=r"lacks data-00000-of-00001\.arrow"):
        run(tmp_path / "both")
    state = tmp_path / "one" / "state.json"
    (secret := tmp_path / "secret.arrow").write_bytes(b"x")
    state.write_text(json.dumps({"_data_files": [{"filename": str(secret)}]}))
    with pytest.raises(Damaged, match=r"lacks secret\.arrow"):
        run(tmp_path / "one")
    with pytest.raises(InvalidInput, match="was not written by save_to_disk"):
        run(tmp_path / "ds", format="saved")


def test_folder_of_text(tmp_path: Path) -> None:
    root = tmp_path / "texts"
    file(root, "b.md", "# B\n\nmore\n")
    file(root, "a/one.txt", "one\n\ntwo")
    file(root, "a/empty.txt", "")
    file(root, ".hidden/no.txt", "no")
    file(root, "z.py", "print()")
    facts = run(root)
    assert stored(root) == ["one\n\ntwo", "# B\n\nmore\n"]
    assert TextStore(tmp_path / "ds").metadata(0) == {"file": "a/one.txt"}
    assert (facts.format, facts.columns) == ("folder", ["file"])
    run(root, sample_unit="paragraph")
    assert stored(root) == ["one", "two", "# B", "more"]


def test_a_folder_of_everything_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mistudio.ml.data.source_files._MOST_ENTRIES", 3)
    for i in range(4):
        file(tmp_path / "much", f"{i}.txt", "x")
    with pytest.raises(InvalidInput, match="'much' holds more than 3 files"):
        run(tmp_path / "much")


def test_folder_of_shards(tmp_path: Path) -> None:
    root = tmp_path / "shards"
    root.mkdir()
    for name, texts in (("test-00000-of-00001", ["t"]), ("train-00000-of-00002", ["a" * 99])):
        pq.write_table(pa.table({"text": texts, "n": [1]}), root / f"{name}.parquet")
    pq.write_table(pa.table({"text": ["b"]}), root / "train-00001-of-00002.parquet")
    file(root, "README.md", "about")
    facts = run(root)
    assert facts.splits == {"train": [0, 2], "test": [2, 3]}
    assert stored(root) == ["a" * 99, "b", "t"]
    assert TextStore(tmp_path / "ds").metadata(1) == {"n": ""}
    pq.write_table(pa.table({"body": ["b"]}), root / "train-00001-of-00002.parquet")
    with pytest.raises(InvalidInput, match=r"train-00001.* has no column 'text' with text"):
        run(root)
    with pytest.raises(InvalidInput, match="holds no csv files"):
        run(root, format="csv")


def test_one_sample_per_what(tmp_path: Path) -> None:
    path = file(tmp_path, "a.txt", "one\ntwo\nthree\n")
    run(path)
    assert stored(path) == ["one", "two", "three"]
    path = file(tmp_path, "a.txt", "one\ntwo\n\nthree\n")
    run(path)
    assert stored(path) == ["one\ntwo", "three"]
    path = file(tmp_path, "a.md", "one\n\ntwo\n")
    run(path)
    assert stored(path) == ["one\n\ntwo\n"]


def test_split_shares(tmp_path: Path) -> None:
    path = file(tmp_path, "a.txt", "\n".join(f"line {i % 2000}" for i in range(4000)))
    facts = run(path, validation_share=0.2, test_share=0.1)
    store = TextStore(tmp_path / "ds")
    sizes = {name: len(numbers) / 4000 for name, numbers in store.splits.items()}
    assert list(sizes) == ["train", "validation", "test"]
    assert sizes["validation"] == pytest.approx(0.2, abs=0.03)
    assert sizes["test"] == pytest.approx(0.1, abs=0.03)
    assert {k: [v.start, v.stop] for k, v in store.splits.items()} == facts.splits
    by_text: dict[str, set[str]] = {}
    for i, text in enumerate(store.texts(0, 4000)):
        by_text.setdefault(text, set()).add(store.split_of(i))
    assert len(by_text) == 2000
    assert all(len(splits) == 1 for splits in by_text.values())


def test_cancel_inside_one_huge_document(tmp_path: Path) -> None:
    path = file(tmp_path, "a.txt", b"word " * 2_000_000)
    control, calls = JobControl(), []

    def check() -> None:
        calls.append(1)
        if len(calls) == 4:
            raise Cancelled

    control.check = check  # type: ignore[method-assign]
    with pytest.raises(Cancelled):
        import_text(
            ImportDatasetConfig(path=str(path), sample_unit="file"),
            tmp_path / "ds", RecordingReporter(), control,
        )  # fmt: skip
    assert len(calls) == 4
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_wrong_kind_of_path(tmp_path: Path) -> None:
    path = file(tmp_path, "a.txt", "x")
    with pytest.raises(StudioError, match="the format saved needs a folder"):
        run(path, format="saved")


def test_old_stores_stay_readable(tmp_path: Path) -> None:
    path = file(tmp_path, "a.txt", f"one\n\ntwo\n\n{ODD}")
    run(path)
    text = tmp_path / "ds" / "text"
    (text / "train.arrow").rename(text / "all.arrow")
    (text / "train.lengths").unlink()
    (tmp_path / "ds" / "info.json").unlink()
    store = TextStore(tmp_path / "ds")
    assert store.texts(0, 9) == ["one", "two", ODD]
    assert store.splits == {"train": range(3)}
    assert store.lengths().tolist() == [3, 3, len(ODD)]


def test_columns_of_a_store(tmp_path: Path) -> None:
    path = file(tmp_path, "a.jsonl", '{"text": "t", "title": "x"}\n{"text": "u", "title": "y"}')
    run(path, text_column=("title",))
    store = TextStore(tmp_path / "ds")
    assert store.columns == ["text_"]
    assert store.column_texts("", 0, 2) == ["x", "y"]
    assert store.column_texts("text_", 1, 2) == ["u"]
    with pytest.raises(InvalidInput, match="no column 'z'; there are text, text_"):
        store.column_texts("z", 0, 1)
