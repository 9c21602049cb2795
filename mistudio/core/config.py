"""One definition per job setting: checks, command-line flags, forms and stored JSON follow from it.

A job's settings are a frozen dataclass whose fields are made with `option`. Rules that span fields
go into its `check` method.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import json
import math
import shlex
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from mistudio.core.errors import InvalidInput

ConfigT = TypeVar("ConfigT", bound="Config")


@dataclass(frozen=True)
class Violation:
    """One broken rule: the field it belongs to and a sentence for the user."""

    field: str
    sentence: str


@dataclass(frozen=True)
class Option:
    """What is known of a setting beside its type and default."""

    label: str
    help: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    advanced: bool = False
    required: bool = False
    applies: Callable[[Any], bool] | None = None  # of the config; None: always
    hashed_at_default: bool = True  # False: a config that leaves it alone has its earlier hash


def option(
    default: Any,
    label: str,
    help: str,
    *,
    unit: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Sequence[str] = (),
    advanced: bool = False,
    required: bool = False,
    applies: Callable[[Any], bool] | None = None,
    hashed_at_default: bool = True,
) -> Any:
    """A dataclass field with its `Option`."""
    described = Option(
        label,
        help,
        unit,
        minimum,
        maximum,
        tuple(choices),
        advanced,
        required,
        applies,
        hashed_at_default,
    )
    return dataclasses.field(default=default, metadata={"option": described})


@dataclass(frozen=True)
class Config:
    """Base of all job settings. Field types are str, int, float, bool or a tuple of str."""

    def check(self) -> Iterable[Violation]:
        """Rules that span several fields; subclasses override."""
        return ()

    def unnamed(self) -> Mapping[str, Any]:
        """What a command takes for settings that it does not name, where their default depends on
        others; subclasses override."""
        return {}


class Setting(typing.NamedTuple):
    """A field seen from outside: its name, plain type, default and description."""

    name: str
    type: type
    default: Any
    option: Option


def settings_of(config: type[Config] | Config) -> list[Setting]:
    """Every setting of a config class, in declared order. A tuple of str has type `tuple`."""
    return list(_settings(config if isinstance(config, type) else type(config)))


@functools.cache  # reading the types takes milliseconds, and a form asks with every change
def _settings(cls: type[Config]) -> tuple[Setting, ...]:
    hints = typing.get_type_hints(cls)
    return tuple(
        Setting(f.name, _plain(hints[f.name]), f.default, f.metadata["option"])
        for f in dataclasses.fields(cls)
    )


def _plain(hint: Any) -> type:
    if hint in (str, int, float, bool):
        return hint
    if typing.get_origin(hint) is tuple:
        return tuple
    raise TypeError(f"a setting cannot have the type {hint!r}")


def violations(config: Config) -> list[Violation]:
    """Every broken rule of a config, in field order; settings that do not apply are not checked."""
    found: list[Violation] = []
    for setting in settings_of(config):
        described = setting.option
        if described.applies is not None and not described.applies(config):
            continue
        found.extend(_field_violations(setting, getattr(config, setting.name)))
    if not found:
        found.extend(config.check())
    return found


def _field_violations(setting: Setting, value: Any) -> Iterable[Violation]:
    described, name, label = setting.option, setting.name, setting.option.label
    if described.required and (value is None or value in ("", ())):
        yield Violation(name, f"{label} is missing.")
        return
    if setting.type in (int, float):
        if not math.isfinite(value):
            yield Violation(name, f"{label} must be a finite number.")
            return
        low, high = described.minimum, described.maximum
        if (low is not None and value < low) or (high is not None and value > high):
            yield Violation(name, f"{label} {_range(low, high)}.")
    if described.choices and setting.type is str and value not in described.choices:
        listed = ", ".join(choice for choice in described.choices if choice)
        yield Violation(name, f"{label} must be one of {listed}.")


def _range(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"must lie between {_number(low)} and {_number(high)}"
    if low is not None:
        return f"must be at least {_number(low)}"
    return f"must be at most {_number(high or 0)}"


def _number(value: float) -> str:
    if float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:.12f}".rstrip("0")


def validate(config: Config) -> None:
    """Raise `InvalidInput` naming every violation; return quietly if there is none."""
    found = violations(config)
    if found:
        raise InvalidInput(" ".join(v.sentence for v in found), code="invalid_config")


def to_dict(config: Config) -> dict[str, Any]:
    """Plain JSON values of every setting."""
    return {
        s.name: list(getattr(config, s.name)) if s.type is tuple else getattr(config, s.name)
        for s in settings_of(config)
    }


def from_dict(cls: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """A config from stored values; unknown keys are ignored, missing ones take their default.

    Raises `InvalidInput` for a value that is not of the setting's type.
    """
    known: dict[str, Any] = {}
    for setting in settings_of(cls):
        if setting.name in values:
            known[setting.name] = parse(setting, values[setting.name])
    return cls(**known)


def from_named(cls: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """As `from_dict`, but a setting that is missing follows from the others where it can."""
    config = from_dict(cls, values)
    follows = {name: value for name, value in config.unnamed().items() if name not in values}
    return dataclasses.replace(config, **follows)


def parse(setting: Setting, value: Any) -> Any:
    """`value` (text or a JSON value) as the setting's type; scientific notation is accepted."""
    label = setting.option.label
    try:
        if setting.type is bool:
            if isinstance(value, str):
                return {"true": True, "on": True, "yes": True, "1": True}.get(value.lower(), False)
            return bool(value)
        if setting.type is int:
            number = float(value)
            if not number.is_integer():
                raise InvalidInput(
                    f"{label} must be a whole number, not {value}.", code="invalid_config"
                )
            return int(value) if isinstance(value, int) else int(number)
        if setting.type is float:
            return float(value)
        if setting.type is tuple:
            if isinstance(value, str):
                return (value,) if value else ()
            return tuple(str(item) for item in value)
        return str(value)
    except (TypeError, ValueError, OverflowError):
        kind = "a whole number" if setting.type is int else "a number"
        raise InvalidInput(
            f"{label} must be {kind}, not {value!r}.", code="invalid_config"
        ) from None


