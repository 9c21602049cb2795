"""One definition per setting: checks, flags, JSON and command text agree."""

from __future__ import annotations

import argparse
import dataclasses
import shlex

import pytest

from mistudio.core import configs
from mistudio.core.config import (
    Config,
    add_arguments,
    command_line,
    config_hash,
    from_arguments,
    from_dict,
    settings_of,
    to_dict,
    validate,
    violations,
)
from mistudio.core.configs import SteerConfig
from mistudio.core.errors import InvalidInput
from mistudio.core.sweep_configs import SweepConfig
from mistudio.core.training_configs import TrainConfig

ALL = [c for c in vars(configs).values() if isinstance(c, type) and issubclass(c, Config)]


def parsed(cls: type[Config], line: str) -> Config:
    parser = argparse.ArgumentParser()
    add_arguments(parser, cls)
    return from_arguments(cls, parser.parse_args(shlex.split(line)))


def test_all_violations_are_told_at_once_with_their_field() -> None:
    config = TrainConfig(model="m", dataset="d", width=0, k=0, learning_rate=5.0)
    found = {v.field: v.sentence for v in violations(config)}
    assert set(found) == {"width", "k", "learning_rate"}
    assert found["width"] == "Latents must lie between 1 and 1,048,576."
    with pytest.raises(InvalidInput, match=r"Latents.* k must.* Learning rate"):
        validate(config)


def test_rules_across_fields() -> None:
    config = TrainConfig(model="m", dataset="d", width=32, k=64)
    assert [v.sentence for v in violations(config)] == ["k is 64 but the SAE has 32 latents."]


def test_a_rate_is_automatic_or_within_its_range() -> None:
    named = TrainConfig(model="m", dataset="d")
    for rate in (0.0, 1e-6, 0.1):
        validate(dataclasses.replace(named, learning_rate=rate))
    low = violations(dataclasses.replace(named, learning_rate=9e-7))
    assert [(v.field, v.sentence) for v in low] == [
        ("learning_rate", "Learning rate must lie between 0.000001 and 0.1.")
    ]


def test_short_runs_and_high_rates_are_doubted() -> None:
    assert TrainConfig().warnings() == []
    assert TrainConfig(tokens=0).warnings() == []  # one pass: not known yet
    assert TrainConfig(tokens=999 * 64 + 1, batch=64).warnings() == []  # a step more is begun
    assert TrainConfig(tokens=999 * 64, batch=64).warnings() == [
        "The length is 999 steps; in fewer than 1,000 features are seldom learnt well."
    ]
    assert TrainConfig(learning_rate=0.01).warnings() == []
    assert TrainConfig(learning_rate=0.02).warnings() == [
        "A learning rate of 0.02 is high; above 0.01 the loss may grow instead of falling."
    ]


def test_a_sweep_is_doubted_for_what_its_members_are() -> None:
    sweep = SweepConfig(
        learning_rate=0.05, layers="0-5", vary=("learning_rate=0.001,0.02", "k=8,16")
    )
    rate, layers = sweep.warnings()
    assert rate.startswith("A learning rate of 0.02 is high")
    assert layers.startswith("6 layers are learnt at once")
    unread = SweepConfig(tokens=64, batch=64, vary=("k=8,many",))
    assert unread.warnings()[0].startswith("The length is 1 step;")


def test_missing_required_settings_are_named() -> None:
    sentences = [v.sentence for v in violations(SteerConfig())]
    assert sentences == ["Feature is missing.", "Prompt is missing."]


@pytest.mark.parametrize("written", ["0.00005", "5e-5", "5E-05"])
def test_scientific_notation_is_accepted(written: str) -> None:
    config = parsed(TrainConfig, f"--model m --dataset d --learning-rate {written}")
    assert isinstance(config, TrainConfig)
    assert config.learning_rate == 5e-5


def test_a_word_where_a_number_belongs_is_a_sentence() -> None:
    with pytest.raises(InvalidInput, match="k must be a whole number, not 'many'"):
        parsed(TrainConfig, "--model m --dataset d --k many")


def test_a_fraction_where_a_whole_number_belongs_is_a_sentence() -> None:
    with pytest.raises(InvalidInput, match="k must be a whole number"):
        from_dict(TrainConfig, {"k": 2.5})


@pytest.mark.parametrize("cls", ALL, ids=lambda c: c.__name__)
def test_every_setting_is_described_and_round_trips(cls: type[Config]) -> None:
    for setting in settings_of(cls):
        assert setting.option.label
        assert setting.option.help.endswith((".", "it."))
    config = cls()
    assert from_dict(cls, to_dict(config)) == config


def test_command_text_parses_back_to_the_same_config() -> None:
    config = TrainConfig(
        model="my model", dataset="a'b", k=7, learning_rate=1e-4, mask_special=False, name="-x 1"
    )
    line = command_line("train", config)
    assert parsed(TrainConfig, line.removeprefix("mistudio train ")) == config
    steer = SteerConfig(feature=("3=2:add", "9=0.5:clamp"), prompt="Once upon")
    line = command_line("steer", steer)
    assert parsed(SteerConfig, line.removeprefix("mistudio steer ")) == steer


def test_hash_changes_with_any_setting() -> None:
    base = TrainConfig(model="m", dataset="d")
    changed = {config_hash(from_dict(TrainConfig, {**to_dict(base), "seed": s})) for s in range(3)}
    assert len(changed) == 3
    assert config_hash(base) in changed
