"""Reads parquet and Arrow files (also those of save_to_disk) by small slices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mistudio.core.errors import Damaged, InvalidInput
from mistudio.ml.data.columns import kind_of_arrow
from mistudio.ml.data.mapped_file import MappedFile
from mistudio.ml.data.readers_text import reading
from mistudio.ml.data.source import Source, SourceFile, as_text, joined
from mistudio.ml.data.text_writer import Row

_ROWS = 1000
_SLICE_BYTES = 1 << 23
_BUFFER = 1 << 22


def read_parquet(source: Source, file: SourceFile) -> Iterator[Row]:
    """The rows of a parquet file; settles the columns first."""
    with reading(file.path), file.path.open("rb"):
        pass  # a file that may not be read is not a damaged one
    try:
        # with a buffer, column chunks are read page by page instead of whole
        opened = pq.ParquetFile(file.path, buffer_size=_BUFFER, pre_buffer=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Damaged(
            f"{file.path.name} is no readable parquet file.", details=str(error)
        ) from error
    _settle(source, file, opened.schema_arrow)
    return _documents(source, file, _parquet_slices(source, file, opened))


def _parquet_slices(source: Source, file: SourceFile, opened: Any) -> Iterator[pa.RecordBatch]:
    base, size = source.bytes_read, file.path.stat().st_size
    facts = opened.metadata
    held = sum(facts.row_group(i).total_byte_size for i in range(facts.num_row_groups))
    rows = _rows_at_once(held, facts.num_rows)
    wanted = [*source.text_columns, *source.columns]
    present = [name for name in wanted if name in opened.schema_arrow.names]
    seen = 0
    with opened:
        for batch in opened.iter_batches(batch_size=rows, columns=present):
            source.check()
            seen += batch.num_rows
            source.bytes_read = base + size * seen // max(1, facts.num_rows)
            yield batch


def read_arrow(source: Source, file: SourceFile) -> Iterator[Row]:
    """The rows of an Arrow IPC file or stream; settles the columns first."""
    with reading(file.path), file.path.open("rb"):
        pass
    try:
        mapped = MappedFile(file.path)
        try:
            reader: Any = pa.ipc.open_file(mapped.source)
        except pa.ArrowInvalid:
            mapped.source.seek(0)
            reader = pa.ipc.open_stream(mapped.source)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Damaged(f"{file.path.name} is no readable Arrow file.", details=str(error)) from error
    _settle(source, file, reader.schema)
    return _documents(source, file, _arrow_slices(source, file, mapped, reader))


def _arrow_slices(
    source: Source, file: SourceFile, mapped: MappedFile, reader: Any
) -> Iterator[pa.RecordBatch]:
    base, size = source.bytes_read, file.path.stat().st_size
    read = 0
    for batch in _batches(reader):
        rows = _rows_at_once(batch.nbytes, batch.num_rows)
        for low in range(0, batch.num_rows, rows):
            source.check()
            piece = batch.slice(low, rows)
            read += piece.nbytes
            source.bytes_read = base + min(size, read)
            yield piece
            if read // _SLICE_BYTES != (read - piece.nbytes) // _SLICE_BYTES:
                mapped.forget()
    source.bytes_read = base + size


def _batches(reader: Any) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pa.RecordBatchFileReader):
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)
    else:
        yield from reader


def _rows_at_once(held: int, rows: int) -> int:
    return int(min(_ROWS, max(1, _SLICE_BYTES * rows // max(1, held))))


def _settle(source: Source, file: SourceFile, schema: pa.Schema) -> None:
    if len(set(schema.names)) != len(schema.names):
        raise InvalidInput(f"{file.path.name} names a column twice.")
    source.settle({field.name: kind_of_arrow(field.type) for field in schema})
    for name in source.text_columns:
        if name not in schema.names or kind_of_arrow(schema.field(name).type) != "text":
            raise InvalidInput(f"{file.path.name} has no column {name!r} with text.")


def _documents(source: Source, file: SourceFile, slices: Iterator[pa.RecordBatch]) -> Iterator[Row]:
    try:
        for batch in slices:
            names = set(batch.schema.names)
            texts = [batch.column(name).to_pylist() for name in source.text_columns]
            none = [None] * batch.num_rows
            others = [
                [as_text(value) for value in batch.column(name).to_pylist()]
                if name in names
                else none
                for name in source.columns
            ]
            for i in range(batch.num_rows):
                yield Row(
                    joined([column[i] for column in texts]),
                    [column[i] or "" for column in others],
                )
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise Damaged(f"{file.path.name} is damaged; get it again.", details=str(error)) from error
