"""Reads JSON: one value per line, one list of any length, or an object that holds the list."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from mistudio.core.errors import InvalidInput
from mistudio.ml.data.columns import kind_of_values
from mistudio.ml.data.json_table import table_rows
from mistudio.ml.data.readers_text import decoded_blocks
from mistudio.ml.data.source import (
    MAX_ROW,
    PEEK_CHARACTERS,
    PEEK_ROWS,
    Source,
    SourceFile,
    as_text,
    joined,
)
from mistudio.ml.data.text_writer import Row

_BAD = object()  # a row that was left out
_SCALAR = r'"(?:[^"\\]|\\.)*"|-?[\d.eE+-]+|true|false|null'
# {"version": "1.1", "data": [
_WRAPPED = re.compile(
    rf'\s*\{{(?:\s*"(?:[^"\\]|\\.)*"\s*:\s*(?:{_SCALAR})\s*,)*\s*"(?:data|rows)"\s*:\s*\['
)
_BLANK = re.compile(r"\s*")


def read_json(source: Source, file: SourceFile) -> Iterator[Row]:
    """The rows of a JSON file of any of the three shapes; settles the columns first."""
    rows = json_values(source, file, decoded_blocks(source, file))
    head: list[Any] = []
    size = 0
    for row in itertools.islice(rows, PEEK_ROWS):
        head.append(row)
        size += len(str(row))
        if size > PEEK_CHARACTERS:
            break
    head += _expanded(source, head, rows)
    seen = [{"text": row} if isinstance(row, str) else row for row in head]
    objects = [row for row in seen if isinstance(row, dict)]
    if not head:
        raise InvalidInput(f"{file.path.name} holds no rows.", code="empty_file")
    names = list(dict.fromkeys(key for row in objects for key in row))
    source.settle({name: kind_of_values([row.get(name) for row in objects]) for name in names})
    return _documents(source, file, itertools.chain(head, rows))


def _expanded(source: Source, head: list[Any], rows: Iterator[Any]) -> list[Any]:
    """Rows to add to a head of one object: its own if it is a whole table (then it goes)."""
    if source.format != "json" or len(head) != 1 or not isinstance(head[0], dict):
        return []
    following = list(itertools.islice(rows, 1))
    table = None if following else table_rows(head[0])
    if table is None:
        return following
    head.clear()
    return table


def _documents(source: Source, file: SourceFile, rows: Iterable[Any]) -> Iterator[Row]:
    wanted, others = source.text_columns, source.columns
    for number, row in enumerate(rows, 1):
        if row is _BAD:
            continue
        if isinstance(row, str):
            row = {"text": row}
        if not isinstance(row, dict):
            source.bad_row(file, number, "is not a JSON object")
            continue
        texts = [row.get(name) for name in wanted]
        odd = [
            name
            for name, text in zip(wanted, texts, strict=True)
            if text is not None and not isinstance(text, str)
        ]
        if odd:
            source.bad_row(file, number, f"has no text in {odd[0]!r}")
            continue
        yield Row(joined(texts), [as_text(row.get(name)) for name in others])


def json_values(source: Source, file: SourceFile, blocks: Iterator[str]) -> Iterator[Any]:
    """The rows in a file's text, as Python values, whichever of the three shapes it has."""
    head = ""
    for block in blocks:
        head += block
        if not head.isspace() or len(head) > MAX_ROW:
            break
    start = _BLANK.match(head)
    text = head[start.end() :] if start else head
    rest = itertools.chain([text], blocks)
    if text.startswith("["):
        return _list_items(source, file, rest)
    if text.startswith("{") and not _is_by_line(source, text):
        wrapped = _WRAPPED.match(text)
        if wrapped:
            inner = itertools.chain([text[wrapped.end() - 1 :]], blocks)
            return _list_items(source, file, inner, wrapped=True)
        return _list_items(source, file, rest, bare=True)
    return _by_line(source, file, rest)


