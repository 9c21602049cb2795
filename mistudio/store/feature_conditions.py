"""What narrows a list of features beyond the search: ranges, flags, labels, lists, expressions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

FLAGS = ("dead", "ultra-rare", "dense", "duplicate", "single-token")
LABEL_STATES = ("none", "auto", "model", "user", "imported")
COLOURS = ("red", "yellow", "green", "blue", "purple")
ANY_COLOUR = "any"
DUPLICATE_ABOVE = 0.9  # cosine of two decoder directions
TEXTS = {
    "label": "label",
    "note": "note",
    "top_token": "top token",
    "tokens": "top tokens",
    "positive": "positive tokens",
    "negative": "negative tokens",
}


@dataclass(frozen=True)
class NumberRange:
    """Features whose column lies in [low, high]; None leaves an end open. Unknown is outside."""

    column: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class HasFlag:
    """Features with a flag of `FLAGS`, or without it."""

    flag: str
    on: bool = True


@dataclass(frozen=True)
class LabelState:
    """Features whose chosen label comes from a source of `LABEL_STATES`; "none": no label."""

    state: str


@dataclass(frozen=True)
class HasColour:
    """Features marked with a colour of `COLOURS`, or with "any"; or those that are not."""

    colour: str
    on: bool = True


@dataclass(frozen=True)
class InList:
    """Features of a list, or those that are not in it."""

    list_id: str
    on: bool = True


@dataclass(frozen=True)
class Matches:
    """Features one of whose texts (`TEXTS`) holds a regular expression, whatever the case."""

    column: str
    pattern: str


@dataclass(frozen=True)
class Among:
    """Features chosen one by one, as on the map; `told` says how. It is not remembered."""

    features: tuple[int, ...]
    told: str


Condition = NumberRange | HasFlag | LabelState | HasColour | InList | Matches | Among
KINDS: dict[str, type[Condition]] = {
    "range": NumberRange,
    "flag": HasFlag,
    "label": LabelState,
    "colour": HasColour,
    "list": InList,
    "matches": Matches,
}


def to_json(conditions: Sequence[Condition]) -> list[dict[str, Any]]:
    """Plain JSON values, for settings and saved views."""
    names = {kind: name for name, kind in KINDS.items()}
    return [
        {"kind": names[type(condition)], **asdict(condition)}
        for condition in conditions
        if type(condition) in names
    ]


def from_json(values: Any) -> tuple[Condition, ...]:
    """The conditions written by `to_json`; what is not understood is left out."""
    found: list[Condition] = []
    entries = cast("list[Any]", values) if isinstance(values, list) else []
    for entry in entries:
        value = cast("dict[str, Any]", entry) if isinstance(entry, dict) else {}
        if value.get("kind") in KINDS:
            rest: dict[str, Any] = {name: part for name, part in value.items() if name != "kind"}
            try:
                found.append(KINDS[value["kind"]](**rest))
            except TypeError:
                continue
    return tuple(found)
