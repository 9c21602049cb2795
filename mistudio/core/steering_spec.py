"""What a steered model is steered with: edits, positions, norm rule. Plain data, one definition.

The command line, the window, presets, the history and the engine share it. It is written as JSON
(`Spec.to_json`), and an edit in short as `N=VALUE:OP` (`core.steering_words`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from mistudio.core.errors import InvalidInput
from mistudio.core.steering_operators import OPERATORS, Operator, Value
from mistudio.core.steering_positions import Positions

MAX_EDITS = 20
UNITS = {
    "max": "× the feature's largest activation",
    "raw": "the activation itself",
    "percent": "% of the median residual norm",
    "kl": "nats of KL per token, found by calibration",
}
REACH = {"max": 10.0, "raw": 300.0, "percent": 100.0, "kl": 5.0}  # of sliders; entry is free
FACTOR_REACH = 10.0  # of the sliders of values without a unit
NORMS = ("", "keep", "cap")


@dataclass(frozen=True)
class Feature:
    """A feature of an SAE; `sae` is its id, "" the SAE that the run names."""

    index: int
    sae: str = ""

    @property
    def words(self) -> str:
        """How sentences name it."""
        return f"Feature {self.index:,}"


@dataclass(frozen=True)
class Direction:
    """A vector of the library by id or name; `layer` and `hook` move it from where it is stored."""

    name: str
    layer: int | None = None
    hook: str = ""

    @property
    def words(self) -> str:
        """How sentences name it."""
        return f"Vector {self.name!r}"


Source = Feature | Direction


@dataclass(frozen=True)
class Condition:
    """Holds on tokens where a feature's own activation is above a level, in `unit` raw or max."""

    feature: Feature
    above: float
    unit: str = "raw"


@dataclass(frozen=True)
class Edit:
    """One operator on one source.

    `value` and, of a range, `high` are in `unit`; "" is the unit of the specification. A target KL
    (unit "kl") is turned into a raw value by calibration and then kept in `resolved`; it cannot
    act before. `target` is where a swap goes. With a `condition` it acts only where that holds.
    With `along` everything is read as it is without, but the change goes along that source instead,
    with the length that it has: a control. `layers`: of an addition, further layers to whose
    residual stream the same vector is added, as long as at the source's own place.
    """

    source: Source
    value: float = 0.0
    operator: str = "add"
    unit: str = ""
    high: float | None = None
    target: Source | None = None
    condition: Condition | None = None
    resolved: float | None = None
    along: Source | None = None
    layers: tuple[int, ...] = ()

    @property
    def feature(self) -> int:
        """The index of the feature, −1 of a vector."""
        return self.source.index if isinstance(self.source, Feature) else -1

    @property
    def rule(self) -> Operator:
        """The operator's line in the table."""
        return OPERATORS[self.operator]

    @property
    def is_neutral(self) -> bool:
        """Whether the edit leaves every token as it is, such as adding 0 or multiplying by 1."""
        return self.operator in OPERATORS and self.value == self.rule.neutral

    def written(self) -> str:
        """The short form that `parse_edits` reads back to the same edit."""
        from mistudio.core.steering_words import written

        return written(self)

    def scaled(self, factor: float) -> Edit:
        """`factor` times as strong: values are multiplied, factors move away from 1."""
        if self.rule.value is Value.NONE:
            return self
        if self.rule.value is Value.FACTOR:
            return replace(self, value=1 + (self.value - 1) * factor)
        high = None if self.high is None else self.high * factor
        known = None if self.resolved is None else self.resolved * factor
        return replace(self, value=self.value * factor, high=high, resolved=known)

    def problems(self, unit: str = "max") -> list[str]:
        """A sentence for everything that cannot be; `unit` is that of the specification."""
        words = self.source.words
        rule = OPERATORS.get(self.operator)
        if rule is None:
            return [f"{self.operator!r} is no operator; use one of {', '.join(OPERATORS)}."]
        found: list[str] = []
        own_unit = self.unit or unit
        if own_unit not in UNITS:
            found.append(f"There is no unit {own_unit!r}; use one of {', '.join(UNITS)}.")
        if isinstance(self.source, Direction) and rule.for_features_only:
            found.append(f"{words} has no activation, so it cannot be used with {self.operator}.")
        if not all(math.isfinite(v) for v in (self.value, self.high or 0.0, self.resolved or 0.0)):
            found.append(f"The value of {words} must be a finite number.")
        if (rule.value is Value.RANGE) != (self.high is not None):
            found.append(
                f"{self.operator} needs a low and a high value, such as -1..1."
                if rule.value is Value.RANGE
                else f"{self.operator} takes one value, not a range."
            )
        elif self.high is not None and self.high < self.value:
            found.append(f"The high value of {words} is below the low one.")
        if rule.has_target != (self.target is not None):
            found.append(
                f"{self.operator} needs a second source to swap for."
                if rule.has_target
                else f"{self.operator} takes no second source."
            )
        elif self.target == self.source:
            found.append(f"{words} cannot be swapped for itself.")
        if own_unit == "kl" and rule.value not in (Value.STRENGTH, Value.LEVEL):
            found.append(f"A target KL cannot set the value of {self.operator}.")
        if self.layers and self.operator != "add":
            found.append(f"Only an addition acts at further layers; {self.operator} does not.")
        if len(set(self.layers)) != len(self.layers) or any(n < 0 for n in self.layers):
            found.append(f"The further layers of {words} must be different numbers from 0 on.")
        if self.condition is not None:
            found += _condition_problems(self.condition)
        return found


