"""The command that a job copies means the same settings when it is typed."""

from __future__ import annotations

import dataclasses
import shlex
import subprocess
from typing import Any

import pytest

from mistudio.core.analysis_configs import AbsorptionConfig
from mistudio.core.config import Config, from_arguments, settings_of
from mistudio.core.steering_export_configs import ExportSteeringConfig
from mistudio.core.vector_configs import ContrastConfig
from mistudio.grammar import build_parser
from mistudio.jobs.job_commands import COMMANDS, WITHOUT, command_of, command_of_job
from mistudio.jobs.registry import JOB_KINDS

REMOTE = ("download_dataset", "download_model", "download_sae")


def edited(cls: type[Config]) -> Config:
    """Every setting with another value than its default, odd characters among them."""
    values: dict[str, Any] = {}
    for setting in settings_of(cls):
        option = setting.option
        if setting.type is bool:
            values[setting.name] = not setting.default
        elif setting.type is tuple:
            # an argument that stands without its flag cannot begin with a dash
            values[setting.name] = ("it's one", "2=x" if setting.name == "vectors" else "-2=x")
        elif setting.type is str:
            others = [choice for choice in option.choices if choice not in ("", setting.default)]
            values[setting.name] = others[0] if others else 'a "b" $c'
        else:
            values[setting.name] = setting.type(7) if setting.default != 7 else setting.type(8)
    return cls(**values)


OTHERWISE = {"contrast_vector", "absorption", "steer_export"}  # tested below


def test_every_kind_of_job_has_its_command_or_says_why_not() -> None:
    # what the window starts by itself has none
    assert set(COMMANDS) | set(WITHOUT) == set(JOB_KINDS)
    assert not set(COMMANDS) & set(WITHOUT)
    assert command_of_job("add_sample", {}) == ""


@pytest.mark.parametrize("kind", sorted(set(COMMANDS) - OTHERWISE))
def test_a_command_parses_to_the_same_settings(kind: str) -> None:
    config = edited(JOB_KINDS[kind].config_class)
    line = command_of(kind, config)
    words = shlex.split(line)
    assert words[0] == "mistudio"
    arguments = build_parser().parse_args(words[1:])
    if kind in REMOTE:
        arguments.repo = arguments.path
    if kind == "export_vectors":
        assert arguments.vectors == list(config.vectors)  # type: ignore[attr-defined]
    assert from_arguments(type(config), arguments) == config


def test_an_export_of_a_kept_run_says_its_format() -> None:
    config = ExportSteeringConfig(run="st 1", variant="a b", out="s.py")
    line = command_of("steer_export", config)
    assert line == "mistudio steer export 'st 1' --format python --variant 'a b' --out s.py"
    found = build_parser().parse_args(shlex.split(line)[1:])
    assert (found.run, found.format, found.variant, found.out) == (
        ["st 1"],
        "python",
        "a b",
        "s.py",
    )
    assert command_of("steer_export", ExportSteeringConfig(run="", settings="{}")) == ""


@pytest.mark.parametrize("kind", ["contrast_vector", "absorption"])
def test_lists_of_prompts_are_files_that_the_shell_makes(kind: str) -> None:
    positive, negative = ("I'm glad", "$HOME \\n"), ("sad",)
    config: ContrastConfig | AbsorptionConfig
    if kind == "absorption":
        config = AbsorptionConfig(sae="s", feature=3, positive=positive, negative=negative)
    else:
        config = ContrastConfig(model="m", layer=3, positive=positive, negative=negative)
    line = command_of(kind, config)
    # in place of the program: prints each flag and the file behind it
    shown = (
        'f() { shift 2; while [ "$1" ]; do case $1 in --*tive) echo "$1"; cat "$2";; esac; '
        "shift; done; }; "
    )
    told = subprocess.run(
        ["bash", "-c", shown + line.replace("mistudio", "f", 1)],
        capture_output=True,
        text=True,
        check=True,
    )
    wanted = ["--positive", *positive, "--negative", *negative]
    assert told.stdout.splitlines() == wanted
    plain = dataclasses.replace(config, positive=(), negative=())
    words = shlex.split(line.split(" --positive")[0])[1:]
    arguments = build_parser().parse_args([*words, "--positive", "p", "--negative", "n"])
    arguments.positive = arguments.negative = None
    assert from_arguments(type(config), arguments) == plain
