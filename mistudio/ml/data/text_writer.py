"""Writes the documents of one split to an Arrow file, with their lengths beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mistudio.core import atomic
from mistudio.ml.data.facts import LengthCounts

_BATCH_DOCUMENTS = 1000
_BATCH_CHARACTERS = 1 << 23
_SYNC_BYTES = 1 << 26


class Row(NamedTuple):
    """One document: its text and the other columns as text, in the order of the columns."""

    text: str
    metadata: Sequence[str] = ()


class TextWriter:
    """Writes record batches of documents and keeps count; memory stays bounded.

    Makes `folder`/<split>.arrow and `folder`/<split>.lengths (int32 characters per document).
    """

    def __init__(
        self, folder: Path, split: str, columns: Sequence[str], counts: LengthCounts
    ) -> None:
        self._path = folder / f"{split}.arrow"
        fields = [pa.field(n, pa.large_string()) for n in ("text", *stored_names(columns))]
        self._schema = pa.schema(fields)
        self._counts = counts
        self._lengths = (folder / f"{split}.lengths").open("wb")
        self._sink = self._path.open("wb")
        self._writer = pa.ipc.new_file(self._sink, self._schema)
        self._rows: list[Row] = []
        self._pending = 0
        self._synced = 0
        self.documents = 0
        self.bytes = 0  # of text as UTF-8

    def __enter__(self) -> TextWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # an open file keeps its room on the disk even after it is deleted
        with self._lengths, self._sink:
            if error is None:
                self._flush()
                self._writer.close()

    def add(self, row: Row) -> None:
        """Append one document."""
        self._rows.append(row)
        self._pending += len(row.text) + sum(map(len, row.metadata))
        if len(self._rows) >= _BATCH_DOCUMENTS or self._pending >= _BATCH_CHARACTERS:
            self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        texts = _strings([row.text for row in self._rows])
        columns = [texts]
        for i in range(len(self._schema) - 1):
            columns.append(_strings([row.metadata[i] for row in self._rows]))
        self._writer.write_batch(pa.record_batch(columns, schema=self._schema))
        lengths_N = pc.call_function("utf8_length", [texts]).to_numpy().astype(np.int32)
        lengths_N.tofile(self._lengths)
        self._counts.add(lengths_N)
        self.documents += len(self._rows)
        self.bytes += text_bytes(texts)
        self._rows, self._pending = [], 0
        if self._sink.tell() - self._synced > _SYNC_BYTES:
            # bit by bit: one sync of a large file at the end would hold up a cancel
            self._synced = self._sink.tell()
            self._sink.flush()
            atomic.fsync_path(self._path)


def stored_names(columns: Sequence[str]) -> list[str]:
    """What the other columns are called beside the text: a second "text" is "text_", or longer."""
    names: list[str] = []
    for column in columns:
        name = column
        while name == "text" or name in names or (name != column and name in columns):
            name += "_"
        names.append(name)
    return names


def text_bytes(texts: pa.Array) -> int:
    """Bytes of all strings of a large_string array."""
    offsets = np.frombuffer(texts.buffers()[1], dtype=np.int64)
    return int(offsets[texts.offset + len(texts)] - offsets[texts.offset])


def _strings(values: list[str]) -> pa.Array:
    try:
        return pa.array(values, pa.large_string())
    except UnicodeEncodeError:  # lone surrogates from JSON escapes have no UTF-8 form
        return pa.array([_without_surrogates(value) for value in values], pa.large_string())


def _without_surrogates(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
