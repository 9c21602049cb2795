"""Every steering operator, in one table: what it reads of a token, and what it changes.

An operator is one formula and one entry here. The formula works on numbers and on arrays of any
library, so that the window, the command line and the engine share it. `own` is what the operator
reads of a token, `value` its (first) value, `high` the upper end of a range; the result is the
change along the source's direction, the new value minus `own`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple


class Reads(Enum):
    """What of a token an operator needs to know before it can act."""

    NOTHING = "nothing"
    FEATURE = "feature"  # the feature's own activation f, in the SAE's units
    PRODUCT = "product"  # x·d, with the direction as it is
    COORDINATE = "coordinate"  # of x along d of unit length, beside other such directions


class Value(Enum):
    """What an operator's value means."""

    NONE = "none"  # there is none
    STRENGTH = "strength"  # in a unit; 0 leaves the model as it is
    LEVEL = "level"  # in a unit; the activation or coordinate that is set or bounded
    FACTOR = "factor"  # without a unit; 1 leaves the model as it is
    RANGE = "range"  # two levels, low and high


class Operator(NamedTuple):
    """One entry of the table."""

    label: str
    reads: Reads
    value: Value
    change: Callable[[Any, Any, Any], Any]  # (own, value, high) -> change along the direction
    about: str
    has_target: bool = False  # whether it needs a second source

    @property
    def for_features_only(self) -> bool:
        """Whether the source must be a feature of an SAE, because its activation is read."""
        return self.reads is Reads.FEATURE

    @property
    def neutral(self) -> float | None:
        """The value that changes nothing whatever the token, None if there is none."""
        return {Value.STRENGTH: 0.0, Value.FACTOR: 1.0}.get(self.value)


def _add(_own: Any, value: Any, _high: Any) -> Any:
    return value


def _clamp(own: Any, value: Any, _high: Any) -> Any:
    return value - own


def _scale(own: Any, value: Any, _high: Any) -> Any:
    return (value - 1) * own


def _ablate(own: Any, _value: Any, _high: Any) -> Any:
    return -own


def _floor(own: Any, value: Any, _high: Any) -> Any:
    return (value - own) * (own < value)


def _cap(own: Any, value: Any, _high: Any) -> Any:
    return (value - own) * (own > value)


def _set_if_on(own: Any, value: Any, _high: Any) -> Any:
    return (value - own) * (own > 0)


def _add_below(own: Any, value: Any, _high: Any) -> Any:
    return value * (own < value)


def _dir_ablate(own: Any, value: Any, _high: Any) -> Any:
    return value - own


def _dir_scale(own: Any, value: Any, _high: Any) -> Any:
    return (value - 1) * own


def _dir_clip(own: Any, value: Any, high: Any) -> Any:
    return (value - own) * (own < value) + (high - own) * (own > high)


def _subspace(own: Any, value: Any, _high: Any) -> Any:
    return value - own * (own > 0)


def _swap(own: Any, _value: Any, _high: Any) -> Any:
    return -own


OPERATORS: dict[str, Operator] = {
    "add": Operator(
        "Add",
        Reads.NOTHING,
        Value.STRENGTH,
        _add,
        "f + value: the strength is added to the activation of every token.",
    ),
    "clamp": Operator(
        "Set (clamp)",
        Reads.FEATURE,
        Value.LEVEL,
        _clamp,
        "The activation becomes the value, whatever it was.",
    ),
    "scale": Operator(
        "Multiply",
        Reads.FEATURE,
        Value.FACTOR,
        _scale,
        "value × f: 1 leaves it, 0 turns it off, 2 doubles it, below 0 reverses it.",
    ),
    "ablate": Operator(
        "Ablate",
        Reads.FEATURE,
        Value.NONE,
        _ablate,
        "The activation becomes 0.",
    ),
    "floor": Operator(
        "At least",
        Reads.FEATURE,
        Value.LEVEL,
        _floor,
        "The activation is raised to the value where it is below.",
    ),
    "cap": Operator(
        "At most",
        Reads.FEATURE,
        Value.LEVEL,
        _cap,
        "The activation is lowered to the value where it is above.",
    ),
    "set-if-on": Operator(
        "Set where active",
        Reads.FEATURE,
        Value.LEVEL,
        _set_if_on,
        "The activation becomes the value only where the feature fires.",
    ),
    "add-below": Operator(
        "Add where below",
        Reads.PRODUCT,
        Value.STRENGTH,
        _add_below,
        "The strength is added where x·d is smaller than it.",
    ),
    "dir-ablate": Operator(
        "Ablate the direction",
        Reads.COORDINATE,
        Value.LEVEL,
        _dir_ablate,
        "The part of x along the direction is taken out; a value is then added along it.",
    ),
    "dir-scale": Operator(
        "Multiply the direction",
        Reads.COORDINATE,
        Value.FACTOR,
        _dir_scale,
        "The part of x along the direction is multiplied; 1 leaves it.",
    ),
    "dir-clip": Operator(
        "Bound the direction",
        Reads.COORDINATE,
        Value.RANGE,
        _dir_clip,
        "The part of x along the direction is kept between two values.",
    ),
    "subspace": Operator(
        "Put in place of the direction",
        Reads.COORDINATE,
        Value.LEVEL,
        _subspace,
        "The positive part of x along the direction gives way to the value.",
    ),
    "swap": Operator(
        "Swap for another direction",
        Reads.COORDINATE,
        Value.NONE,
        _swap,
        "The part of x along the source goes along the target instead.",
        has_target=True,
    ),
}
