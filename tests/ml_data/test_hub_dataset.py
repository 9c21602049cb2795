"""Repositories as the datasets library reads them: configs, splits, formats, columns, limits."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mistudio.core.control import JobControl
from mistudio.core.errors import Cancelled, Damaged, InvalidInput, NoAnswer, Unsupported
from mistudio.ml.data.hub_dataset import read_layout
from mistudio.ml.data.hub_rows import documents, first_rows, kinds_of, settle_columns
from mistudio.ml.data.hub_stream import SMALL_PIECE, RowStream

ROWS = [
    {"id": i, "text": f"Row {i} tells a story.", "day": f"2024-01-0{i % 9 + 1}"} for i in range(60)
]


class MemorySource:
    """Files in memory; as if far away, or as if on this machine when given a folder."""

    def __init__(self, files: dict[str, bytes], folder: Path | None = None) -> None:
        self.files = files
        self.control = JobControl()
        self.folder = folder
        self.fetched = 0
        self._known: set[tuple[str, int]] = set()
        self.fails_after: int | None = None
        for name, content in files.items():
            if folder is None:
                break
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    @property
    def sizes(self) -> dict[str, int]:
        return {name: len(content) for name, content in self.files.items()}

    def local(self, path: str) -> Path | None:
        return self.folder / path if self.folder else None

    def read(self, path: str, start: int, end: int) -> bytes:
        if self.fails_after is not None and self.fetched >= self.fails_after:
            raise NoAnswer("No answer for 30 s.")
        if (path, start) not in self._known:  # the real source keeps the last pieces
            self._known.add((path, start))
            self.fetched += end - start
        return self.files[path][start:end]


def parquet(rows: list[dict[str, Any]], **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, **options)
    return sink.getvalue()


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def arrow(rows: list[dict[str, Any]]) -> bytes:
    table, sink = pa.Table.from_pylist(rows), io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def csv(rows: list[dict[str, Any]], mark: str = ",") -> bytes:
    lines = [mark.join(rows[0])] + [mark.join(str(value) for value in row.values()) for row in rows]
    return "\n".join(lines).encode()


def zipped(name: str, content: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return sink.getvalue()


def rows_of(
    source: MemorySource, config: str = "", split: str = ""
) -> dict[str, list[dict[str, Any]]]:
    """Every row by split, read through the library."""
    card = source.files.get("README.md", b"").decode()
    layout = read_layout("o/name", source, card, config)
    found: dict[str, list[dict[str, Any]]] = {}
    with RowStream(layout, source, layout.chosen(split)) as stream:
        for name, table in stream.tables():
            found.setdefault(name, []).extend(table.to_pylist())
    return found


@pytest.fixture(params=["near", "far"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    """Whether the files are on this machine or fetched piece by piece."""
    return tmp_path / "files" if request.param == "near" else None


FORMATS = {
    "train.parquet": parquet(ROWS, row_group_size=7),
    "train.jsonl": jsonl(ROWS),
    "train.json": json.dumps(ROWS).encode(),
    "train.csv": csv(ROWS),
    "train.tsv": csv(ROWS, "\t"),
    "train.json.gz": gzip.compress(jsonl(ROWS)),
    "train.csv.gz": gzip.compress(csv(ROWS)),
    "data.zip": zipped("train.jsonl", jsonl(ROWS)),
    "train.arrow": arrow(ROWS),
    "train.txt": "\n".join(row["text"] for row in ROWS).encode(),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_every_row_once(name: str, place: Path | None) -> None:
    found = rows_of(MemorySource({name: FORMATS[name], "README.md": b"# A set\n"}, place))
    assert list(found) == ["train"]
    assert [row["text"] for row in found["train"]] == [row["text"] for row in ROWS]


SHAPES = {
    "a list over lines": json.dumps(ROWS, indent=1).encode(),
    "a list packed": gzip.compress(json.dumps(ROWS).encode()),
    "an object around the list": json.dumps({"version": 1, "data": ROWS}, indent=1).encode(),
    "objects over lines": "\n".join(json.dumps(row, indent=1) for row in ROWS).encode(),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_json_of_any_shape_is_read_piece_by_piece(shape: str, place: Path | None) -> None:
    name = "train.json.gz" if "packed" in shape else "train.json"
    assert rows_of(MemorySource({name: SHAPES[shape]}, place))["train"] == ROWS


def test_a_json_list_is_fetched_only_as_far_as_needed() -> None:
    content = json.dumps([{"id": i, "text": "word " * 2000, "odd": i if i % 2 else str(i)}
                          for i in range(1000)]).encode()  # fmt: skip
    source = MemorySource({"a.json": content})
    with RowStream(read_layout("o/name", source, ""), source, ["train"]) as stream:
        _, table = next(iter(stream.tables(10)))
    assert table["odd"].to_pylist()[:3] == ["0", "1", "2"]
    assert source.fetched < 0.25 * len(content)


def test_files_and_rows_of_a_split_need_not_agree(place: Path | None) -> None:
    files = {
        "a.jsonl": jsonl([{"text": "one", "n": 1}]),
        "b.jsonl": jsonl([{"text": "two", "n": "x", "more": [1]}, {"text": "three"}]),
    }
    assert [row["text"] for row in rows_of(MemorySource(files, place))["train"]] == [
        "one", "two", "three"]  # fmt: skip
    files = {"a.csv": b"n,text\n1,one\n", "b.csv": b"text,n,m\ntwo,x,2\n"}
    assert [row["text"] for row in rows_of(MemorySource(files, place))["train"]] == ["one", "two"]
    files = {"a.parquet": parquet([{"text": "one"}]), "b.parquet": parquet([{"n": 1}])}
    source = MemorySource(files, place)
    with RowStream(read_layout("o/n", source, ""), source, ["train"]) as stream:
        columns = settle_columns({"n": "number", "text": "text"}, ())
        found = list(documents(stream.tables(columns=columns.read), columns))
    assert found == [("train", ("one", [""])), ("train", ("", ["1"]))]


def test_bytes_that_are_no_text_are_replaced(place: Path | None) -> None:
    for name, content in {"a.txt": b"caf\xe9", "a.csv": b"n,text\n1,caf\xe9\n",
                          "a.jsonl": b'{"text": "caf\xe9"}'}.items():  # fmt: skip
        assert rows_of(MemorySource({name: content}, place))["train"][-1]["text"] == "caf\ufffd"


def test_the_card_names_another_encoding(place: Path | None) -> None:
    card = b"---\nconfigs:\n- config_name: a\n  encoding: latin-1\n---\n"
    for name, content in {"a.txt": b"caf\xe9", "a.csv": b"n,text\n1,caf\xe9\n"}.items():
        found = rows_of(MemorySource({"README.md": card, name: content}, place))
        assert found["train"][-1]["text"] == "caf\xe9"


def test_many_files_are_sorted_out() -> None:
    names = [f"data/train-{i:05d}-of-05000.parquet" for i in range(5000)]
    layout = read_layout("o/name", MemorySource(dict.fromkeys(names, b"")), "")
    assert layout.files == {"train": names}


def test_a_broken_row_of_a_json_list_is_named() -> None:
    source = MemorySource({"train.json": b'[{"text": "a"}, {"text": ]'})
    with pytest.raises(InvalidInput, match=r"Row 2 of train.json is not valid JSON"):
        rows_of(source)
    source = MemorySource({"data/x.jsonl": b'{"text": "a"}\n{"text": "b"}\n{oops\n'})
    with pytest.raises(InvalidInput, match=r"Row 3 of x.jsonl is not valid JSON"):
        rows_of(source)


CONFIGS = {
    "README.md": (
        b"---\nlicense: cc-by-4.0\nconfigs:\n- config_name: en\n  data_files:\n  - split: train\n"
        b"    path: en/*.jsonl\n- config_name: de\n  default: true\n  sep: ';'\n  data_files:\n"
        b"  - split: train\n    path: de/train.csv\n  - split: test\n    path: de/test.csv\n"
        b"---\n# Two languages\n\nLines in German\nand English.\n\nMore.\n"
    ),
    "en/a.jsonl": jsonl(ROWS[:3]),
    "de/train.csv": csv([{"nr": 1, "content": "Guten Tag"}, {"nr": 2, "content": "Hallo"}], ";"),
    "de/test.csv": csv([{"nr": 3, "content": "Ja"}], ";"),
}


def test_the_card_names_configs_splits_and_how_files_are_read(place: Path | None) -> None:
    source = MemorySource(CONFIGS, place)
    layout = read_layout("o/name", source, CONFIGS["README.md"].decode())
    assert layout.configs == ["en", "de"]
    assert layout.config == "de"
    assert layout.files == {"train": ["de/train.csv"], "test": ["de/test.csv"]}
    assert layout.licence == "cc-by-4.0"
    assert layout.description == "Lines in German and English."
    assert rows_of(source)["train"] == [
        {"nr": 1, "content": "Guten Tag"},
        {"nr": 2, "content": "Hallo"},
    ]
    assert list(rows_of(source, split="test")) == ["test"]
    assert len(rows_of(source, config="en")["train"]) == 3


def test_an_unknown_config_or_split_names_those_there_are() -> None:
    source = MemorySource(CONFIGS)
    with pytest.raises(InvalidInput, match="no config 'fr'; found en, de"):
        rows_of(source, config="fr")
    with pytest.raises(InvalidInput, match="no split 'dev'; found train, test"):
        rows_of(source, split="dev")


def test_splits_come_from_names_of_files_and_folders() -> None:
    found = read_layout(
        "o/name",
        MemorySource({"data/test-00000-of-00001.parquet": parquet(ROWS[:2]),
                      "data/train-00000-of-00002.parquet": parquet(ROWS[:2]),
                      "data/train-00001-of-00002.parquet": parquet(ROWS[2:4])}),
        "",
    )  # fmt: skip
    assert found.files == {
        "train": ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
        "test": ["data/test-00000-of-00001.parquet"],
    }


def test_what_the_card_declares_gives_rows_and_types() -> None:
    card = (
        "---\ndataset_info:\n  features:\n  - name: id\n    dtype: string\n  - name: text\n"
        "    dtype: string\n  splits:\n  - name: train\n    num_bytes: 10\n    num_examples: 60\n"
        "---\n"
    )
    source = MemorySource({"README.md": card.encode(), "train.csv": csv(
        [{"id": row["id"], "text": row["text"]} for row in ROWS])})  # fmt: skip
    assert read_layout("o/name", source, card).rows == {"train": 60}
    assert rows_of(source)["train"][3]["id"] == "3"


@pytest.mark.parametrize(
    ("files", "kind", "words"),
    [
        ({"name.py": b"x", "a.csv": b"a,b\n1,2"}, Unsupported, "needs its own loading script"),
        ({"README.md": b"# nothing"}, Unsupported, "no files that can be read here"),
        ({"a.png": b"1", "b.png": b"2"}, Unsupported, "hold no text"),
        ({"a.pkl": b"1"}, Unsupported, "no files that can be read here"),
        ({"train.parquet": b"broken"}, Damaged, "cannot be read"),
        ({"train.zip": b"broken"}, Damaged, "cannot be opened"),
        ({"README.md": b"---\nconfigs: 3\n---\n", "a.csv": b"a"}, Unsupported, "describes its"),
    ],
)
def test_what_cannot_be_read_is_said(files: dict[str, bytes], kind: type, words: str) -> None:
    with pytest.raises(kind, match=words):
        rows_of(MemorySource(files))


@pytest.mark.parametrize(
    "pattern",
    ["/etc/passwd", "file:///etc/hosts", "https://example.org/a.csv", "../../x.csv", "~/a"],
)
@pytest.mark.parametrize("key", ["data_files", "data_dir"])
def test_a_card_reaches_no_file_outside_its_repository(pattern: str, key: str) -> None:
    card = f"---\nconfigs:\n- config_name: a\n  {key}: '{pattern}'\n---\n"
    with pytest.raises(Unsupported, match="outside its repository"):
        read_layout("o/name", MemorySource({"a.csv": b"a,b"}), card)


def test_a_broken_head_of_the_card_counts_as_none() -> None:
    source = MemorySource({"README.md": b"---\na: [\n---\n", "train.jsonl": jsonl(ROWS)})
    assert len(rows_of(source)["train"]) == 60


def test_only_the_beginning_is_fetched_for_the_first_rows() -> None:
    long = [{"id": i, "text": "word " * 2000} for i in range(2000)]
    for name, content in {"a.jsonl": jsonl(long), "a.parquet": parquet(
        long, compression="none", use_dictionary=False, row_group_size=2000,
            data_page_size=1 << 16, write_batch_size=8)}.items():  # fmt: skip
        source = MemorySource({name: content})
        layout = read_layout("o/name", source, "")
        with RowStream(layout, source, ["train"], piece_bytes=SMALL_PIECE) as stream:
            _, table = next(iter(stream.tables(10)))
        assert first_rows(table, 10)[9]["id"] == "9"
        assert len(first_rows(table, 10)[0]["text"]) == 2000
        assert source.fetched < 0.25 * len(content), name


def test_a_cancel_and_a_lost_connection_come_through_the_library_unchanged() -> None:
    for name in ("train.jsonl", "train.parquet", "train.csv", "train.json.gz", "data.zip"):
        source = MemorySource({name: FORMATS[name]})
        source.control.cancel()
        with pytest.raises(Cancelled):
            rows_of(source)
        source = MemorySource({name: FORMATS[name]})
        source.fails_after = 0
        with pytest.raises(NoAnswer, match="30 s"):
            rows_of(source)


def test_the_column_rule_and_several_columns() -> None:
    table = pa.table({"id": [1], "when": ["2024-01-01"], "title": ["T"], "Content": ["c"]})
    kinds = kinds_of(table)
    assert kinds == {"id": "number", "when": "date", "title": "text", "Content": "text"}
    assert settle_columns(kinds, ()).text == ("Content",)
    both = settle_columns(kinds, ("title", "Content"))
    assert both.others == ("id", "when")
    assert [row for _, row in documents([("train", table)], both)] == [
        ("T\n\nc", ["1", "2024-01-01"])
    ]
    with pytest.raises(
        InvalidInput, match=r"No column holds text; found id \(number\), when \(date\)"
    ):
        settle_columns(kinds_of(table.select(["id", "when"])), ())
    with pytest.raises(InvalidInput, match="no column 'body'"):
        settle_columns(kinds, ("title", "body"))


def test_vectors_and_bytes_are_not_kept_beside_the_text() -> None:
    table = pa.table(
        {
            "text": ["a"],
            "v": [[0.5, 1.0]],
            "raw": [b"12"],
            "tags": [["x", "y"]],
            "none": pa.nulls(1),
        }
    )
    columns = settle_columns(kinds_of(table), ())
    assert columns.left_out == ("v", "raw")
    assert [row.metadata for _, row in documents([("train", table)], columns)] == [
        ['["x", "y"]', ""]
    ]


def test_the_first_rows_and_tokens_end_the_reading() -> None:
    table = pa.table({"text": ["one two", "", "  ", "three", "four five six", "seven"]})
    columns = settle_columns(kinds_of(table), ())
    tables = [("train", table)]
    assert [r.text for _, r in documents(tables, columns, rows=2)] == ["one two", "", "  ", "three"]
    kept = [r.text for _, r in documents(tables, columns, tokens=4)]
    assert kept == ["one two", "", "  ", "three", "four five six"]
