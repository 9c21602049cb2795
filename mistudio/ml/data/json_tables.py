"""Tables of a JSON file, one row per line or one list, read piece by piece; rows may differ."""

from __future__ import annotations

import bz2
import codecs
import gzip
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import IO, Any

import pyarrow as pa

from mistudio.ml.data.readers_json import json_values
from mistudio.ml.data.source import Source, SourceFile, as_text

_BLOCK = 1 << 18
_FOREIGN = (".xz", ".zst", ".zip", ".lz4")  # unpacked by the library only


def is_plain(name: str) -> bool:
    """Whether a file can be read here: not packed, or in a way that Python unpacks."""
    return PurePath(name).suffix.lower() not in _FOREIGN


def json_tables(
    file: IO[bytes], name: str, rows: int, check: Callable[[], None]
) -> Iterator[pa.Table]:
    """Up to `rows` rows at a time; `check` is called every megabyte at least.

    Raises `InvalidInput` that names the row that is not valid.
    """
    # rows that are no objects have no columns and come out empty
    source = Source(name=name, format="json", check=check)
    values = json_values(source, SourceFile(Path(name)), _texts(file, name, check))
    while batch := list(itertools.islice(values, rows)):
        check()
        yield _table(batch)


def _texts(file: IO[bytes], name: str, check: Callable[[], None]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")
    stream = _unpacked(file, name)
    while block := stream.read(_BLOCK):
        check()
        yield decoder.decode(block)
    yield decoder.decode(b"", True)


def _unpacked(file: IO[bytes], name: str) -> IO[bytes]:
    suffix = PurePath(name).suffix.lower()
    if suffix == ".gz":
        return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]
    return bz2.BZ2File(file) if suffix == ".bz2" else file  # type: ignore[return-value]


def _table(values: list[Any]) -> pa.Table:
    objects = [
        value if isinstance(value, dict) else {"text": value} if isinstance(value, str) else {}
        for value in values
    ]
    names = dict.fromkeys(key for row in objects for key in row)
    return pa.table({name: _column([row.get(name) for row in objects]) for name in names})


def _column(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError):  # rows disagree about the kind
        return pa.array([None if v is None else _clean(as_text(v)) for v in values], pa.string())


def _clean(text: str) -> str:
    """Without lone surrogates, which have no UTF-8 form."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
