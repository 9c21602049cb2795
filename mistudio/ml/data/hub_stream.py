"""The rows of a dataset repository as Arrow tables, in bounded memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mistudio.core.errors import Cancelled, Damaged, StudioError
from mistudio.ml.data.hub_dataset import Layout
from mistudio.ml.data.json_tables import is_plain, json_tables
from mistudio.ml.data.listed_files import FileSource, Mounted, address

_BATCH_ROWS = 1000
_BATCH_BYTES = 1 << 24  # of rows of a parquet file, decoded
_BUFFER_BYTES = 1 << 18  # of a column of a parquet file
_SHAPED = {"field", "encoding"}  # settings of json that only the library knows
SMALL_PIECE, MIDDLE_PIECE, LARGE_PIECE = 1 << 17, 1 << 20, 1 << 23


class RowStream:
    """The rows of chosen splits as Arrow tables; a context manager that holds a small folder."""

    def __init__(
        self,
        layout: Layout,
        source: FileSource,
        splits: Sequence[str],
        *,
        piece_bytes: int = LARGE_PIECE,
    ) -> None:
        """Text files are read by `piece_bytes`; small pieces fetch less for a few rows."""
        self._layout = layout
        self._splits = list(splits)
        self._piece_bytes = piece_bytes
        self._source = source
        self._mounted = Mounted(source, str(layout.parameters.get("encoding") or "utf-8"))
        self._folder = tempfile.TemporaryDirectory(prefix="mistudio-rows-")

    def __enter__(self) -> RowStream:
        return self

    def __exit__(self, *exception: object) -> None:
        self._folder.cleanup()

    @property
    def bytes_read(self) -> int:
        """Bytes of the files read so far, compressed as they are."""
        return self._mounted.bytes_read

    def tables(
        self, rows: int = _BATCH_ROWS, columns: Sequence[str] | None = None
    ) -> Iterator[tuple[str, pa.Table]]:
        """(split, up to `rows` rows) in order, with these columns or all.

        Raises `Damaged` where a file cannot be read, and what the source raises.
        """
        try:
            for split in self._splits:
                for table in self._split_tables(split, rows, columns):
                    self._source.control.check()
                    yield split, table
        except (StudioError, Cancelled):
            raise
        except Exception as error:
            raise self._meaning(error) from error

    def parquet_rows(self, split: str) -> int:
        """The rows that the ends of the split's parquet files tell. Raises as `tables` does."""
        total = 0
        try:
            for path in self._layout.files[split]:
                with self._mounted.open(path) as file:
                    total += pq.ParquetFile(file).metadata.num_rows
        except (StudioError, Cancelled):
            raise
        except Exception as error:
            raise self._meaning(error) from error
        return total

    def _split_tables(
        self, split: str, rows: int, columns: Sequence[str] | None
    ) -> Iterator[pa.Table]:
        """File by file: the library wants all files of a split to have the same columns."""
        layout = self._layout
        as_library = bool(_SHAPED & set(layout.parameters))
        for path in layout.files[split]:
            if layout.reader == "parquet":
                # the library takes a whole row group at once, which can be larger than the memory
                with self._mounted.open(path) as file:
                    yield from parquet_tables(file, rows, columns)
            elif layout.reader == "json" and is_plain(path) and not as_library:
                # the library holds a file that is one list, and rows must agree about kinds
                with self._mounted.open(path) as file:
                    yield from json_tables(file, path, rows, self._source.control.check)
            else:
                stream = self._build(split, path).as_streaming_dataset(split)
                yield from stream.with_format("arrow").iter(batch_size=rows)

    def _meaning(self, error: Exception) -> BaseException:
        """What a failure inside the library is to the user."""
        kept = self._mounted.failure()
        if kept is not None:
            return kept
        if isinstance(error, OSError) and error.errno is not None:
            return error
        return Damaged(
            "The files of this dataset cannot be read as its card says "
            f"({type(error).__name__}). Choose another config, or import its files.",
            details=str(error)[:4000],
        )

    def _build(self, split: str, path: str) -> Any:
        """The library's builder for one file."""
        from datasets import load
        from datasets.data_files import DataFilesDict, DataFilesList
        from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES as MODULES

        layout = self._layout
        kind = load.import_main_class(MODULES[layout.reader][0])
        assert kind is not None
        settings = {
            name: value
            for name, value in {**self._defaults(), **layout.parameters}.items()
            if hasattr(kind.BUILDER_CONFIG_CLASS, name) or name == "features"
        }
        return kind(
            cache_dir=self._folder.name,
            config_name=layout.config,
            dataset_name="dataset",
            hash="0",
            base_path=address(""),
            data_files=DataFilesDict({split: DataFilesList([address(path)], [])}),
            info=layout.info.copy() if layout.info is not None else None,
            storage_options=self._mounted.options,
            **settings,
        )

    def _defaults(self) -> dict[str, Any]:
        """How much the reader takes at once, so that memory does not grow with the files."""
        replaced = {"encoding_errors": "replace"}
        if self._layout.reader == "text":
            return {"chunksize": self._piece_bytes, **replaced}
        if self._layout.reader == "json":
            return {"chunksize": self._piece_bytes}
        return {"chunksize": _BATCH_ROWS, **replaced} if self._layout.reader == "csv" else {}


def parquet_tables(file: Any, rows: int, columns: Sequence[str] | None) -> Iterator[pa.Table]:
    """A parquet file page by page: up to `rows` rows, fewer where rows are large.

    Raises `pa.ArrowException` or what `file` raises.
    """
    opened = pq.ParquetFile(file, buffer_size=_BUFFER_BYTES, pre_buffer=False)
    facts = opened.metadata
    known = set(opened.schema_arrow.names)
    wanted = None if columns is None else [name for name in columns if name in known]
    for group in range(facts.num_row_groups):
        each = facts.row_group(group).total_byte_size // max(1, facts.row_group(group).num_rows)
        at_once = max(1, min(rows, _BATCH_BYTES // max(1, each)))
        for batch in opened.iter_batches(at_once, row_groups=[group], columns=wanted):
            yield pa.Table.from_batches([batch])
