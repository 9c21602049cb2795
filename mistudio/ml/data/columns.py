"""Finds the column that holds text, and says in a word what the others hold."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from mistudio.core.errors import InvalidInput

BINARY = "binary"  # pictures, sounds: not kept beside the text
PREFERRED = ("text", "content", "document")
_DATE = re.compile(r"\d{4}-\d\d?-\d\d?([T ][\d:.+Z-]*)?|\d\d?[./]\d\d?[./]\d{2,4}")


def choose_columns(kinds: dict[str, str], wanted: Sequence[str]) -> tuple[str, ...]:
    """The text columns: the wanted ones, else text, content, document, else the first with text.

    `kinds` maps each column to "text" or a word for what it holds. Raises `InvalidInput`.
    """
    found = ", ".join(f"{name} ({kind})" for name, kind in kinds.items()) or "nothing"
    for name in wanted:
        if name not in kinds:
            raise InvalidInput(f"There is no column {name!r}; found {found}.")
        if kinds[name] != "text":
            raise InvalidInput(f"The column {name!r} holds no text; found {found}.")
    if wanted:
        return tuple(dict.fromkeys(wanted))
    textual = [name for name, kind in kinds.items() if kind == "text"]
    for preferred in PREFERRED:
        for name in textual:
            if name.lower() == preferred:
                return (name,)
    if not textual:
        raise InvalidInput(f"No column holds text; found {found}.", code="no_text_column")
    return (textual[0],)


def kind_of_text(values: list[str]) -> str:
    """What a csv column holds, judged by some of its fields."""
    filled = [value.strip() for value in values if value.strip()]
    if not filled:
        return "empty"
    if all(_is_number(value) for value in filled):
        return "number"
    if all(value.lower() in ("true", "false", "yes", "no") for value in filled):
        return "boolean"
    return "date" if all(_DATE.fullmatch(value) for value in filled) else "text"


def _is_number(value: str) -> bool:
    try:
        float(value.replace(",", ""))
    except ValueError:
        return False
    return True


def kind_of_values(values: list[Any]) -> str:
    """What a JSON member holds, judged by some of its values; mostly text counts as text."""
    present = [value for value in values if value is not None]
    strings = [value for value in present if isinstance(value, str)]
    if len(strings) > len(present) / 2:  # the odd row is told by its number later
        present = strings
    names = {str: "text", bool: "boolean", int: "number", float: "number", list: "list"}
    kinds = {names.get(type(value), "object") for value in present}
    if kinds == {"text"}:
        dated = all(_DATE.fullmatch(value) for value in present)
        return "date" if dated else "text"
    return kinds.pop() if len(kinds) == 1 else ("mixed" if kinds else "empty")


def kind_of_arrow(kind: pa.DataType) -> str:
    """What a column of an Arrow type holds."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "text"
    if _holds_bytes(kind):
        return BINARY
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_temporal(kind):
        return "date"
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if pa.types.is_struct(kind) or pa.types.is_map(kind):
        return "object"
    if pa.types.is_nested(kind):
        return "list"
    return "number" if numeric else str(kind)


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(_holds_bytes(kind.field(i).type) for i in range(kind.num_fields))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _holds_bytes(kind.value_type)
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_binary_view(kind)
    )
