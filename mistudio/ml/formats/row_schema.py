"""What the fields of a row that another program reads must be; rows are checked after writing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

from mistudio.core.errors import Damaged

Check = Callable[[Any], bool]
Schema = Mapping[str, Check]

# a check for a whole list at once: there are millions of tokens in an export
_EVERY: dict[Check, Callable[[list[Any]], bool]] = {}


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

    def passes(value: Any) -> bool:
        return value is None or check(value)

    def all_pass(values: list[Any]) -> bool:
        return _all(check, [value for value in values if value is not None])

    _EVERY[passes] = all_pass
    return passes


def many(check: Check, least: int = 0, most: int | None = None) -> Check:
    """A list of `least` to `most` things that pass `check`."""

    def passes(value: Any) -> bool:
        fits = type(value) is list and len(value) >= least
        return fits and (most is None or len(value) <= most) and _all(check, value)

    def all_pass(values: list[Any]) -> bool:
        if not set(map(type, values)) <= {list}:
            return False
        sizes = list(map(len, values))
        fits = min(sizes, default=least) >= least
        fits = fits and (most is None or max(sizes, default=0) <= most)
        return fits and _all(check, list(itertools.chain.from_iterable(values)))

    _EVERY[passes] = all_pass
    return passes


def _texts(values: list[Any]) -> bool:
    return set(map(type, values)) <= {str} and "\0" not in "".join(values)


def _reals(values: list[Any]) -> bool:
    # a sum over an infinity or a NaN is none of the finite numbers
    return set(map(type, values)) <= {int, float} and math.isfinite(sum(values))


def _wholes(values: list[Any]) -> bool:
    return set(map(type, values)) <= {int}


_EVERY.update({text: _texts, real: _reals, whole: _wholes})


def _all(check: Check, values: list[Any]) -> bool:
    """Whether all values pass."""
    every = _EVERY.get(check)
    return all(map(check, values)) if every is None else every(values)


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


def require_all(schema: Schema, values: list[Any], where: str, first: int = 1) -> None:
    """As `require` for each of many rows, which are named by their numbers from `first` on."""
    fields = schema.keys()
    if all(isinstance(value, dict) and value.keys() == fields for value in values) and all(
        _all(check, [value[name] for value in values]) for name, check in schema.items()
    ):
        return
    for number, value in enumerate(values, first):  # says which row and field it is
        require(schema, value, f"{where}, row {number}")
