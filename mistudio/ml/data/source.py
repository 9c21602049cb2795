"""A file or several being read as one dataset: settings, columns, and what was noticed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mistudio.core.dataset_configs import ImportDatasetConfig
from mistudio.core.errors import InvalidInput, StudioError
from mistudio.ml.data.columns import BINARY, choose_columns
from mistudio.ml.data.text_writer import Row
from mistudio.ml.data.write_dataset import SourceState

MAX_ROW = 32_000_000  # characters of one row of json or csv; a longer one is a mistake
BETWEEN = "\n\n"  # joined text columns
PEEK_ROWS = 1000  # looked at to find the text column
PEEK_CHARACTERS = 8_000_000


class SourceFile(NamedTuple):
    """One file of a source."""

    path: Path
    split: str = "train"
    name: str = ""  # how samples of a folder of text call it: the path below the folder


@dataclass
class Source(SourceState):
    """What is read and how; readers settle the columns before the first row comes."""

    format: str = "txt"
    files: Sequence[SourceFile] = ()
    settings: ImportDatasetConfig = field(default_factory=ImportDatasetConfig)
    check: Callable[[], None] = lambda: None
    """called at least every megabyte; may raise `Cancelled`"""
    encoding: str = ""
    delimiter: str = ""
    sample_unit: str = ""
    kinds: dict[str, str] = field(default_factory=dict[str, str])
    text_columns: tuple[str, ...] = ()
    columns: list[str] = field(default_factory=list[str])  # beside the text
    warnings: list[str] = field(default_factory=list[str])

    @property
    def text_column(self) -> str:
        """The text columns as one name."""
        return ", ".join(self.text_columns)

    def settle(self, kinds: dict[str, str]) -> None:
        """Choose the text columns from what the first file holds; later files must have them."""
        if not self.text_columns:
            self.kinds = {name: kind for name, kind in kinds.items() if _is_storable(name)}
            self.text_columns = choose_columns(self.kinds, self.settings.text_column)
            self.columns = [
                name
                for name, kind in self.kinds.items()
                if name not in self.text_columns and kind != BINARY
            ]

    def bad_row(self, file: SourceFile, number: int, what: str, details: str = "") -> None:
        """Count row `number` as left out if that was asked for.

        Raises `InvalidInput` otherwise: "Row 3 of notes.jsonl `what`."
        """
        if not self.settings.skip_bad_rows:
            raise InvalidInput(f"Row {number:,} of {file.path.name} {what}.", details=details)
        self.skipped_rows += 1

    def keep_or_count(self, error: StudioError) -> None:
        """Raise the error, or count its row as left out if that was asked for."""
        if not self.settings.skip_bad_rows:
            raise error
        self.skipped_rows += 1


def _is_storable(name: str) -> bool:
    """Whether a column's name has a UTF-8 form: JSON can spell half a character."""
    return not any(0xD800 <= ord(character) <= 0xDFFF for character in name)


def joined(texts: Sequence[str | None]) -> str:
    """Several text columns of one row as one text; empty ones leave no gap."""
    if len(texts) == 1:
        return texts[0] or ""
    return BETWEEN.join(text for text in texts if text and not text.isspace())


def as_text(value: Any) -> str:
    """A value of another column as it is stored."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


RowReader = Callable[[Source, SourceFile], Iterator[Row]]
"""Settles the columns when called, then yields the file's rows"""
