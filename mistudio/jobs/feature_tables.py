"""Tables of features as CSV, Parquet, JSON and JSON lines, each read again before it is named.

In CSV, columns that hold lists are JSON. JSON is one array with one feature to the line. Writers
take records one at a time, so memory does not grow with the number of features.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from mistudio.core.atomic import atomic_file
from mistudio.core.errors import Damaged, from_os_error
from mistudio.jobs.feature_records import COLUMNS, Record

PARQUET_ROWS = 1024  # features to a row group
MAX_FIELD = 1 << 30
NAMES = [column.name for column in COLUMNS]
LISTS = {column.name for column in COLUMNS if column.kind in ("texts", "weights")}


def write_table(kind: str, records: Iterable[Record], path: Path) -> int:
    """Write records as csv, parquet, json or jsonl; returns how many were written.

    The file takes its name only after it was read again with as many rows and the right columns.
    Raises `Damaged` if it was not, and what the disk says.
    """
    write, check = _WRITERS[kind]
    try:
        with atomic_file(path) as temporary:
            written = write(temporary, records)
            found = check(temporary)
            if found != written:
                raise Damaged(f"{path.name} came out with {found:,} of {written:,} features.")
    except OSError as error:
        raise from_os_error(error, f"write {path.name}") from error
    return written


def _write_csv(path: Path, records: Iterable[Record]) -> int:
    written = 0
    with path.open("w", encoding="utf-8", newline="") as stream:
        out = csv.writer(stream)
        out.writerow(NAMES)
        for record in records:
            out.writerow([_cell(name, record[name]) for name in NAMES])
            written += 1
    return written


def _cell(name: str, value: Any) -> Any:
    if value is None:
        return ""
    if name in LISTS:
        return _json(value)
    return int(value) if isinstance(value, bool) else value


def _check_csv(path: Path) -> int:
    csv.field_size_limit(MAX_FIELD)
    with path.open(encoding="utf-8", newline="") as stream:
        rows = csv.reader(stream)
        if next(rows, None) != NAMES:
            raise Damaged("The table's head is wrong.")
        return sum(_whole_row(row) for row in rows)


def _whole_row(row: list[str]) -> int:
    if len(row) != len(NAMES):
        raise Damaged(f"A row of the table has {len(row)} of {len(NAMES)} columns.")
    int(row[0])
    return 1


def _write_jsonl(path: Path, records: Iterable[Record]) -> int:
    written = 0
    with path.open("w", encoding="utf-8") as stream:
        for record in records:
            stream.write(_json(record) + "\n")
            written += 1
    return written


def _write_json(path: Path, records: Iterable[Record]) -> int:
    written = 0
    with path.open("w", encoding="utf-8") as stream:
        stream.write("[")
        for record in records:
            stream.write((",\n" if written else "\n") + _json(record))
            written += 1
        stream.write("\n]\n")
    return written


def _check_jsonl(path: Path) -> int:
    with path.open(encoding="utf-8") as stream:
        return sum(_whole_record(line) for line in stream)


def _check_json(path: Path) -> int:
    """Line by line: whole, the array of a large SAE would not fit into memory."""
    count = 0
    with path.open(encoding="utf-8") as stream:
        if next(stream, "").strip() != "[":
            raise Damaged("The file is no array.")
        previous = ""
        for line in stream:
            if previous:
                count += _whole_record(previous.rstrip().removesuffix(","))
            previous = line if line.strip() else ""
    if previous.strip() != "]":
        raise Damaged("The array has no end.")
    return count


def _whole_record(line: str) -> int:
    found = json.loads(line)
    missing = set(NAMES) - found.keys()
    if missing:
        raise Damaged(f"A feature lacks {', '.join(sorted(missing))}.")
    return 1


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _write_parquet(path: Path, records: Iterable[Record]) -> int:
    pa: Any = import_module("pyarrow")
    pq: Any = import_module("pyarrow.parquet")
    schema, written = _schema(), 0
    with pq.ParquetWriter(path, schema, compression="zstd") as out:
        for block in _blocks(records, PARQUET_ROWS):
            columns = {name: [_arrow(name, r[name]) for r in block] for name in NAMES}
            out.write_table(pa.table(columns, schema=schema))
            written += len(block)
    return written


def _arrow(name: str, value: Any) -> Any:
    if name in LISTS and value and isinstance(value[0], list):
        return [{"token": token, "value": weight} for token, weight in value]
    return value


def _schema() -> Any:
    pa: Any = import_module("pyarrow")
    weights = pa.list_(pa.struct([("token", pa.string()), ("value", pa.float64())]))
    kinds = {
        "text": pa.string(),
        "whole": pa.int64(),
        "real": pa.float64(),
        "flag": pa.bool_(),
        "texts": pa.list_(pa.string()),
        "weights": weights,
    }
    return pa.schema(
        [
            pa.field(column.name, kinds[column.kind], metadata={"meaning": column.meaning})
            for column in COLUMNS
        ]
    )


def _check_parquet(path: Path) -> int:
    pq: Any = import_module("pyarrow.parquet")
    with pq.ParquetFile(path) as found:
        if found.schema_arrow.names != NAMES:
            raise Damaged("The table's columns are wrong.")
        return sum(len(batch) for batch in found.iter_batches(PARQUET_ROWS))


def _blocks(records: Iterable[Record], size: int) -> Iterator[list[Record]]:
    stream = iter(records)
    while block := list(itertools.islice(stream, size)):
        yield block


_WRITERS: dict[str, tuple[Callable[[Path, Iterable[Record]], int], Callable[[Path], int]]] = {
    "csv": (_write_csv, _check_csv),
    "parquet": (_write_parquet, _check_parquet),
    "json": (_write_json, _check_json),
    "jsonl": (_write_jsonl, _check_jsonl),
}
