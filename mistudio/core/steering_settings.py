"""The specification that a run's settings describe, from short forms and from a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mistudio.core.errors import InvalidInput, StudioError
from mistudio.core.steering_operators import Value
from mistudio.core.steering_positions import Positions, parse_positions
from mistudio.core.steering_spec import Edit, Spec, parse_edits
from mistudio.core.steering_words import parse_condition, parse_edit, parse_norm

if TYPE_CHECKING:
    from mistudio.core.configs import SteerConfig

MODES = ("blended", "compare", "sweep", "operators")
MOST_COLUMNS = 16  # variants of a run


def spec_of(config: SteerConfig) -> Spec:
    """Everything that the settings say about steering, as one specification.

    What is written in short comes on top of the specification of `config.spec`, and replaces its
    position, norm and abort rules where it says something else than the default. Raises
    `InvalidInput` with every problem, in one sentence each.
    """
    spec = read_spec(config.spec) if config.spec else Spec(unit=config.unit)
    edits, problems = parse_edits((*config.feature, *config.edit))
    if problems:
        raise InvalidInput(" ".join(problems))
    positions = parse_positions(config.positions)
    norm, cap = parse_norm(config.norm)
    return replace(
        spec,
        edits=(*spec.edits, *edits),
        positions=spec.positions if positions == Positions() else positions,
        norm=norm or spec.norm,
        cap=cap if norm else spec.cap,
        replace=spec.replace or (("",) if config.replace else ()),
        abort=parse_condition(config.abort) if config.abort else spec.abort,
    ).check()


def needs_sae(config: SteerConfig) -> bool:
    """Whether the run must name an SAE; vectors alone and features that name theirs need none."""
    try:
        return spec_of(config).leaves_sae_open
    except StudioError:
        return True


def read_spec(written: str) -> Spec:
    """A specification from JSON text, or from the file of that name. Raises `InvalidInput`."""
    text = written.strip()
    if not text.startswith("{"):
        try:
            text = Path(text).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"The specification {written!r} cannot be read.") from error
    try:
        return Spec.from_json(json.loads(text))
    except ValueError as error:
        raise InvalidInput(f"The specification is no JSON: {error}.") from error


def written_spec(spec: Spec) -> str:
    """The text that `read_spec` reads back to the same specification."""
    return json.dumps(spec.to_json(), ensure_ascii=False)


def strengths_of(config: SteerConfig) -> tuple[float, ...]:
    """The factors of a sweep; raises `InvalidInput` unless there are 2 to 16 different numbers."""
    try:
        found = tuple(dict.fromkeys(float(text) for text in config.strengths.split(",")))
    except ValueError:
        found = ()
    if not 2 <= len(found) <= 16 or not all(abs(value) < 1e6 for value in found):
        raise InvalidInput("A sweep needs 2 to 16 different strengths, such as -1,0.5,1,2.")
    return found


def variants_of(config: SteerConfig) -> dict[str, Spec]:
    """The specifications that a run's mode compares, by name; raises `InvalidInput`.

    "blended": all edits together, named steered. "compare": each edit alone, named by its short
    form. "sweep": all edits at each of the strengths, named by these, such as "×0.5". "operators":
    one source under its own edit and under each alternative, named by their short forms; the other
    edits stay as they are.
    """
    spec = spec_of(config)
    if config.mode == "compare":
        return {edit.written(): spec.alone(index) for index, edit in enumerate(spec.edits)}
    if config.mode == "sweep":
        return {f"×{strength:g}": spec.scaled(strength) for strength in strengths_of(config)}
    if config.mode == "operators":
        own, *others = alternatives_of(config, spec)
        return {_name(edit, spec.unit): spec.instead(edit) for edit in (own, *others)}
    return {"steered": spec}


def _name(edit: Edit, unit: str) -> str:
    """An edit in short, with its unit wherever that is not × max: a name is read on its own."""
    has_unit = edit.rule.value not in (Value.NONE, Value.FACTOR)
    own = edit.unit or unit
    return replace(edit, unit=own if has_unit and own != "max" else "").written()


def alternatives_of(config: SteerConfig, spec: Spec) -> list[Edit]:
    """The edit that a source has in `spec`, and those that take its place one after another.

    Raises `InvalidInput` unless there are alternatives, all of one source that is steered, and all
    unlike.
    """
    others = [parse_edit(text) for text in config.alternative]
    wrong = [problem for edit in others for problem in edit.problems(spec.unit)]
    if wrong:
        raise InvalidInput(" ".join(wrong))
    if not others:
        raise InvalidInput("Name another edit to compare with, such as --alternative 12=1:clamp.")
    source = others[0].source
    if any(edit.source != source for edit in others):
        raise InvalidInput("Alternatives must all be of one feature or vector.")
    own = [edit for edit in spec.edits if edit.source == source]
    if not own:
        raise InvalidInput(f"{source.words} has alternatives, but is not steered itself.")
    found = [*own, *others]
    if len(found) > MOST_COLUMNS:
        raise InvalidInput(f"At most {MOST_COLUMNS} edits can stand side by side.")
    seen: set[Edit] = set()
    for edit in found:
        plain = replace(edit, unit=edit.unit or spec.unit, resolved=None)
        if plain in seen:
            raise InvalidInput(f"The edit {edit.written()} is there twice.")
        seen.add(plain)
    return found


def everything(variants: Mapping[str, Spec]) -> Spec:
    """Every edit of all variants together: what must be looked up for them, not what acts."""
    edits = dict.fromkeys(edit for spec in variants.values() for edit in spec.edits)
    return replace(next(iter(variants.values())), edits=tuple(edits))


def problems(config: SteerConfig) -> list[tuple[str, str]]:
    """Setting and sentence for everything about steering that cannot be."""
    found: list[tuple[str, str]] = []
    asked = parse_edits(config.feature), parse_edits(config.edit)
    for name, parsed in zip(("feature", "edit"), asked, strict=True):
        found += [(name, sentence) for sentence in parsed.problems]
    for name, read in (
        ("positions", lambda: parse_positions(config.positions)),
        ("norm", lambda: parse_norm(config.norm)),
        ("abort", lambda: config.abort and parse_condition(config.abort)),
        ("spec", lambda: config.spec and read_spec(config.spec)),
        ("strengths", lambda: config.mode == "sweep" and strengths_of(config)),
    ):
        try:
            read()
        except StudioError as error:
            found.append((name, error.sentence))
    if found:
        return found
    try:
        spec = spec_of(config)
    except StudioError as error:
        return [("feature", error.sentence)]
    if config.mode == "compare" and len(spec.edits) < 1:
        return [("mode", "There is no edit to compare.")]
    if config.mode == "operators":
        try:
            alternatives_of(config, spec)
        except StudioError as error:
            return [("alternative", error.sentence)]
    return []