def _is_by_line(source: Source, text: str) -> bool:
    """Whether the first line is a whole object and another one follows; jsonl may be indented."""
    first, _, others = text.partition("\n")
    if source.format != "json":
        return first.strip() != "{"
    if not others.lstrip().startswith("{"):
        return False
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return False
    return True


def _by_line(source: Source, file: SourceFile, blocks: Iterable[str]) -> Iterator[Any]:
    number = 0
    for line in unbounded_lines(blocks):
        if not line or line.isspace():
            continue
        number += 1
        if len(line) > MAX_ROW:
            source.bad_row(file, number, f"is longer than {MAX_ROW:,} characters")
            yield _BAD
            continue
        try:
            yield json.loads(line)
        except (ValueError, RecursionError) as error:
            source.bad_row(file, number, "is not valid JSON", str(error))
            yield _BAD


def unbounded_lines(blocks: Iterable[str]) -> Iterator[str]:
    """Whole lines with their ends; of one above `MAX_ROW` only a beginning just above it."""
    gathered: list[str] = []
    size = 0
    for block in blocks:
        first, *others = block.split("\n")
        if size <= MAX_ROW:
            gathered.append(first)
            size += len(first)
        for other in others:
            yield "".join(gathered) + "\n"
            gathered, size = [other], len(other)
    if last := "".join(gathered):
        yield last


def _list_items(
    source: Source,
    file: SourceFile,
    blocks: Iterable[str],
    *,
    bare: bool = False,
    wrapped: bool = False,
) -> Iterator[Any]:
    """The values of JSON lists as they come; `bare`: values that follow each other instead.

    What stands behind a list must be another one, unless it is `wrapped` in an object.
    Only the text of the value being read is held, so the list may have any length.
    """
    decoder, text = json.JSONDecoder(), _Window(blocks)
    number = 0
    if not bare:
        text.place += 1
    while True:
        mark = text.skip_blank()
        if mark == "," and not bare and number:
            text.place += 1
            mark = text.skip_blank()
        if not mark and bare:
            return
        if mark == "]" and not bare:
            text.place += 1
            following = "" if wrapped else text.skip_blank()
            if not following:
                return
            if following == "[":
                text.place += 1
                continue
            raise InvalidInput(
                f"Behind the list of {number:,} rows, {file.path.name} is not valid JSON."
            )
        number += 1
        while True:
            try:
                value, end = decoder.raw_decode(text.text, text.place)
            except (ValueError, RecursionError) as error:
                if _may_go_on(error, text) and text.more():
                    continue
                what = "is not valid JSON"
                if text.size > MAX_ROW:
                    what = f"is longer than {MAX_ROW:,} characters"
                raise InvalidInput(
                    f"Row {number:,} of {file.path.name} {what}.", details=str(error)
                ) from error
            if end == len(text.text) and text.more():  # a number may have further digits
                continue
            break
        text.place = end
        yield value


def _may_go_on(error: Exception, text: _Window) -> bool:
    """Whether a value failed only because its end has not been read yet."""
    if not isinstance(error, json.JSONDecodeError) or text.size > MAX_ROW:
        return False
    return error.pos > len(text.text) - 16 or error.msg.startswith("Unterminated string")


class _Window:
    """Text that is read on demand; what lies before `place` is dropped."""

    def __init__(self, blocks: Iterable[str]) -> None:
        self._blocks = iter(blocks)
        self.text = next(self._blocks, "")
        self.place = 0

    @property
    def size(self) -> int:
        """Characters from `place` on."""
        return len(self.text) - self.place

    def more(self) -> bool:
        """Read at least as much again as there is; False at the end."""
        found, size, wanted = [self.text[self.place :]], 0, self.size
        for block in self._blocks:
            found.append(block)
            size += len(block)
            if size >= max(1, wanted):
                break
        self.text, self.place = "".join(found), 0
        return size > 0

    def skip_blank(self) -> str:
        """The next character that is not blank, "" at the end."""
        while True:
            found = _BLANK.match(self.text, self.place)
            self.place = found.end() if found else self.place
            if self.place < len(self.text):
                return self.text[self.place]
            if not self.more():
                return ""
