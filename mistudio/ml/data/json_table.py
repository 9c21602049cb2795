"""One JSON object that is a whole table: columns of values, or one list of rows under some name."""

from __future__ import annotations

from typing import Any

from mistudio.ml.data.columns import PREFERRED


def table_rows(alone: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The rows that an object holds, None if it is a row itself.

    Columns are lists of equal length or, as pandas writes them, objects with the same members.
    """
    values = list(alone.values())
    if any(isinstance(v, str) and name.lower() in PREFERRED for name, v in alone.items()):
        return None
    if values and all(isinstance(v, dict) and v.keys() == values[0].keys() for v in values):
        values = [list(v.values()) for v in ({key: v[key] for key in values[0]} for v in values)]
    if values and all(isinstance(v, list) and len(v) == len(values[0]) for v in values):
        rows = [dict(zip(alone, row, strict=True)) for row in zip(*values, strict=True)]
        if any(isinstance(value, str) for row in rows for value in row.values()):
            return rows
    lists = [v for v in alone.values() if isinstance(v, list) and v]
    tables = [v for v in lists if all(isinstance(row, dict) for row in v)]
    return tables[0] if len(tables) == 1 else None
