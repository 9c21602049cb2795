"""Imports a file or a folder of this machine as a dataset."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mistudio.core.control import JobControl
from mistudio.core.dataset_configs import ImportDatasetConfig
from mistudio.core.events import Reporter
from mistudio.ml.data.facts import DatasetFacts
from mistudio.ml.data.readers import open_source, read_rows
from mistudio.ml.data.splits import splitter
from mistudio.ml.data.text_writer import Row
from mistudio.ml.data.write_dataset import write_dataset


def read_documents(config: ImportDatasetConfig) -> Iterator[Row]:
    """The documents a config describes, streamed, without storing anything."""
    source = open_source(Path(config.path).expanduser(), config.format)
    for row in read_rows(source, (*config.text_column, "")[0], config.sample_unit):
        if row.text.strip():
            yield row


def import_text(
    config: ImportDatasetConfig, folder: Path, report: Reporter, control: JobControl
) -> DatasetFacts:
    """Import into `folder`: text/<split>.arrow and info.json; memory stays bounded.

    Raises `StudioError` with a sentence for what cannot be read; a folder made here goes again.
    """
    source = open_source(Path(config.path).expanduser(), config.format)
    rows = read_rows(source, (*config.text_column, "")[0], config.sample_unit)
    return write_dataset(
        folder,
        (("train", row) for row in rows),
        columns=source.columns,
        text_column=source.text_column,
        format=source.format,
        state=source,
        split_of=splitter(config.validation_share, config.test_share),
        report=report,
        control=control,
    )
