"""What an import would bring, told from the beginning of the file; callable in a query thread."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from mistudio.core.config import validate
from mistudio.core.dataset_configs import ImportDatasetConfig
from mistudio.core.errors import InvalidInput, from_os_error
from mistudio.core.units import format_bytes

_SAMPLES = 10
_LOOKED_AT = 10_000  # rows, so that blank ones do not lead through a whole file
LARGE_BYTES = 10_000_000_000


@dataclass(frozen=True)
class ImportPreview:
    """How a file would be read, and its first samples."""

    format: str  # txt, md, json, jsonl, csv, tsv, parquet, arrow, saved or folder
    encoding: str = ""  # "" where text is not decoded
    delimiter: str = ""  # a name of `core.dataset_configs.DELIMITERS`, "" without
    sample_unit: str = ""  # paragraph, line or file, "" for formats with columns
    columns: dict[str, str] = field(default_factory=dict[str, str])
    """name -> what it holds: text, number, date, boolean, list…"""
    text_column: tuple[str, ...] = ()
    samples: list[str] = field(default_factory=list[str])  # at most 10, whole documents
    bytes: int = 0  # of all files
    files: int = 1
    warning: str = ""


def preview_file(config: ImportDatasetConfig) -> ImportPreview:
    """Read the beginning of what a config names; stores nothing.

    Raises the `StudioError` that importing it would end with, as far as the beginning shows it.
    """
    from mistudio.ml.data.readers import open_source

    validate(config)
    try:
        source, rows = open_source(config)
        samples: list[str] = []
        for _, row in itertools.islice(rows, _LOOKED_AT):
            if row.text and not row.text.isspace():
                samples.append(row.text)
            if len(samples) == _SAMPLES:
                break
    except OSError as error:
        raise from_os_error(error, "read the file") from error
    if not samples:
        raise InvalidInput(f"{source.name} holds no text.", code="empty_file")
    return ImportPreview(
        source.format,
        source.encoding,
        source.delimiter,
        source.sample_unit,
        source.kinds,
        source.text_columns,
        samples,
        source.total_bytes,
        len(source.files),
        _warning(source.total_bytes, source.bad_bytes, source.warnings),
    )


def _warning(size: int, bad_bytes: int, noticed: list[str]) -> str:
    found = list(noticed)
    if bad_bytes:
        found.append(
            f"Some bytes in the beginning ({bad_bytes:,}) do not fit the encoding; choose another "
            "one if the samples look wrong."
        )
    if size > LARGE_BYTES:
        found.append(f"This is {format_bytes(size)}; the import takes a while and as much room.")
    return " ".join(found)