@dataclass(frozen=True)
class Spec:
    """A whole specification of steering; an empty one is the unsteered model.

    `norm`: "keep" gives every steered token its old length back, "cap" bounds |Δ| by `cap` times
    |x|. `replace` names SAEs ("" the run's) whose reconstruction of the edited activations stands
    in place of what they read, so that what they do not explain is lost: a baseline for
    reconstruction, no way of steering. `abort` ends a text when it holds on a token.
    """

    edits: tuple[Edit, ...] = ()
    positions: Positions = field(default_factory=Positions)
    norm: str = ""
    cap: float = 1.0
    unit: str = "max"
    replace: tuple[str, ...] = ()
    abort: Condition | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do: no hook is installed then."""
        return not (self.edits or self.replace or self.abort)

    @property
    def is_reconstruction(self) -> bool:
        """Whether the error of an SAE is dropped, which must be said beside every result."""
        return bool(self.replace)

    @property
    def leaves_sae_open(self) -> bool:
        """Whether something is left to the SAE that the run names."""
        return "" in self.replace or any(not feature.sae for feature in self.features())

    def problems(self) -> list[str]:
        """A sentence for everything that makes the specification unusable."""
        found = [problem for edit in self.edits for problem in edit.problems(self.unit)]
        seen: set[Source] = set()
        for edit in self.edits:
            if edit.source in seen:
                found.append(f"{edit.source.words} is named twice; give it one edit.")
            seen.add(edit.source)
        if len(self.edits) > MAX_EDITS:
            found.append(f"At most {MAX_EDITS} features can be steered at once.")
        found += self.positions.problems()
        if self.norm not in NORMS:
            found.append(f"There is no norm rule {self.norm!r}; use keep or cap:R.")
        if not (math.isfinite(self.cap) and self.cap > 0):
            found.append("The cap of the norm must be above 0.")
        if self.abort is not None:
            found += _condition_problems(self.abort)
        return found

    def check(self) -> Spec:
        """Itself; raises `InvalidInput` naming every problem if there is one."""
        found = self.problems()
        if found:
            raise InvalidInput(" ".join(found))
        return self

    def scaled(self, factor: float) -> Spec:
        """With every edit `factor` times as strong, as of one step of a sweep."""
        return replace(self, edits=tuple(edit.scaled(factor) for edit in self.edits))

    def alone(self, index: int) -> Spec:
        """With one of the edits only, as a comparison shows it."""
        return replace(self, edits=(self.edits[index],))

    def instead(self, edit: Edit) -> Spec:
        """With this edit in place of the one that its source has."""
        edits = tuple(edit if own.source == edit.source else own for own in self.edits)
        return replace(self, edits=edits)

    def on_sae(self, sae: str) -> Spec:
        """With the SAE that the run names written into everything that left it open."""

        def put(source: Any) -> Any:
            if isinstance(source, Feature) and not source.sae:
                return replace(source, sae=sae)
            if isinstance(source, Condition):
                return replace(source, feature=put(source.feature))
            return source

        edits = tuple(
            replace(
                e,
                source=put(e.source),
                target=put(e.target),
                condition=put(e.condition),
                along=put(e.along),
            )
            for e in self.edits
        )
        return replace(
            self,
            edits=edits,
            replace=tuple(name or sae for name in self.replace),
            abort=put(self.abort),
        )

    def features(self) -> list[Feature]:
        """Every feature that is edited, swapped to or watched, once, in rising order."""
        found: set[Feature] = set()
        for edit in self.edits:
            named = (edit.source, edit.target, edit.along)
            found |= {source for source in named if isinstance(source, Feature)}
            found |= {edit.condition.feature} if edit.condition else set()
        found |= {self.abort.feature} if self.abort else set()
        return sorted(found, key=lambda feature: (feature.sae, feature.index))

    def directions(self) -> list[Direction]:
        """Every vector that is added or swapped to, once, by name."""
        found = {
            source
            for edit in self.edits
            for source in (edit.source, edit.target, edit.along)
            if isinstance(source, Direction)
        }
        return sorted(found, key=lambda d: (d.name, -1 if d.layer is None else d.layer, d.hook))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; what is as by default is left out."""
        from mistudio.core.steering_json import spec_json

        return spec_json(self)

    @classmethod
    def from_json(cls, values: Any) -> Spec:
        """The inverse of `to_json`; raises `InvalidInput` with a sentence for anything else."""
        from mistudio.core.steering_json import spec_of_json

        return spec_of_json(values)


