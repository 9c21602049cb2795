"""What the help shows: the texts of settings, actions and tabs, gathered from where they stand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from PySide6.QtWidgets import QAbstractButton, QWidget

from mistudio.core.config import Config, Option, Setting, settings_of
from mistudio.core.settings import described_settings, text_of
from mistudio.gui.actions import ACTIONS, TAB_NAMES, TAB_TIPS
from mistudio.gui.services import Tab
from mistudio.gui.tours import TOURS
from mistudio.gui.widgets.config_form import ConfigForm
from mistudio.gui.widgets.form_field import Field, caption_of

TABS, PROGRAM, MENUS, HERE = "Tabs", "Settings of the program", "Menus and keys", "Under the focus"


class Topic(NamedTuple):
    """One entry of the help; `facts` are short lines such as "Default: 512"."""

    key: str
    section: str
    title: str
    text: str
    facts: tuple[str, ...] = ()

    def matches(self, words: Sequence[str]) -> bool:
        """Whether every word occurs somewhere in the entry."""
        whole = " ".join((self.section, self.title, self.text, *self.facts)).casefold()
        return all(word in whole for word in words)


def topics() -> list[Topic]:
    """Every entry: tabs, settings of the program, menus, then the settings of each kind of job."""
    return [*_tabs(), *_program(), *_menus(), *_jobs()]


def _tabs() -> Iterator[Topic]:
    for name in TAB_NAMES:
        told = "\n\n".join((f"{TAB_TIPS[name]}.", *(step.sentence for step in TOURS[name])))
        yield Topic(tab_key(name), TABS, name, told)


def _program() -> Iterator[Topic]:
    for name in described_settings():
        yield Topic(setting_key(name), PROGRAM, text_of(name).label, text_of(name).help)


def _menus() -> Iterator[Topic]:
    for spec in ACTIONS:
        keys = " or ".join(key for key in (spec.shortcut, spec.also) if key)
        facts = (f"Menu: {spec.menu}", *((f"Key: {keys}",) if keys else ()))
        yield Topic(f"action.{spec.name}", MENUS, spec.text.rstrip("…"), f"{spec.tip}.", facts)


def _jobs() -> Iterator[Topic]:
    """Settings of every config class there is, those of jobs first; what is inherited once."""
    from mistudio.jobs.registry import JOB_KINDS

    classes = dict.fromkeys([kind.config_class for kind in JOB_KINDS.values()])
    classes |= dict.fromkeys(_subclasses(Config))
    listed: set[int] = set()
    for cls in classes:
        if not cls.__module__.startswith("mistudio.") or cls.__name__.startswith("_"):
            continue
        section = (cls.__doc__ or cls.__name__).strip().split("\n")[0].rstrip(".")
        for setting in settings_of(cls):
            if id(setting.option) not in listed:
                listed.add(id(setting.option))
                yield _of_setting(cls, section, setting)


def _subclasses(cls: type[Config]) -> Iterator[type[Config]]:
    for found in cls.__subclasses__():
        yield found
        yield from _subclasses(found)


def _of_setting(cls: type[Config], section: str, setting: Setting) -> Topic:
    described = setting.option
    return Topic(
        field_key(cls, setting.name),
        section,
        caption_of(described),
        described.help,
        tuple(_facts(setting, described)),
    )


def _facts(setting: Setting, described: Option) -> Iterator[str]:
    if described.required:
        yield "Must be given"
    elif setting.default not in ("", ()):
        yield f"Default: {_written(setting.default)}"
    low, high = described.minimum, described.maximum
    if low is not None and high is not None:
        yield f"From {_written(low)} to {_written(high)}"
    elif low is not None:
        yield f"At least {_written(low)}"
    elif high is not None:
        yield f"At most {_written(high)}"
    if named := [choice for choice in described.choices if choice]:
        yield f"Choices: {', '.join(named)}"
    if described.advanced:
        yield "Under Advanced"


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ", ".join(str(part) for part in value)
    if isinstance(value, int | float):
        return f"{int(value):,}" if value == int(value) else f"{value:g}"
    return str(value)


def tab_key(name: str) -> str:
    """The key of a tab's entry."""
    return f"tab.{name}"


def setting_key(name: str) -> str:
    """The key of a setting of the program."""
    return f"settings.{name}"


def field_key(cls: type[Config], name: str) -> str:
    """The key of a setting of a job."""
    return f"{cls.__name__}.{name}"


def topic_at(widget: QWidget | None) -> Topic | None:
    """The entry of a control: its setting's, else its own tooltip, else that of its tab."""
    above, spoken = widget, ""
    while above is not None:
        if isinstance(above, Field):
            return _of_field(above)
        if (name := above.property("setting")) in described_settings():
            text = text_of(str(name))
            return Topic(setting_key(str(name)), PROGRAM, text.label, text.help)
        if isinstance(above, Tab) and not spoken:
            return next((t for t in _tabs() if t.title == type(above).__name__[:-3]), None)
        if not above.isWindow():
            spoken = spoken or above.toolTip()
        above = above.parentWidget()
    if widget is None or not spoken:
        return None
    text = widget.text().replace("&", "") if isinstance(widget, QAbstractButton) else ""
    return Topic("", HERE, text or widget.accessibleName() or "This control", spoken)


def _of_field(field: Field) -> Topic:
    """By the form's class; a field outside of a form has an entry of its own."""
    above = field.parentWidget()
    while above is not None and not isinstance(above, ConfigForm):
        above = above.parentWidget()
    if isinstance(above, ConfigForm):
        cls = above.config_class
        section = (cls.__doc__ or cls.__name__).strip().split("\n")[0].rstrip(".")
        return _of_setting(cls, section, field.setting)
    described = field.setting.option
    return Topic(
        "", HERE, caption_of(described), described.help, tuple(_facts(field.setting, described))
    )
