"""The short form of an edit: SOURCE[=VALUE[..HIGH][UNIT]][:OP][/LAYERS][>TARGET][?N>LEVEL].

A source is a feature (`12`, `#12`, or `SAE#12` of another SAE) or a vector (`@name`, moved with
`@name/LAYER.HOOK`). Units: `max`, `raw`, `%`, `kl`. Examples: `12=2`, `12=5%:add`,
`#12=0.5max:floor`, `@formal=-4`, `12=-1..1raw:dir-clip`, `12:ablate`, `12:swap>40`,
`12=3:clamp?7>0.5`, `12=2:add/4,6` (added at layers 4 and 6 too).
"""

from __future__ import annotations

import math
import re

from mistudio.core.errors import InvalidInput
from mistudio.core.steering_operators import OPERATORS
from mistudio.core.steering_spec import Condition, Direction, Edit, Feature, Source

_FEATURE = r"(?:[^#@=?>\s]*#)?\d+"
_VECTOR = r"@[^@=?>:]+?"
_SOURCE = rf"(?:{_FEATURE}|{_VECTOR})"
_FORM = re.compile(
    rf"^\s*({_SOURCE})\s*(?:=\s*([^\s/]*?)\s*)?(?::\s*([\w-]+)\s*)?"
    rf"(?:/\s*(\d+(?:\s*,\s*\d+)*)\s*)?(?:>\s*({_SOURCE})\s*)?"
    rf"(?:\?\s*({_FEATURE})\s*>\s*(\S+?)\s*)?$"
)
_VALUE = re.compile(r"^([^%]*?)(?:\.\.([^%]*?))?(max|raw|kl|%)?$")
BARE = ("ablate", "dir-ablate", "swap")  # operators whose value may be left out: 12:ablate
_UNITS = {"max": "max", "raw": "raw", "kl": "kl", "%": "percent", None: ""}
_PLACE = re.compile(r"^(.+)/(\d+)\.(\w+)$")


def parse_edit(text: str) -> Edit:
    """Read one edit; raises `InvalidInput` with a sentence if it has not this form.

    Whether the operator can have such a source or value is not looked at, only that it exists.
    """
    match = _FORM.match(text)
    operator = ((match[3] if match else "") or "add").lower()
    bare = match is not None and not match[2] and operator in BARE
    value = _VALUE.match("0" if bare else match[2] or "") if match else None
    if match is None or value is None:
        raise _not_of_the_form(text)
    if operator not in OPERATORS:
        raise InvalidInput(f"{operator!r} is no operator; use one of {', '.join(OPERATORS)}.")
    condition = None
    if match[6]:
        level = _VALUE.match(match[7])
        if level is None or level[3] in ("%", "kl") or level[2] is not None:
            raise _not_of_the_form(text)
        source = _source(match[6])
        assert isinstance(source, Feature)
        condition = Condition(source, _number(level[1], text), _UNITS[level[3]] or "raw")
    return Edit(
        _source(match[1]),
        _number(value[1], text),
        operator,
        _UNITS[value[3]],
        None if value[2] is None else _number(value[2], text),
        _source(match[5]) if match[5] else None,
        condition,
        layers=tuple(sorted(int(layer) for layer in match[4].split(","))) if match[4] else (),
    )


def written(edit: Edit) -> str:
    """The form that `parse_edit` reads back to the same edit, but for a calibrated value."""
    units = {"percent": "%"}
    parts = [source_written(edit.source), "=", repr(edit.value)]
    if edit.high is not None:
        parts += ["..", repr(edit.high)]
    parts += [units.get(edit.unit, edit.unit), ":", edit.operator]
    if edit.layers:
        parts += ["/", ",".join(map(str, edit.layers))]
    if edit.target is not None:
        parts += [">", source_written(edit.target)]
    if edit.condition is not None:
        parts += ["?", _condition_written(edit.condition)]
    return "".join(parts)


def parse_condition(text: str) -> Condition:
    """Read `FEATURE>LEVEL`, such as 7>0.5 or 7>0.2max; raises `InvalidInput`."""
    try:
        condition = parse_edit(f"0=0?{text}").condition
    except InvalidInput:
        condition = None
    if condition is None:
        raise InvalidInput(f"{text!r} is not of the form N>LEVEL, such as 7>0.5.")
    return condition


def source_written(source: Source) -> str:
    """A source in short: 12, sae_x#12, @name or @name/3.resid_post."""
    if isinstance(source, Feature):
        return f"{source.sae}#{source.index}" if source.sae else str(source.index)
    moved = "" if source.layer is None else f"/{source.layer}.{source.hook or 'resid_post'}"
    return f"@{source.name}{moved}"


def parse_norm(text: str) -> tuple[str, float]:
    """Read a norm rule: "" for none, keep, cap or cap:R; the rule and R. Raises `InvalidInput`."""
    word, colon, rest = text.strip().partition(":")
    cap = _finite(rest) if colon else 1.0
    if word not in ("", "keep", "cap") or cap is None or cap <= 0 or (colon and word != "cap"):
        raise InvalidInput(f"{text!r} is no norm rule; use keep, cap or cap:R with R above 0.")
    return word, cap


def _condition_written(condition: Condition) -> str:
    unit = "" if condition.unit == "raw" else condition.unit
    return f"{source_written(condition.feature)}>{condition.above!r}{unit}"


def _source(text: str) -> Source:
    if text.startswith("@"):
        name = text[1:].strip()
        placed = _PLACE.match(name)
        return Direction(placed[1], int(placed[2]), placed[3]) if placed else Direction(name)
    sae, _, index = text.rpartition("#")
    return Feature(int(index), sae)


def _number(text: str, whole: str) -> float:
    number = _finite(text)
    if number is None:
        raise _not_of_the_form(whole)
    return number


def _finite(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _not_of_the_form(text: str) -> InvalidInput:
    return InvalidInput(f"{text!r} is not of the form N=VALUE or N=VALUE:OP, such as 12=2:add.")
