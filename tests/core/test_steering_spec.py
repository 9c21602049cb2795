"""The written forms of steering edits, positions and whole specifications."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from mistudio.core.config import from_dict, to_dict, violations
from mistudio.core.configs import SteerConfig
from mistudio.core.errors import InvalidInput
from mistudio.core.steering_operators import OPERATORS, Value
from mistudio.core.steering_positions import RULES, Positions, parse_positions
from mistudio.core.steering_settings import (
    everything,
    read_spec,
    spec_of,
    variants_of,
    written_spec,
)
from mistudio.core.steering_shown import edit_words
from mistudio.core.steering_spec import (
    Condition,
    Direction,
    Edit,
    Feature,
    Spec,
    parse_edits,
)
from mistudio.core.steering_words import parse_condition, parse_norm


def test_edits_come_in_index_order_whatever_the_order_given() -> None:
    found = parse_edits(("9=2", "#3=-1.5:clamp"))
    assert found.edits == (Edit(Feature(3), -1.5, "clamp"), Edit(Feature(9), 2.0, "add"))
    assert found.problems == ()


FORMS: dict[str, Edit] = {
    "12=0.1:clamp": Edit(Feature(12), 0.1, "clamp"),
    "sae_x#7=5%": Edit(Feature(7, "sae_x"), 5.0, "add", "percent"),
    "12=0.5max:floor": Edit(Feature(12), 0.5, "floor", "max"),
    "3=1e-3raw:CAP": Edit(Feature(3), 1e-3, "cap", "raw"),
    "@formal=-4": Edit(Direction("formal"), -4.0),
    "@a b/3.mlp_out=2": Edit(Direction("a b", 3, "mlp_out"), 2.0),
    "12=-1..1.5raw:dir-clip": Edit(Feature(12), -1.0, "dir-clip", "raw", 1.5),
    "12:ablate": Edit(Feature(12), 0.0, "ablate"),
    "12:swap>40": Edit(Feature(12), 0.0, "swap", target=Feature(40)),
    "1=0.2kl": Edit(Feature(1), 0.2, "add", "kl"),
    "12=3:clamp?7>0.5": Edit(Feature(12), 3.0, "clamp", condition=Condition(Feature(7), 0.5)),
    "12=3?s#7>0.2max": Edit(Feature(12), 3.0, condition=Condition(Feature(7, "s"), 0.2, "max")),
}


@pytest.mark.parametrize("form", FORMS)
def test_short_forms(form: str) -> None:
    edit = FORMS[form]
    assert parse_edits((form,)) == ((edit,), ())
    assert parse_edits((edit.written(),)).edits == (edit,)


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("x=1", "not of the form"),
        ("3=", "not of the form"),
        ("3=nan", "not of the form"),
        ("3", "not of the form"),
        ("3=1?x", "not of the form"),
        ("3=1:melt", "'melt' is no operator"),
        ("3=1:dir-clip", "needs a low and a high value"),
        ("3=2..1:dir-clip", "below the low one"),
        ("3=1..2", "takes one value"),
        ("3:swap", "needs a second source"),
        ("3:swap>3", "swapped for itself"),
        ("@v=1:clamp", "has no activation"),
        ("3=1kl:scale", "target KL cannot set"),
    ],
)
def test_each_mistake_is_a_sentence(written: str, problem: str) -> None:
    found = parse_edits((written, "4=1"))
    assert problem in found.problems[0]
    assert [e.feature for e in found.edits] == [4]


def test_a_feature_has_one_edit() -> None:
    assert "named twice" in parse_edits(("4=1", "4=2")).problems[0]
    twice = Spec((Edit(Feature(4), 1.0), Edit(Feature(4), 2.0, "clamp")))
    assert "named twice" in twice.problems()[0]
    assert Spec((Edit(Feature(4, "a")), Edit(Feature(4, "b")))).problems() == []


def test_at_most_twenty() -> None:
    assert "At most 20" in parse_edits([f"{i}=1" for i in range(21)]).problems[0]


POSITIONS = {
    "all": Positions(),
    "both+special": Positions(special=True),
    "last": Positions("last"),
    "first:4+sinks": Positions("first", 4, sinks=True),
    "0-3,7,12-": Positions("ranges", ranges=((0, 4), (7, 8), (12, None))),
    "text:a: b, c": Positions("text", pattern="a: b, c"),
    "regex:[a-z]+special": Positions("regex", pattern="[a-z]", special=True),
    "role:user+special+sinks": Positions("role", role="user", special=True, sinks=True),
}


@pytest.mark.parametrize("form", POSITIONS)
def test_position_rules(form: str) -> None:
    rule = POSITIONS[form]
    assert parse_positions(form) == rule
    assert parse_positions(rule.written()) == rule
    assert Positions.from_json(json.loads(json.dumps(rule.to_json()))) == rule


@pytest.mark.parametrize(
    "form", ["never", "first:x", "first:0", "3-1", "text:", "regex:(", "role:me"]
)
def test_position_rules_that_cannot_be(form: str) -> None:
    with pytest.raises(InvalidInput):
        parse_positions(form)


def whole() -> Spec:
    """One that uses everything."""
    edits = [
        *({edit.source: edit for edit in FORMS.values()}.values()),
        Edit(Feature(30), 0.2, unit="kl", resolved=3.5),
    ]
    return Spec(
        tuple(edits),
        Positions("ranges", ranges=((1, 5), (9, None)), special=True),
        "cap",
        0.5,
        "raw",
        ("sae_x",),
        Condition(Feature(9), 2.0, "max"),
    )


def test_a_specification_survives_json() -> None:
    for spec in (whole(), Spec()):
        spec.check()
        assert Spec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
        assert read_spec(written_spec(spec)) == spec


def test_a_specification_of_another_program_is_a_sentence() -> None:
    for values in (
        [],
        {"edits": [{}]},
        {"edits": [{"feature": -1}]},
        {"edits": [{"feature": 1, "vector": "v"}]},
        {"edits": [{"feature": 1, "value": "much"}]},
        {"edits": [{"feature": 1, "size": 2}]},
        {"edits": 3},
        {"colour": "red"},
        {"norm": "double"},
        {"positions": {"rule": "never"}},
        {"abort": {"feature": 1}},
        {"unit": "pounds", "edits": [{"feature": 1}]},
    ):
        with pytest.raises(InvalidInput):
            Spec.from_json(values)
    with pytest.raises(InvalidInput, match="no JSON"):
        read_spec("{")
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_spec("/nowhere/spec.json")


def test_scaling_and_the_empty_specification() -> None:
    edits = (
        Edit(Feature(1), 2.0),
        Edit(Feature(2), 3.0, "scale"),
        Edit(Feature(3), operator="ablate"),
    )
    twice = Spec(edits).scaled(2.0)
    assert [edit.value for edit in twice.edits] == [4.0, 5.0, 0.0]
    assert Spec(edits).scaled(0.0).edits[1].is_neutral
    assert Spec().is_empty
    assert not Spec(replace=("",)).is_empty
    assert Spec(edits).alone(1).edits == edits[1:2]
    named = Spec(edits, abort=Condition(Feature(4), 1.0), replace=("",)).on_sae("s")
    assert {feature.sae for feature in named.features()} == {"s"}
    assert named.replace == ("s",)


@pytest.mark.parametrize("name", OPERATORS)
def test_formulas_work_on_numbers_and_neutral_values_change_nothing(name: str) -> None:
    rule = OPERATORS[name]
    for own in (-1.5, 0.0, 2.0):
        assert isinstance(float(rule.change(own, 1.0, 3.0)), float)
        if rule.neutral is not None and rule.value is not Value.NONE and own >= 0:
            assert rule.change(own, rule.neutral, 0.0) == 0


def config(**values: Any) -> SteerConfig:
    return SteerConfig(**{"prompt": "x", "feature": ("3=4:add",), **values})


def test_settings_make_a_specification(tmp_path: Path) -> None:
    file = tmp_path / "spec.json"
    file.write_text(written_spec(Spec((Edit(Feature(8), 1.0),), norm="keep")))
    made = spec_of(config(edit=("@v=2%",), spec=str(file), positions="last", norm="cap:0.2"))
    assert [edit.source for edit in made.edits] == [Feature(8), Feature(3), Direction("v")]
    assert (made.norm, made.cap, made.positions.rule) == ("cap", 0.2, "last")
    assert spec_of(config(feature=(), spec=str(file))).norm == "keep"
    assert spec_of(config(replace=True)).replace == ("",)
    assert spec_of(config(abort="7>0.5")).abort == parse_condition("7>0.5")
    assert list(variants_of(config(edit=("4=1",), mode="compare"))) == ["3=4.0:add", "4=1.0:add"]
    assert list(variants_of(config(mode="sweep", strengths="0.5, 2"))) == ["×0.5", "×2"]


def test_further_layers_are_written_and_read() -> None:
    for text, layers in (("3=4:add/5,2", (2, 5)), ("@v/1.mlp_out=2%/4", (4,)), ("3=2/0", (0,))):
        edit = parse_edits([text]).edits[0]
        assert edit.layers == layers
        assert parse_edits([edit.written()]).edits == (edit,)
        assert Spec.from_json(Spec((edit,)).to_json()).edits == (edit,)
    assert parse_edits(["@a/b=2"]).edits[0].source == Direction("a/b")
    assert edit_words(parse_edits(["3=4/5,2"]).edits[0]) == "#3 +4 × max, also at layers 2, 5"
    for text, words in (
        ("3=4:clamp/5", "Only an addition"),
        ("3=4:add/5,5", "different numbers"),
        ("3=4:add/x", "not of the form"),
    ):
        assert words in parse_edits([text]).problems[0]


def test_alternatives_stand_in_place_of_one_edit() -> None:
    made = variants_of(
        config(edit=("4=1",), mode="operators", alternative=("3=2max:clamp", "3:ablate"))
    )
    assert list(made) == ["3=4.0:add", "3=2.0:clamp", "3=0.0:ablate"]
    edits = {name: [edit.written() for edit in spec.edits] for name, spec in made.items()}
    assert edits["3=2.0:clamp"] == ["3=2.0max:clamp", "4=1.0:add"]
    assert edits["3=4.0:add"] == ["3=4.0:add", "4=1.0:add"]
    raw = variants_of(config(unit="raw", mode="operators", alternative=("3:ablate",)))
    assert list(raw) == ["3=4.0raw:add", "3=0.0:ablate"]
    assert [e.feature for e in everything(made).edits] == [3, 4, 3, 3]


@pytest.mark.parametrize(
    ("alternative", "words"),
    [
        ((), "Name another edit"),
        (("3=1:clamp", "4=1"), "one feature or vector"),
        (("5=1:clamp",), "Feature 5 has alternatives, but is not steered itself"),
        (("3=4max",), "there twice"),  # in the unit of the settings
        (("3=1:clamp", "3=1:clamp"), "there twice"),
        (tuple(f"3={n}:clamp" for n in range(16)), "At most 16"),
        (("3=x",), "not of the form"),
        (("3=1:swap",), "second source"),
    ],
)
def test_alternatives_that_cannot_be(alternative: tuple[str, ...], words: str) -> None:
    found = violations(config(mode="operators", alternative=alternative))
    assert [violation.field for violation in found] == ["alternative"]
    assert words in found[0].sentence


def test_rows_of_before_still_read() -> None:
    row = {"feature": ["3=4.0:add", "9=1.0:clamp"], "unit": "raw", "positions": "generated"}
    made = spec_of(from_dict(SteerConfig, {**row, "prompt": "x", "weights_hash": "abc"}))
    assert [edit.operator for edit in made.edits] == ["add", "clamp"]
    assert (made.unit, made.positions.rule) == ("raw", "generated")
    again = from_dict(SteerConfig, to_dict(config(stop=("a", "b"), chat=True)))
    assert again == config(stop=("a", "b"), chat=True)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"positions": "never"}, "positions"),
        ({"norm": "cap:0"}, "norm"),
        ({"abort": "x"}, "abort"),
        ({"spec": "{"}, "spec"),
        ({"edit": ("9",)}, "edit"),
        ({"mode": "sweep", "strengths": "1"}, "strengths"),
        ({"feature": ()}, "feature"),
        ({"samples": 11}, "samples"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
    ],
)
def test_settings_that_cannot_be(values: dict[str, Any], field: str) -> None:
    assert [violation.field for violation in violations(config(**values))] == [field]


def test_every_rule_and_norm_is_known() -> None:
    assert len(RULES) == 9
    assert parse_norm("") == ("", 1.0)
    assert parse_norm("cap:2") == ("cap", 2.0)
    assert dataclasses.replace(Spec(), norm="keep").problems() == []
