"""A specification of steering as plain JSON values, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from mistudio.core.errors import InvalidInput
from mistudio.core.steering_positions import Positions
from mistudio.core.steering_spec import Condition, Direction, Edit, Feature, Source, Spec


def spec_json(spec: Spec) -> dict[str, Any]:
    """Plain JSON values; what is as by default is left out."""
    values: dict[str, Any] = {"edits": [_edit_json(edit) for edit in spec.edits]}
    if spec.positions != Positions():
        values["positions"] = spec.positions.to_json()
    if spec.norm:
        values["norm"] = spec.norm
    if spec.norm == "cap":
        values["cap"] = spec.cap
    if spec.unit != "max":
        values["unit"] = spec.unit
    if spec.replace:
        values["replace"] = list(spec.replace)
    if spec.abort is not None:
        values["abort"] = _condition_json(spec.abort)
    return values


def spec_of_json(values: Any) -> Spec:
    """The inverse of `spec_json`; raises `InvalidInput` with a sentence for anything else."""
    values = _mapping(values, "A specification")
    known = {"edits", "positions", "norm", "cap", "unit", "replace", "abort"}
    _only(values, known, "A specification")
    try:
        edits = tuple(_edit_of(entry) for entry in values.get("edits", ()))
        found = Spec(
            edits,
            Positions.from_json(_mapping(values.get("positions", {}), "A position rule")),
            str(values.get("norm", "")),
            float(values.get("cap", 1.0)),
            str(values.get("unit", "max")),
            tuple(str(name) for name in values.get("replace", ())),
            _condition_of(values["abort"]) if values.get("abort") else None,
        )
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"The specification holds a value of the wrong kind: {error}."
        ) from error
    return found.check()


def _source_json(source: Source) -> dict[str, Any]:
    if isinstance(source, Feature):
        return {"feature": source.index, **({"sae": source.sae} if source.sae else {})}
    values: dict[str, Any] = {"vector": source.name}
    if source.layer is not None:
        values["layer"] = source.layer
    if source.hook:
        values["hook"] = source.hook
    return values


def _condition_json(condition: Condition) -> dict[str, Any]:
    values = {**_source_json(condition.feature), "above": condition.above}
    return values if condition.unit == "raw" else {**values, "unit": condition.unit}


def _edit_json(edit: Edit) -> dict[str, Any]:
    values = {**_source_json(edit.source), "operator": edit.operator, "value": edit.value}
    for name in ("unit", "high", "resolved"):
        known = getattr(edit, name)
        if known not in ("", None):
            values[name] = known
    if edit.target is not None:
        values["target"] = _source_json(edit.target)
    if edit.condition is not None:
        values["condition"] = _condition_json(edit.condition)
    if edit.along is not None:
        values["along"] = _source_json(edit.along)
    if edit.layers:
        values["layers"] = list(edit.layers)
    return values


_SOURCE = {"feature", "sae", "vector", "layer", "hook"}


def _source_of(values: Mapping[str, Any]) -> Source:
    if ("feature" in values) == ("vector" in values):
        raise InvalidInput("An edit names either a feature or a vector.")
    if "vector" in values:
        layer = values.get("layer")
        return Direction(
            str(values["vector"]),
            None if layer is None else int(layer),
            str(values.get("hook", "")),
        )
    index = values["feature"]
    if isinstance(index, bool) or not isinstance(index, int) or index < 0:
        raise InvalidInput(f"A feature is named by its number, not by {index!r}.")
    return Feature(index, str(values.get("sae", "")))


def _condition_of(values: Any) -> Condition:
    values = _mapping(values, "A condition")
    _only(values, {"feature", "sae", "above", "unit"}, "A condition")
    source = _source_of(values)
    if not isinstance(source, Feature) or "above" not in values:
        raise InvalidInput("A condition needs a feature and the level it must be above.")
    return Condition(source, float(values["above"]), str(values.get("unit", "raw")))


def _edit_of(values: Any) -> Edit:
    values = _mapping(values, "An edit")
    known = {*_SOURCE, "operator", "value", "unit", "high", "target", "condition", "resolved"}
    _only(values, {*known, "along", "layers"}, "An edit")
    high, resolved = values.get("high"), values.get("resolved")
    target, condition = values.get("target"), values.get("condition")
    along = values.get("along")
    return Edit(
        _source_of(values),
        float(values.get("value", 0.0)),
        str(values.get("operator", "add")),
        str(values.get("unit", "")),
        None if high is None else float(high),
        None if target is None else _source_of(_mapping(target, "A target")),
        None if condition is None else _condition_of(condition),
        None if resolved is None else float(resolved),
        None if along is None else _source_of(_mapping(along, "What a change goes along")),
        tuple(int(layer) for layer in values.get("layers", ())),
    )


def _mapping(values: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(values, Mapping):
        raise InvalidInput(f"{what} must be an object of names and values.")
    return cast("Mapping[str, Any]", values)


def _only(values: Mapping[str, Any], known: set[str], what: str) -> None:
    unknown = set(values) - known
    if unknown:
        raise InvalidInput(f"{what} has no {', '.join(sorted(map(str, unknown)))}.")
