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
    text_lines = _short(unbounded_lines(decoded_blocks(source, file)), file)
    beginning = _beginning(text_lines)
    delimiter = _delimiter(source, beginning[0] if beginning else "")
    source.delimiter = next(name for name, mark in DELIMITERS.items() if mark == delimiter)
    lines = _Lines(itertools.chain(beginning, text_lines))
    quoting = csv.QUOTE_NONE if _has_bare_quotes(beginning, delimiter) else csv.QUOTE_MINIMAL
    rows = _fields(source, file, csv.reader(lines, delimiter=delimiter, quoting=quoting), lines)
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


def _beginning(text_lines: Iterator[str]) -> list[str]:
    """The lines that are looked at to tell how the file is written."""
    found: list[str] = []
    size = 0
    for line in itertools.islice(text_lines, PEEK_ROWS):
        found.append(line)
        size += len(line)
        if size > PEEK_CHARACTERS:
            break
    return found


def _has_bare_quotes(beginning: list[str], delimiter: str) -> bool:
    """Whether quotes are part of the text: usual in tsv, where a lone one would swallow rows.

    So it is if every line has all its fields as it stands, but not where quotes enclose them.
    """
    widths = {line.count(delimiter) + 1 for line in beginning if line.strip()}
    if delimiter != "\t" or len(widths) != 1 or 1 in widths:
        return False
    try:
        rows = list(csv.reader(beginning, delimiter=delimiter, strict=True))
    except csv.Error:
        return True
    return any(len(row) not in widths for row in rows if row)


class _Lines:
    """Lines, and whether more of them were asked for than there are."""

    def __init__(self, text_lines: Iterator[str]) -> None:
        self._lines = text_lines
        self.ended = False

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        for line in self._lines:
            return line
        self.ended = True
        raise StopIteration


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


def _fields(
    source: Source, file: SourceFile, reader: Iterator[list[str]], text_lines: _Lines
) -> Iterator[list[str]]:
    width, number = 0, 0
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "field larger" in str(error):
                raise _unclosed(file, number, str(error)) from error
            source.bad_row(file, number, "is not valid csv", str(error))
            number += 1
            continue
        if text_lines.ended:  # within the row: everything from the quote on would be one field
            raise _unclosed(file, number)
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


def _unclosed(file: SourceFile, number: int, details: str = "") -> InvalidInput:
    return InvalidInput(
        f"A quote that opens in row {number:,} of {file.path.name} or soon after it does not "
        "close.",
        details=details,
    )
