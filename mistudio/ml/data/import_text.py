"""Imports a file or a folder of this machine as a dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from mistudio.core.control import JobControl
from mistudio.core.dataset_configs import ImportDatasetConfig
from mistudio.core.disk_room import require_room
from mistudio.core.errors import from_os_error
from mistudio.core.events import Reporter
from mistudio.ml.data.facts import DatasetFacts
from mistudio.ml.data.readers import open_source
from mistudio.ml.data.readers_text import COMPRESSED
from mistudio.ml.data.source import Source
from mistudio.ml.data.splits import splitter
from mistudio.ml.data.text_writer import Row
from mistudio.ml.data.write_dataset import write_dataset

_UNPACKED = 4  # bytes of text in one of a compressed file
_WORTH_ASKING = 100_000_000  # bytes; less always goes


def read_documents(config: ImportDatasetConfig) -> Iterator[Row]:
    """The documents a config describes, streamed, without storing anything."""
    _, rows = open_source(config)
    for _, row in rows:
        if row.text and not row.text.isspace():
            yield row


def import_text(
    config: ImportDatasetConfig, folder: Path, report: Reporter, control: JobControl
) -> DatasetFacts:
    """Import into `folder`: text/<split>.arrow and info.json; memory stays bounded.

    Raises `StudioError` with a sentence for what cannot be read; a folder made here goes again.
    """
    try:
        source, rows = open_source(config, control.check)
    except OSError as error:
        raise from_os_error(error, "read the file") from error
    for warning in source.warnings:
        report.note(warning, level="warning")
    _require_room(source, folder)
    return write_dataset(
        folder,
        rows,
        columns=source.columns,
        text_column=source.text_column,
        format=source.format,
        state=source,
        split_of=_splitter(config),
        report=report,
        control=control,
    )


def _require_room(source: Source, folder: Path) -> None:
    """Raises `DiskFull` if a copy of the text would not fit."""
    packed = source.files[0].path.suffix.lower() in COMPRESSED
    needed = source.total_bytes * (_UNPACKED if packed else 1)
    if needed > _WORTH_ASKING:
        require_room(folder, needed)


def _splitter(config: ImportDatasetConfig) -> Callable[[str], str] | None:
    if config.validation_share <= 0 and config.test_share <= 0:
        return None
    return splitter(config.validation_share, config.test_share)
