"""Reads documents from txt, jsonl, csv and parquet files as a stream of rows."""

from __future__ import annotations

import codecs
import csv
import itertools
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mistudio.core.errors import Damaged, InvalidInput
from mistudio.ml.data.columns import choose_column, kind_of_arrow, kind_of_text, kind_of_values
from mistudio.ml.data.text_writer import Row
from mistudio.ml.data.write_dataset import MAX_CHARACTERS, SourceState

_BLOCK = 1 << 20
_PEEK = 1000  # rows looked at to find the text column
_ENDINGS = {
    ".txt": "txt", ".text": "txt", ".md": "txt",
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl",
    ".csv": "csv", ".tsv": "csv",
    ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip


@dataclass
class SourceFile(SourceState):
    """A file being read, and what was noticed on the way."""

    path: Path = Path()
    format: str = "txt"
    columns: list[str] = field(default_factory=list)  # metadata columns beside the text
    text_column: str = ""


def open_source(path: Path, wanted: str) -> SourceFile:
    """Check that a file can hold text and settle its format ("auto" goes by the ending).

    Raises `InvalidInput` for what is missing, empty, a folder or binary.
    """
    if path.is_dir():
        raise InvalidInput(f"{path.name!r} is a folder; choose a txt, jsonl, csv or parquet file.")
    if not path.is_file():
        raise InvalidInput(f"There is no file {str(path)!r}.", code="not_found")
    if path.stat().st_size == 0:
        raise InvalidInput(f"{path.name} is empty.", code="empty_file")
    kind = _ENDINGS.get(path.suffix.lower(), "txt") if wanted == "auto" else wanted
    if kind != "parquet":
        with path.open("rb") as stream:
            _refuse_binary(path, stream.read(1 << 16))
    return SourceFile(path.name, path.stat().st_size, path=path, format=kind)


def _refuse_binary(path: Path, head: bytes) -> None:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return
    text = head.decode("utf-8", errors="replace")
    if b"\0" in head or text.count("\ufffd") > max(8, len(text) // 5):
        hint = " Choose the format parquet for it." if head.startswith(b"PAR1") else ""
        raise InvalidInput(f"{path.name} is a binary file, not text.{hint}", code="binary_file")


def read_rows(source: SourceFile, text_column: str, sample_unit: str) -> Iterator[Row]:
    """Every document of the file in order; empty ones are left to the caller.

    Sets `source.text_column` and `source.columns` before the first row comes.
    """
    if source.format == "txt":
        source.text_column = "text"
        return _text_rows(source, sample_unit)
    readers = {"jsonl": _json_rows, "csv": _csv_rows, "parquet": _parquet_rows}
    return readers[source.format](source, text_column)


def decoded_blocks(source: SourceFile) -> Iterator[str]:
    """The file as text, block by block. UTF-8, or UTF-16 if it says so; bad bytes are counted."""

    def replace(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeDecodeError):
            raise error
        source.bad_bytes += error.end - error.start
        return "\ufffd", error.end

    handler = f"mistudio-count-{id(source)}"
    codecs.register_error(handler, replace)
    with source.path.open("rb") as stream:
        wide = stream.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        stream.seek(0)
        decoder = codecs.getincrementaldecoder("utf-16" if wide else "utf-8-sig")(errors=handler)
        while block := stream.read(_BLOCK):
            source.bytes_read += len(block)
            yield decoder.decode(block)
        yield decoder.decode(b"", final=True)


def lines(blocks: Iterable[str]) -> Iterator[str]:
    """Lines with their ends (\\n or \\r\\n only), none longer than `MAX_CHARACTERS`."""
    rest = ""
    for block in blocks:
        parts = (rest + block).split("\n")
        rest = parts.pop()
        for part in parts:
            yield part + "\n"
        while len(rest) > MAX_CHARACTERS:
            cut = rest.rfind(" ", MAX_CHARACTERS // 2, MAX_CHARACTERS) + 1 or MAX_CHARACTERS
            yield rest[:cut]
            rest = rest[cut:]
    if rest:
        yield rest


def _text_rows(source: SourceFile, unit: str) -> Iterator[Row]:
    if unit == "line":
        for line in lines(decoded_blocks(source)):
            yield Row(line.rstrip("\r\n"))
        return
    gathered: list[str] = []
    size = 0
    for line in lines(decoded_blocks(source)):
        blank = unit == "paragraph" and not line.strip()
        if blank or size + len(line) > MAX_CHARACTERS:
            yield _joined(gathered, unit)
            gathered, size = [], 0
        if not blank:
            gathered.append(line)
            size += len(line)
    yield _joined(gathered, unit)


def _joined(gathered: list[str], unit: str) -> Row:
    text = "".join(gathered)
    return Row(text.rstrip("\r\n") if unit == "paragraph" else text)


def _json_rows(source: SourceFile, text_column: str) -> Iterator[Row]:
    rows = _json_objects(source)
    head = list(itertools.islice(rows, _PEEK))
    if not head:
        raise InvalidInput(f"{source.path.name} holds no rows.", code="empty_file")
    if all(isinstance(row, str) for row in head):
        head = [{"text": row} for row in head]
    columns = list(dict.fromkeys(key for row in head if isinstance(row, dict) for key in row))
    kinds = {c: kind_of_values([r.get(c) for r in head if isinstance(r, dict)]) for c in columns}
    chosen = choose_column(kinds, text_column)
    source.text_column, source.columns = chosen, [c for c in columns if c != chosen]
    return _json_documents(source, itertools.chain(head, rows))


def _json_documents(source: SourceFile, rows: Iterable[Any]) -> Iterator[Row]:
    for number, row in enumerate(rows, 1):
        value = row if isinstance(row, str) else _member(source, row, number)
        if value is not None and not isinstance(value, str):
            raise InvalidInput(
                f"Row {number:,} of {source.path.name} has no text in {source.text_column!r}."
            )
        others = row if isinstance(row, dict) else {}
        yield Row(value or "", [_as_text(others.get(c)) for c in source.columns])


def _member(source: SourceFile, row: Any, number: int) -> Any:
    if not isinstance(row, dict):
        raise InvalidInput(f"Row {number:,} of {source.path.name} is not a JSON object.")
    return row.get(source.text_column)


def _json_objects(source: SourceFile) -> Iterator[Any]:
    number = 0
    for line in _unbounded_lines(decoded_blocks(source)):
        if not line.strip():
            continue
        number += 1
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == 1 and line.lstrip().startswith("["):
                raise InvalidInput(
                    f"{source.path.name} holds one JSON list; save it with one object per line."
                ) from error
            raise InvalidInput(
                f"Row {number:,} of {source.path.name} is not valid JSON.", details=str(error)
            ) from error
        if number == 1 and isinstance(value, list):
            yield from value
            return
        yield value


def _unbounded_lines(blocks: Iterable[str]) -> Iterator[str]:
    """Whole lines however long; a row of JSON or csv cannot be cut."""
    gathered: list[str] = []
    for block in blocks:
        first, *others = block.split("\n")
        gathered.append(first)
        for other in others:
            yield "".join(gathered) + "\n"
            gathered = [other]
    if last := "".join(gathered):
        yield last


def _csv_rows(source: SourceFile, text_column: str) -> Iterator[Row]:
    text_lines = _unbounded_lines(decoded_blocks(source))
    first = next(text_lines, "")
    tabbed = source.path.suffix.lower() == ".tsv"
    delimiter = "\t" if tabbed else max(",;\t|", key=first.count)
    reader = csv.reader(itertools.chain([first], text_lines), delimiter=delimiter)
    rows = _csv_fields(source, reader)
    header = next(rows, [])
    if len(set(header)) != len(header):
        raise InvalidInput(f"The header of {source.path.name} names a column twice.")
    head = list(itertools.islice(rows, _PEEK))
    kinds = {
        name: kind_of_text([row[i] for row in head if i < len(row)])
        for i, name in enumerate(header)
    }
    chosen = choose_column(kinds, text_column)
    place = header.index(chosen)
    source.text_column, source.columns = chosen, [c for c in header if c != chosen]
    return _csv_documents(itertools.chain(head, rows), place, len(header))


def _csv_documents(rows: Iterable[list[str]], place: int, width: int) -> Iterator[Row]:
    for row in rows:
        padded = row + [""] * (width - len(row))
        yield Row(padded[place], padded[:place] + padded[place + 1 :])


def _csv_fields(source: SourceFile, reader: Iterator[list[str]]) -> Iterator[list[str]]:
    width, number = 0, 0
    with _long_fields():
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise Damaged(
                    f"Row {number:,} of {source.path.name} is not valid csv.", details=str(error)
                ) from error
            if not row:
                continue
            width = width or len(row)
            if len(row) > width:
                raise InvalidInput(
                    f"Row {number:,} of {source.path.name} has {len(row)} fields, the header "
                    f"{width}; quote fields that contain the separator."
                )
            yield row
            number += 1


@contextmanager
def _long_fields() -> Iterator[None]:
    """The csv module refuses fields above 131,072 characters; a document may be longer."""
    before = csv.field_size_limit(1 << 30)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _parquet_rows(source: SourceFile, text_column: str) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(source.path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Damaged(
            f"{source.path.name} is no readable parquet file.", details=str(error)
        ) from error
    kinds = {f.name: kind_of_arrow(f.type) for f in file.schema_arrow}
    chosen = choose_column(kinds, text_column)
    source.text_column, source.columns = chosen, [c for c in kinds if c != chosen]
    return _parquet_documents(source, file)


def _parquet_documents(source: SourceFile, file: Any) -> Iterator[Row]:
    import pyarrow as pa

    total, seen = max(1, file.metadata.num_rows), 0
    try:
        for batch in file.iter_batches(batch_size=_PEEK):
            texts = batch.column(source.text_column).to_pylist()
            others = [batch.column(name).to_pylist() for name in source.columns]
            seen += len(texts)
            source.bytes_read = source.path.stat().st_size * seen // total
            for i, text in enumerate(texts):
                yield Row(text or "", [_as_text(column[i]) for column in others])
    except (pa.ArrowException, OSError) as error:
        raise Damaged(
            f"{source.path.name} is damaged; get it again.", details=str(error)
        ) from error


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
