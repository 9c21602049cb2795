"""The written form of a steering edit, `N=VALUE[:OP]`, and its parsed form."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

OPERATORS = ("add", "clamp")
MAX_EDITS = 20
_FORM = re.compile(r"^\s*#?(\d+)\s*=\s*([^:]+?)\s*(?::\s*(\w+)\s*)?$")


class Edit(NamedTuple):
    """One edit of one feature: add `value` to its activation, or set (clamp) it to `value`."""

    feature: int
    value: float
    operator: str = "add"

    def written(self) -> str:
        """The form that `parse_edits` reads back to the same edit."""
        return f"{self.feature}={self.value!r}:{self.operator}"


class Parsed(NamedTuple):
    """Edits in index order, and a sentence for each part that could not be read."""

    edits: tuple[Edit, ...]
    problems: tuple[str, ...]


def parse_edits(written: Sequence[str]) -> Parsed:
    """Read edits; every problem becomes a sentence, none is raised."""
    edits: list[Edit] = []
    problems: list[str] = []
    for text in written:
        match = _FORM.match(text)
        value = _finite(match[2]) if match else None
        operator = (match[3] or "add").lower() if match else ""
        if match is None or value is None:
            problems.append(f"{text!r} is not of the form N=VALUE or N=VALUE:OP, such as 12=2:add.")
        elif operator not in OPERATORS:
            problems.append(f"{operator!r} is no operator; use {' or '.join(OPERATORS)}.")
        elif any(edit.feature == int(match[1]) for edit in edits):
            problems.append(f"Feature {match[1]} is named twice; give it one edit.")
        else:
            edits.append(Edit(int(match[1]), value, operator))
    if len(edits) > MAX_EDITS:
        problems.append(f"At most {MAX_EDITS} features can be steered at once.")
    return Parsed(tuple(sorted(edits)), tuple(problems))


def _finite(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
