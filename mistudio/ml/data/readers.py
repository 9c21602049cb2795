"""Opens what an import names and yields its rows, whatever the format."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

from mistudio.core.dataset_configs import ImportDatasetConfig
from mistudio.core.errors import InvalidInput
from mistudio.core.local_path import local_path
from mistudio.ml.data.readers_arrow import read_arrow, read_parquet
from mistudio.ml.data.readers_csv import read_csv
from mistudio.ml.data.readers_json import read_json
from mistudio.ml.data.readers_text import read_text
from mistudio.ml.data.source import RowReader, Source, SourceFile
from mistudio.ml.data.source_files import find_files
from mistudio.ml.data.text_writer import Row

_READERS: dict[str, RowReader] = {
    "txt": read_text, "md": read_text, "folder": read_text,
    "json": read_json, "jsonl": read_json,
    "csv": read_csv, "tsv": read_csv,
    "parquet": read_parquet, "arrow": read_arrow, "saved": read_arrow,
}  # fmt: skip


def open_source(
    config: ImportDatasetConfig, check: Callable[[], None] = lambda: None
) -> tuple[Source, Iterator[tuple[str, Row]]]:
    """What a config names, and its rows with their splits; blank ones are left to the caller.

    Formats, columns and encoding are settled on return; rows are read as they are taken. `check`
    is called at least every megabyte. Raises `StudioError` for what cannot be read.
    """
    path = local_path(config.path)
    found = find_files(path, config.format)
    source, rows = open_files(found.files, found.format, config, check)
    source.name = path.name
    if found.warning:
        source.warnings.append(found.warning)
    return source, rows


def open_files(
    files: Sequence[SourceFile],
    format: str,
    settings: ImportDatasetConfig,
    check: Callable[[], None] = lambda: None,
) -> tuple[Source, Iterator[tuple[str, Row]]]:
    """As `open_source`, for files of one format; of the settings the path is not looked at."""
    source = Source(
        name=files[0].path.name,
        total_bytes=sum(file.path.stat().st_size for file in files),
        format=format,
        files=files,
        settings=settings,
        check=check,
    )
    opened = _opened(source)
    first = next(opened)
    return source, _rows(source, itertools.chain([first], opened))


def _opened(source: Source) -> Iterator[tuple[SourceFile, Iterator[Row]]]:
    """The files with their rows; of several, those without any row are passed over."""
    ends, found, last = 0, False, len(source.files)
    for number, file in enumerate(source.files, 1):
        source.bytes_read = ends
        try:
            rows = _READERS[source.format](source, file)
        except InvalidInput as error:
            if error.code != "empty_file" or (number == last and not found):
                raise
        else:
            found = True
            yield file, rows
        ends += file.path.stat().st_size
    source.bytes_read = ends


def _rows(
    source: Source, opened: Iterator[tuple[SourceFile, Iterator[Row]]]
) -> Iterator[tuple[str, Row]]:
    for file, rows in opened:
        for row in rows:
            yield file.split, row
