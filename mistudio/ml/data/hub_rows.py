"""Rows of a repository's tables as documents: which column is the text, what goes beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mistudio.ml.data.columns import BINARY, choose_columns, kind_of_arrow, kind_of_values
from mistudio.ml.data.text_writer import Row

JOINT = "\n\n"  # between several text columns
CHARACTERS_PER_TOKEN = 4
_SHOWN = 2000  # characters of a field in a preview


@dataclass(frozen=True)
class Columns:
    """The columns of a config: what each holds, which are the text, which are kept beside it."""

    kinds: dict[str, str]
    text: tuple[str, ...]
    others: tuple[str, ...]
    left_out: tuple[str, ...]  # pictures, sound, vectors: not kept

    @property
    def read(self) -> list[str]:
        """The names of the columns that are needed."""
        return [name for name in self.kinds if name not in self.left_out]


def kinds_of(table: pa.Table) -> dict[str, str]:
    """Each column and, in a word, what it holds, judged by its type and its first values."""
    return {name: _kind(table.schema.field(name).type, table[name]) for name in table.column_names}


def _kind(kind: pa.DataType, values: pa.ChunkedArray) -> str:
    if pa.types.is_null(kind):
        return "empty"
    if _is_list(kind) and _is_number(kind.value_type):
        return "vector"
    word = kind_of_arrow(kind)
    if word == "text" and values.null_count < len(values):
        return kind_of_values(values.slice(0, 100).to_pylist())
    return word


def _is_list(kind: pa.DataType) -> bool:
    return (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def settle_columns(kinds: dict[str, str], wanted: Sequence[str]) -> Columns:
    """Apply the column rule, or take the wanted ones; raises `InvalidInput` with what there is."""
    text = choose_columns(kinds, wanted)
    beside = [name for name in kinds if name not in text]
    left_out = tuple(name for name in beside if kinds[name] in (BINARY, "vector"))
    return Columns(kinds, text, tuple(n for n in beside if n not in left_out), left_out)


def first_rows(table: pa.Table, count: int) -> list[dict[str, str]]:
    """The first rows as they are shown; long fields are cut."""
    shown: list[dict[str, str]] = []
    for row in table.slice(0, count).to_pylist():
        shown.append({name: _as_text(value)[:_SHOWN] for name, value in row.items()})
    return shown


def documents(
    tables: Iterable[tuple[str, pa.Table]],
    columns: Columns,
    *,
    rows: int | None = None,
    tokens: int | None = None,
) -> Iterator[tuple[str, Row]]:
    """(split, document) of every row, in order; empty texts come through for the caller to count.

    With `rows` ends after so many documents that hold text; with `tokens` after the document that
    reaches so many, counted as four characters each.
    """
    held = characters = 0
    for split, table in tables:
        parts = [_strings(table, name) for name in columns.text]
        others = [_strings(table, name) for name in columns.others]
        for i in range(len(table)):
            text = parts[0][i] if len(parts) == 1 else JOINT.join(p[i] for p in parts if p[i])
            yield split, Row(text, [values[i] for values in others])
            if rows is None and tokens is None:
                continue
            held += bool(text.strip())
            characters += len(text)
            if rows is not None and held >= rows:
                return
            if tokens is not None and characters >= CHARACTERS_PER_TOKEN * tokens:
                return


def _strings(table: pa.Table, name: str) -> list[str]:
    if name not in table.column_names:  # files of one split need not agree
        return [""] * len(table)
    values = table[name]
    kind = values.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pc.fill_null(values, "").to_pylist()
    return [_as_text(value) for value in values.to_pylist()]


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False, default=_plain)
    return str(value)


def _plain(value: Any) -> str:
    return _as_text(value)
