"""Which tokens are steered: the rule, its written form, and the absolute positions it names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from mistudio.core.errors import InvalidInput

RULES = ("all", "prompt", "generated", "last", "first", "ranges", "text", "regex", "role")
ROLES = ("system", "user", "assistant")
_RANGE = re.compile(r"^(\d+)(?:(-)(\d+)?)?$")

Range = tuple[int, int | None]  # first position, and the one behind the last or None for no end


@dataclass(frozen=True)
class Positions:
    """A rule over the positions of a text, counted from 0 at its first token, padding left out.

    `rule`: "all", "prompt", "generated", "last" (the last token of the prompt), "first" (`count`
    tokens from the beginning), "ranges" (`ranges`, half open), "text" and "regex" (tokens of the
    prompt that share a character with a match of `pattern`), "role" (what the chat turn `role`
    says; what is generated belongs to the assistant). Special tokens and attention sinks are left
    out unless `special` or `sinks` is on.
    """

    rule: str = "all"
    count: int = 1
    ranges: tuple[Range, ...] = ()
    pattern: str = ""
    role: str = "user"
    special: bool = False
    sinks: bool = False

    def problems(self) -> list[str]:
        """A sentence for everything that makes the rule unusable."""
        if self.rule not in RULES:
            return [f"There is no position rule {self.rule!r}; use one of {', '.join(RULES)}."]
        found: list[str] = []
        if self.rule == "first" and self.count < 1:
            found.append("The first tokens to steer must be at least 1.")
        if self.rule == "ranges" and not self.ranges:
            found.append("Write at least one range of positions, such as 0-3 or 12-.")
        if any(low < 0 or (high is not None and high <= low) for low, high in self.ranges):
            found.append("A range of positions must end behind its beginning.")
        if self.rule in ("text", "regex") and not self.pattern:
            found.append("Write the text whose tokens are steered.")
        if self.rule == "role" and self.role not in ROLES:
            found.append(f"There is no role {self.role!r}; use one of {', '.join(ROLES)}.")
        if self.rule == "regex":
            try:
                re.compile(self.pattern)
            except re.error as error:
                found.append(f"The regular expression {self.pattern!r} is not valid: {error}.")
        return found

    def written(self) -> str:
        """The form that `parse_positions` reads back to the same rule."""
        forms = {
            "first": f"first:{self.count}",
            "ranges": ",".join(_range_written(r) for r in self.ranges),
            "text": f"text:{self.pattern}",
            "regex": f"regex:{self.pattern}",
            "role": f"role:{self.role}",
        }
        form = forms.get(self.rule, self.rule)
        return form + "+special" * self.special + "+sinks" * self.sinks

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is as by default is left out, but for the rule."""
        default = Positions()
        values = {k: v for k, v in asdict(self).items() if v != getattr(default, k)}
        if self.ranges:
            values["ranges"] = [list(pair) for pair in self.ranges]
        return {"rule": self.rule, **values}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Positions:
        """The inverse of `to_json`; raises `InvalidInput` for what cannot be read."""
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise InvalidInput(f"A position rule has no {', '.join(sorted(unknown))}.")
        try:
            ranges = tuple(
                (int(low), None if high is None else int(high))
                for low, high in values.get("ranges", ())
            )
            found = cls(
                str(values.get("rule", "all")),
                int(values.get("count", 1)),
                ranges,
                str(values.get("pattern", "")),
                str(values.get("role", "user")),
                bool(values.get("special", False)),
                bool(values.get("sinks", False)),
            )
        except (TypeError, ValueError) as error:
            raise InvalidInput("The position rule holds a value that is no number.") from error
        _raise_first(found.problems())
        return found


def parse_positions(written: str) -> Positions:
    """Read the written form: all, prompt, generated, last, first:K, 0-3,7,12-, text:WORDS,
    regex:PATTERN, role:user; with +special or +sinks behind it these tokens are steered too.

    Raises `InvalidInput` with a sentence.
    """
    form, special, sinks = written.strip(), False, False
    while form.endswith(("+special", "+sinks")):
        form, _, word = form.rpartition("+")
        special, sinks = special or word == "special", sinks or word == "sinks"
    found = replace(_parse_rule(form), special=special, sinks=sinks)
    _raise_first(found.problems())
    return found


def _parse_rule(form: str) -> Positions:
    word, colon, rest = form.partition(":")
    if colon and word in ("text", "regex"):
        return Positions(word, pattern=rest)
    if colon and word == "role":
        return Positions("role", role=rest.strip())
    if word == "first":
        if colon and not rest.strip().isdigit():
            raise InvalidInput(f"first:K needs a whole number, not {rest!r}.")
        return Positions("first", count=int(rest) if colon else 1)
    if form == "both":
        return Positions()
    if form in ("all", "prompt", "generated", "last"):
        return Positions(form)
    ranges: list[Range] = []
    for part in form.split(","):
        match = _RANGE.match(part.strip())
        if match is None:
            raise InvalidInput(
                f"{form!r} names no positions; use all, prompt, generated, last, first:K, ranges "
                "such as 0-3,12-, text:WORDS, regex:PATTERN or role:user."
            )
        low = int(match[1])
        high = low + 1 if not match[2] else None if not match[3] else int(match[3]) + 1
        ranges.append((low, high))
    return Positions("ranges", ranges=tuple(ranges))


def _range_written(pair: Range) -> str:
    low, high = pair
    if high is None:
        return f"{low}-"
    return str(low) if high == low + 1 else f"{low}-{high - 1}"


def _raise_first(problems: Sequence[str]) -> None:
    if problems:
        raise InvalidInput(problems[0])
