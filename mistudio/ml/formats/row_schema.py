"""What the fields of a row that another program reads must be; rows are checked after writing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from mistudio.core.errors import Damaged

Check = Callable[[Any], bool]
Schema = Mapping[str, Check]


def text(value: Any) -> bool:
    """A string without NUL, which the databases that read it cannot hold."""
    return type(value) is str and "\0" not in value


def flag(value: Any) -> bool:
    """True or false."""
    return isinstance(value, bool)


def whole(value: Any) -> bool:
    """A whole number."""
    return type(value) is int


def real(value: Any) -> bool:
    """A finite number."""
    return type(value) in (int, float) and math.isfinite(value)


def share(value: Any) -> bool:
    """A number from 0 to 1."""
    return real(value) and 0 <= value <= 1


def maybe(check: Check) -> Check:
    """What passes `check`, or null."""
    return lambda value: value is None or check(value)


def many(check: Check, least: int = 0, most: int | None = None) -> Check:
    """A list of `least` to `most` things that pass `check`."""

    every = _EVERY.get(check, lambda values: all(map(check, values)))

    def passes(value: Any) -> bool:
        fits = type(value) is list and len(value) >= least
        return fits and (most is None or len(value) <= most) and every(value)

    return passes


def _texts(values: list[Any]) -> bool:
    return set(map(type, values)) <= {str} and "\0" not in "".join(values)


def _reals(values: list[Any]) -> bool:
    # a sum over an infinity or a NaN is none of the finite numbers
    return set(map(type, values)) <= {int, float} and math.isfinite(sum(values))


def _wholes(values: list[Any]) -> bool:
    return set(map(type, values)) <= {int}


# the same for a whole list at once: there are millions of tokens in an export
_EVERY: dict[Check, Callable[[list[Any]], bool]] = {text: _texts, real: _reals, whole: _wholes}


def row(schema: Schema) -> Check:
    """An object with exactly the fields of `schema`."""

    def passes(value: Any) -> bool:
        return (
            isinstance(value, dict)
            and value.keys() == schema.keys()
            and all(check(value[name]) for name, check in schema.items())
        )

    return passes


def require(schema: Schema, value: Any, where: str) -> None:
    """Raise `Damaged`, naming the field, unless `value` is a row with the fields of `schema`."""
    if not isinstance(value, dict):
        raise Damaged(f"{where} is no object.")
    if value.keys() != schema.keys():
        odd = sorted(value.keys() ^ schema.keys())
        raise Damaged(f"{where} has other fields than it should: {', '.join(odd)}.")
    for name, check in schema.items():
        if not check(value[name]):
            raise Damaged(f"{where}: {name} is {str(value[name])[:80]!r}.")
