"""A run's steering beside controls: the same change, with the same length, along other directions.

What the run reads of a token stays as it is; only where its change goes is another: along random
features, and along the difference of means. On the text that all read, every change of one hook is
then exactly as long as the run's. Compared are the probability of some words' tokens, their share
in greedy texts, how strongly the steered features fire on these, and the KL.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from mistudio.core.control import JobControl
from mistudio.core.steering_operators import Value
from mistudio.core.steering_spec import Edit, Source, Spec
from mistudio.ml.features.controls import Standing, standing
from mistudio.ml.steering.claims import MEANS, MEASURES, PROMPTED, STEERED, Setting, Shown, measure
from mistudio.ml.steering.operators import BASELINE
from mistudio.ml.steering.prompts import Prompt
from mistudio.ml.steering.sources import Library

ALL_MEASURES = (*MEASURES, "kl")

Along = Mapping[Source, Source]


class Measured(NamedTuple):
    """One measure: the run's value, its controls', and where it stands among them.

    `lowers`: whether the steering is meant to lower it, so that smaller counts as more. `moves`:
    whether it moved that way from the baseline. None where it was not measured.
    """

    baseline: float | None
    steered: float | None
    means: float | None
    prompted: float | None
    random: tuple[float, ...]
    standing: Standing
    lowers: bool
    moves: bool

    @property
    def selective(self) -> bool:
        """Whether it moved as meant, and further than for at least 95 % of enough controls."""
        return self.moves and self.standing.selective


@dataclass(frozen=True)
class RunControls:
    """All figures, and all variants with their texts; `random` in the order of the controls."""

    measures: Mapping[str, Measured]
    baseline: Shown
    steered: Shown
    means: Shown | None
    prompted: Shown | None
    random: tuple[Shown, ...]


def against_controls(
    setting: Setting,
    spec: Spec,
    library: Library,
    features: Sequence[int],
    concept: Collection[int],
    controls: Sequence[Along],
    control: JobControl,
    *,
    means: Along | None = None,
    prompted: Prompt | None = None,
    told: Callable[[float], None] = lambda _share: None,
) -> RunControls:
    """Measure a run and its controls.

    `features` of the setting's SAE are read again in the texts, `concept` are ids of tokens. Each
    control says, by source, along which other one the change goes. Raises as `measure`.
    """
    specs = {STEERED: spec}
    if means is not None:
        specs[MEANS] = moved(spec, means)
    names = [f"random {number}" for number in range(len(controls))]
    specs |= {name: moved(spec, along) for name, along in zip(names, controls, strict=True)}
    shown = measure(setting, features, concept, specs, library, prompted, control, told)
    lowers = suppresses(spec.edits)
    return RunControls(
        {
            name: _measured(shown, names, name, lowers=lowers and name != "kl")
            for name in ALL_MEASURES
        },
        shown[BASELINE],
        shown[STEERED],
        shown.get(MEANS),
        shown.get(PROMPTED),
        tuple(shown[name] for name in names),
    )


def moved(spec: Spec, along: Along) -> Spec:
    """The specification with the change of each edit along another source."""
    return replace(
        spec, edits=tuple(replace(edit, along=along[edit.source]) for edit in spec.edits)
    )


def suppresses(edits: Sequence[Edit]) -> bool:
    """Whether every edit is meant to lower what it acts on, whatever is measured."""
    return all(_suppresses(edit) for edit in edits)


def _suppresses(edit: Edit) -> bool:
    kind = edit.rule.value
    if kind is Value.STRENGTH:
        return edit.value < 0
    if kind is Value.FACTOR:
        return edit.value < 1
    if kind is Value.RANGE:
        return (edit.high or 0.0) <= 0
    return edit.operator in ("ablate", "cap", "swap") or (
        edit.operator in ("clamp", "set-if-on", "dir-ablate", "subspace") and edit.value <= 0
    )


def _measured(
    shown: Mapping[str, Shown], names: Sequence[str], measure_name: str, *, lowers: bool
) -> Measured:
    def value(name: str) -> float | None:
        return getattr(shown[name], measure_name) if name in shown else None

    before, after = value(BASELINE), value(STEERED)
    others = [v for name in names if (v := value(name)) is not None]
    sign = -1.0 if lowers else 1.0
    known = others if after is not None else []
    place = standing(sign * (after or 0.0), [sign * other for other in known])
    start = 0.0 if measure_name == "kl" else before
    moves = after is not None and start is not None and sign * after > sign * start
    return Measured(
        before, after, value(MEANS), value(PROMPTED), tuple(known), place, lowers, moves
    )
