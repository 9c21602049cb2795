"""What an import would bring, told from the beginning of the file; callable in a query thread."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from mistudio.core.dataset_configs import ImportDatasetConfig

_SAMPLES = 10
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
    from pathlib import Path

    from mistudio.ml.data.import_text import read_documents
    from mistudio.ml.data.readers import open_source, read_rows

    path = Path(config.path).expanduser()
    source = open_source(path, config.format)
    read_rows(source, (*config.text_column, "")[0], config.sample_unit)
    samples = [row.text for row in itertools.islice(read_documents(config), _SAMPLES)]
    return ImportPreview(
        source.format,
        text_column=(source.text_column,),
        columns=dict.fromkeys([source.text_column], "text"),
        samples=samples,
        bytes=path.stat().st_size,
    )