class Parsed(NamedTuple):
    """Edits in index order, and a sentence for each part that could not be read."""

    edits: tuple[Edit, ...]
    problems: tuple[str, ...]


def parse_edits(written: Sequence[str]) -> Parsed:
    """Read edits in their short form; every problem becomes a sentence, none is raised."""
    from mistudio.core.steering_words import parse_edit

    edits: list[Edit] = []
    problems: list[str] = []
    for text in written:
        try:
            edit = parse_edit(text)
        except InvalidInput as error:
            problems.append(error.sentence)
            continue
        wrong = edit.problems()
        if wrong:
            problems += wrong
        elif any(other.source == edit.source for other in edits):
            problems.append(f"{edit.source.words} is named twice; give it one edit.")
        else:
            edits.append(edit)
    if len(edits) > MAX_EDITS:
        problems.append(f"At most {MAX_EDITS} features can be steered at once.")
    return Parsed(tuple(sorted(edits, key=source_order)), tuple(problems))


def source_order(edit: Edit) -> tuple[Any, ...]:
    """The order in which edits are summed, whatever the order in which they are written."""
    source = edit.source
    if isinstance(source, Feature):
        return (0, source.sae, source.index, edit.operator)
    layer = -1 if source.layer is None else source.layer
    return (1, source.name, layer, source.hook, edit.operator)


def _condition_problems(condition: Condition) -> list[str]:
    found: list[str] = []
    if not math.isfinite(condition.above):
        found.append("The level of a condition must be a finite number.")
    if condition.unit not in ("raw", "max"):
        found.append("The level of a condition is in the unit raw or max.")
    return found