def config_hash(config: Config) -> str:
    """SHA-256 of the settings, stable across field order."""
    values = to_dict(config)
    for setting in settings_of(config):
        if not setting.option.hashed_at_default and values[setting.name] == setting.default:
            del values[setting.name]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def flag_of(name: str) -> str:
    """`learning_rate` -> `--learning-rate`."""
    return "--" + name.replace("_", "-")


def names_of(cls: type[Config]) -> tuple[str, ...]:
    """The names of a config's settings, in declared order."""
    return tuple(setting.name for setting in settings_of(cls))


def add_arguments(
    parser: argparse.ArgumentParser,
    cls: type[Config],
    *,
    positional: Sequence[str] = (),
    without: Sequence[str] = (),
) -> None:
    """Add one flag per setting but those in `without`; `positional` names become arguments."""
    for setting in settings_of(cls):
        if setting.name in without:
            continue
        described = setting.option
        text = described.help.replace("%", "%%")
        if described.unit:
            text += f" [{described.unit.replace('%', '%%')}]"
        if setting.default not in ("", (), None) and not isinstance(setting.default, bool):
            text += f" (default {setting.default})"
        if setting.name in positional:
            parser.add_argument(setting.name, nargs=None if described.required else "?", help=text)
        elif setting.type is bool:
            parser.add_argument(
                flag_of(setting.name),
                action=argparse.BooleanOptionalAction,
                default=None,
                help=text,
            )
        elif setting.type is tuple:
            parser.add_argument(flag_of(setting.name), action="append", default=None, help=text)
        else:
            shown = "{" + ",".join(c for c in described.choices if c) + "}"
            parser.add_argument(
                flag_of(setting.name),
                default=None,
                metavar=shown if described.choices else setting.name.upper(),
                help=text,
            )


def given_in(cls: type[Config], arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings that parsed flags name, with their values as typed."""
    return {
        s.name: value
        for s in settings_of(cls)
        if (value := getattr(arguments, s.name, None)) is not None
    }


def from_arguments(cls: type[ConfigT], arguments: argparse.Namespace) -> ConfigT:
    """The config that parsed flags describe; flags not given keep their default."""
    return from_named(cls, given_in(cls, arguments))


def command_line(words: str, config: Config, *, positional: Sequence[str] = ()) -> str:
    """The shell command that runs `mistudio WORDS` with this config; defaults are left out."""
    parts = ["mistudio", *words.split()]
    follows = config.unnamed()
    for setting in settings_of(config):
        value = getattr(config, setting.name)
        if setting.name in positional:
            parts.append(shlex.quote(str(value)))
        elif value == follows.get(setting.name, setting.default):
            continue
        elif setting.type is bool:
            name = setting.name.replace("_", "-")
            parts.append(f"--{name}" if value else f"--no-{name}")
        elif setting.type is tuple:
            for item in value:
                parts += _flagged(setting.name, item)
        else:
            parts += _flagged(setting.name, str(value))
    return " ".join(parts)


def _flagged(name: str, value: str) -> list[str]:
    """Flag and value, joined where the value would be read as another flag."""
    if value.startswith("-"):
        return [f"{flag_of(name)}={shlex.quote(value)}"]
    return [flag_of(name), shlex.quote(value)]
