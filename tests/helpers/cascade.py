"""Works out from the style sheet which text colour stands on which ground, state by state."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

# of a pointer that rests, a button held down, what is chosen, what cannot be used
STATES = ("", ":hover", ":focus", ":pressed", ":checked", ":selected", ":disabled")
_PART = re.compile(r"^([A-Za-z]+)?(#\w+)?((?:\[[^]]*\])*)(::[\w-]+)?((?::[\w-]+)*)$")


class Rule(NamedTuple):
    """The last part of a selector, and what it sets."""

    control: str
    attributes: frozenset[str]
    sub: str
    states: frozenset[str]
    sets: dict[str, str]


class Look(NamedTuple):
    """A control in a state: its text colour and its ground, None if it has none of its own."""

    name: str
    text: str
    ground: str | None


def rules(sheet: str) -> Iterator[Rule]:
    """Every rule of a style sheet, one for each of its selectors, in order."""
    for selectors, body in re.findall(r"([^{}]+)\{([^{}]*)\}", sheet):
        sets = dict(
            (part.strip() for part in line.split(":", 1)) for line in body.split(";") if ":" in line
        )
        for selector in selectors.split(","):
            last = selector.split()[-1]
            found = _PART.match(last)
            assert found is not None, f"not understood: {selector}"
            control, name, attributes, sub, states = found.groups(default="")
            yield Rule(
                f"{control}{name}",
                frozenset(re.findall(r"\[[^]]*\]", attributes)),
                sub,
                frozenset(re.findall(r":[\w-]+", states)),
                sets,
            )


def looks(sheet: str) -> list[Look]:
    """Each control, variant and part that the sheet names, in each state that it names for it."""
    known = list(rules(sheet))
    base = next(rule.sets["color"] for rule in known if rule.control == "QWidget")
    found = []
    subjects = {(rule.control, rule.attributes, rule.sub) for rule in known}
    for control, attributes, sub in sorted(subjects, key=str):
        fitting = [
            rule
            for rule in known
            if rule.control == control and rule.sub in ("", sub) and rule.attributes <= attributes
        ]
        named = frozenset().union(*(rule.states for rule in fitting)) & set(STATES)
        for first, second in product(["", *sorted(named)], repeat=2):
            states = {first, second} - {""}
            if ":disabled" in states and states & {":hover", ":pressed", ":focus"}:
                continue
            text, ground = base, None
            # a more particular rule wins; among equals the later one
            for rule in sorted(fitting, key=lambda r: len(r.attributes) + len(r.states)):
                if not rule.states <= states:
                    continue
                text = rule.sets.get("color", text)
                ground = rule.sets.get("background", ground)
            if ground == "transparent":
                ground = None
            name = f"{control}{''.join(sorted(attributes))}{sub}{''.join(sorted(states))}"
            found.append(Look(name, text, ground))
    return list(dict.fromkeys(found))
