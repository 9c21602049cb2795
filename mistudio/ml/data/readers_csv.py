"""Reads delimited files with a header; quoted fields may hold line ends."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterable, Iterator

from mistudio.core.dataset_configs import DELIMITERS
from mistudio.core.errors import InvalidInput
from mistudio.ml.data.columns import kind_of_text
from mistudio.ml.data.readers_json import unbounded_lines
from mistudio.ml.data.readers_text import decoded_blocks
from mistudio.ml.data.source import (
    MAX_ROW,
    PEEK_CHARACTERS,
    PEEK_ROWS,
    Source,
    SourceFile,
    joined,
)
from mistudio.ml.data.text_writer import Row

# the module's own limit of 131,072 characters would refuse ordinary documents
csv.field_size_limit(MAX_ROW)


def read_csv(source: Source, file: SourceFile) -> Iterator[Row]:
    """The rows of a csv or tsv file; settles delimiter and columns first."""
    text_lines = unbounded_lines(decoded_blocks(source, file))
    first = next(text_lines, "")
    delimiter = _delimiter(source, first)
    source.delimiter = next(name for name, mark in DELIMITERS.items() if mark == delimiter)
    reader = csv.reader(itertools.chain([first], _short(text_lines, file)), delimiter=delimiter)
    rows = _fields(source, file, reader)
    header = [name or f"column {i}" for i, name in enumerate(next(rows, []), 1)]
    if len(set(header)) != len(header):
        raise InvalidInput(f"The header of {file.path.name} names a column twice.")
    head: list[list[str]] = []
    size = 0
    for row in itertools.islice(rows, PEEK_ROWS):
        head.append(row)
        size += sum(map(len, row))
        if size > PEEK_CHARACTERS:
            break
    source.settle(
        {
            name: kind_of_text([row[i] for row in head if i < len(row)])
            for i, name in enumerate(header)
        }
    )
    for name in source.text_columns:
        if name not in header:
            raise InvalidInput(f"{file.path.name} has no column {name!r}.")
    return _documents(source, header, itertools.chain(head, rows))


def _delimiter(source: Source, first: str) -> str:
    wanted = DELIMITERS[source.settings.delimiter]
    if wanted:
        return wanted
    if source.format == "tsv":
        return "\t"
    return max(",;\t|", key=re.sub(r'"[^"]*"', "", first).count)


def _short(text_lines: Iterable[str], file: SourceFile) -> Iterator[str]:
    for line in text_lines:
        if len(line) > MAX_ROW:
            raise InvalidInput(f"A line of {file.path.name} is longer than {MAX_ROW:,} characters.")
        yield line


def _documents(source: Source, header: list[str], rows: Iterable[list[str]]) -> Iterator[Row]:
    texts = [header.index(name) for name in source.text_columns]
    # a column that this file lacks, another of the folder has: its place is behind the last
    others = [header.index(name) if name in header else len(header) for name in source.columns]
    for row in rows:
        padded = row + [""] * (len(header) + 1 - len(row))
        yield Row(joined([padded[i] for i in texts]), [padded[i] for i in others])


def _fields(source: Source, file: SourceFile, reader: Iterator[list[str]]) -> Iterator[list[str]]:
    width, number = 0, 0
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "field larger" in str(error):
                raise InvalidInput(
                    f"A quote that opens in row {number:,} of {file.path.name} or soon after it "
                    "does not close.",
                    details=str(error),
                ) from error
            source.bad_row(file, number, "is not valid csv", str(error))
            number += 1
            continue
        if not row:
            continue
        width = width or len(row)
        if len(row) > width:
            source.bad_row(
                file,
                number,
                f"has {len(row)} fields, the header {width}; quote fields that contain the "
                "separator",
            )
        else:
            yield row
        number += 1
