"""The form of a job: one control per setting of its config class, with sentences beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Generic, TypeVar

from PySide6.QtCore import QSize, Signal
from PySide6.QtGui import QGuiApplication, QResizeEvent
from PySide6.QtWidgets import QGridLayout, QVBoxLayout, QWidget

from mistudio.core.config import (
    Config,
    Setting,
    Violation,
    command_line,
    parse,
    settings_of,
    violations,
)
from mistudio.core.errors import InvalidInput
from mistudio.core.settings import SettingsFile
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label, row
from mistudio.gui.widgets.editors import Editor, editor_for
from mistudio.gui.widgets.form_field import Field
from mistudio.gui.widgets.layout import Collapsible
from mistudio.jobs.device_profile import proposals

NARROWEST = 260  # px of one column at a 16-px font

ConfigT = TypeVar("ConfigT", bound=Config)


class ConfigForm(QWidget, Generic[ConfigT]):
    """Edits a config. `changed` follows every edit.

    fields: names to show, in order (all by default); others keep their default, or what
      `set_values` gave them.
    columns: at most so many; fewer when the form is narrow.
    spans: columns that a field takes, where it is not one.
    editors: own `Editor` per field name, such as a combo of models.
    remember: name under which `settings` keeps the last values.
    command: words of the command line ("train"), for "Copy as command"; `positional` as there.
    """

    changed = Signal()

    def __init__(
        self,
        config_class: type[ConfigT],
        fields: Sequence[str] = (),
        *,
        editors: Mapping[str, Editor] | None = None,
        columns: int = 2,
        spans: Mapping[str, int] | None = None,
        settings: SettingsFile | None = None,
        remember: str = "",
        command: str = "",
        positional: Sequence[str] = (),
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._class = config_class
        self._columns = self._fit = columns
        self._spans = dict(spans or {})
        self._settings, self._remember = settings, remember
        self._command, self._positional = command, tuple(positional)
        self._hidden: dict[str, Any] = {}
        self._left_out: frozenset[str] = frozenset()
        self._asked = False  # whether missing values are named yet
        self._quiet = False
        known = {setting.name: setting for setting in settings_of(config_class)}
        names = list(fields) or list(known)
        self.fields = {
            name: Field(known[name], (editors or {}).get(name) or editor_for(known[name]), self)
            for name in names
        }
        self._proposed = proposals(config_class, settings.values) if settings else {}
        self._build()
        self.reset(announce=False)
        stored = settings.recall(remember) if settings and remember else None
        if isinstance(stored, dict):
            self.set_values(stored)
        for field in self.fields.values():
            field.editor.changed.connect(self._on_edited)
        self._refresh()

    def _build(self) -> None:
        px = appearance().px
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.setSpacing(px(12))
        self._basic, self._advanced = QGridLayout(), QGridLayout()
        for grid in (self._basic, self._advanced):
            grid.setHorizontalSpacing(px(16))
            grid.setVerticalSpacing(px(12))
        outer.addLayout(self._basic)
        self.advanced = Collapsible("Advanced")
        self.advanced.box.addLayout(self._advanced)
        outer.addWidget(self.advanced)
        self.general_problem = label("", "error", wrap=True)
        self.general_problem.hide()
        outer.addWidget(self.general_problem)
        self._reset_button = button("Reset to defaults", self.reset, variant="ghost", icon="retry")
        self._copy_button = button("Copy as command", self.copy_command, variant="ghost")
        self._reset_button.setToolTip("Put every setting of this form back to its default")
        self._copy_button.setToolTip("Copy the line that does the same in a terminal")
        self.advanced.heading.setToolTip("Settings that seldom need a change")
        self._outer = outer
        self.action_row = row(self._reset_button, self._copy_button, None)  # room for a main button
        outer.addLayout(self.action_row)
        self._copy_button.setVisible(bool(self._command))

    @property
    def config_class(self) -> type[ConfigT]:
        """Whose settings it edits."""
        return self._class

    def insert_row(self, widget: QWidget) -> None:
        """Put something that is no setting below the basic settings."""
        self._outer.insertWidget(1, widget)

    def leave_out(self, names: Collection[str]) -> None:
        """Show all fields but these; they keep their values."""
        if self._left_out != frozenset(names):
            self._left_out = frozenset(names)
            self._arrange(self._read()[0])

    def values(self) -> ConfigT:
        """The config as edited, settings that do not apply at their default.

        Raises `InvalidInput` naming text that is no number.
        """
        config, problems = self._read()
        if problems:
            raise InvalidInput(" ".join(problem.sentence for problem in problems))
        unused = {s.name: s.default for s in settings_of(config) if not _applies(s, config)}
        return dataclasses.replace(config, **unused)

    def checked(self) -> ConfigT | None:
        """The config if nothing is wrong; else shows every sentence and goes to the first."""
        self._asked = True
        found = self._refresh()
        if not found:
            config = self.values()
            self._keep()
            self._asked = False  # a form emptied after it was sent is no mistake
            return config
        self.show_violations(found)
        return None

    def show_violations(self, found: Sequence[Violation]) -> None:
        """Show sentences beside their fields (those of hidden fields below the form)."""
        by_field: dict[str, str] = {}
        for violation in found:
            joined = f"{by_field.get(violation.field, '')} {violation.sentence}".strip()
            by_field[violation.field] = joined
        for name, field in self.fields.items():
            field.show_problem(by_field.pop(name, ""))
        self.general_problem.setText(" ".join(by_field.values()))
        self.general_problem.setVisible(bool(by_field))
        first = next((f for f in self.fields.values() if f.problem.text()), None)
        if first is not None and self._asked:
            if first.setting.option.advanced:
                self.advanced.set_open(True)
            first.editor.control.setFocus()

    def set_values(self, values: Mapping[str, Any] | Config) -> None:
        """Take values over, from a mapping or a config; unknown names are ignored."""
        if isinstance(values, Config):
            values = {s.name: getattr(values, s.name) for s in settings_of(values)}
        self._quiet = True
        known = {setting.name for setting in settings_of(self._class)}
        for name, value in values.items():
            if name in self.fields:
                self.fields[name].editor.set_value(value)
            elif name in known:
                self._hidden[name] = value
        self._quiet = False
        self._on_edited()

    def reset(self, *, announce: bool = True) -> None:
        """Every shown setting back to its default, or to what this device's profile proposes."""
        self._quiet = True
        for field in self.fields.values():
            name = field.setting.name
            field.editor.set_value(self._proposed.get(name, field.setting.default))
        self._quiet = False
        self._asked = False
        if announce:
            self._on_edited()

    def copy_command(self) -> None:
        """Put the command that does the same on the clipboard."""
        if not self._read()[1]:
            text = command_line(self._command, self.values(), positional=self._positional)
            QGuiApplication.clipboard().setText(text)

    def is_valid(self) -> bool:
        """Whether the config could be submitted as it is."""
        config, problems = self._read()
        return not problems and not violations(config)

    def _read(self) -> tuple[ConfigT, list[Violation]]:
        known: dict[str, Any] = {}
        problems: list[Violation] = []
        for setting in settings_of(self._class):
            field = self.fields.get(setting.name)
            if field is None and setting.name not in self._hidden:
                continue
            given = field.editor.value() if field else self._hidden[setting.name]
            try:
                known[setting.name] = parse(setting, given)
            except InvalidInput as error:
                problems.append(Violation(setting.name, error.sentence))
        config = self._class(**known)
        free = {s.name for s in settings_of(self._class) if not _applies(s, config)}
        return config, [problem for problem in problems if problem.field not in free]

    def _on_edited(self) -> None:
        if self._quiet:
            return
        self._refresh()
        self.changed.emit()

    def _refresh(self) -> list[Violation]:
        """Lay out what applies, show what is wrong; missing values only once asked for."""
        config, problems = self._read()
        unread = {problem.field for problem in problems}
        found = [*problems, *(v for v in violations(config) if v.field not in unread)]
        self._arrange(config)
        shown = [v for v in found if self._asked or not self._is_blank(v.field)]
        asked, self._asked = self._asked, False
        self.show_violations(shown)
        self._asked = asked
        return found

    def _is_blank(self, name: str) -> bool:
        field = self.fields.get(name)
        return field is None or field.editor.value() in ("", [])

    def minimumSizeHint(self) -> QSize:
        return QSize(appearance().px(NARROWEST), super().minimumSizeHint().height())

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        fit = max(1, min(self._columns, self.width() // appearance().px(NARROWEST)))
        if fit != self._fit:
            self._fit = fit
            self._arrange(self._read()[0])

    def _arrange(self, config: ConfigT) -> None:
        for column in range(self._columns):
            for grid in (self._basic, self._advanced):
                grid.setColumnStretch(column, int(column < self._fit))
        places = {False: 0, True: 0}
        for name, field in self.fields.items():
            described = field.setting.option
            shown = _applies(field.setting, config) and name not in self._left_out
            field.setVisible(shown)
            if shown:
                place, span = places[described.advanced], min(self._fit, self._spans.get(name, 1))
                if place % self._fit + span > self._fit:
                    place += self._fit - place % self._fit
                places[described.advanced] = place + span
                grid = self._advanced if described.advanced else self._basic
                spot = (*divmod(place, self._fit), 1, span)
                if field.property("spot") != spot:
                    field.setProperty("spot", spot)
                    grid.addWidget(field, *spot)
        self.advanced.setVisible(places[True] > 0)

    def _keep(self) -> None:
        if self._settings is not None and self._remember:
            self._settings.remember(self._remember, self._kept())

    def _kept(self) -> dict[str, Any]:
        """What the next form begins with."""
        return {name: field.editor.value() for name, field in self.fields.items()}


def _applies(setting: Setting, config: Config) -> bool:
    """Whether a setting has any effect beside the others."""
    return setting.option.applies is None or setting.option.applies(config)
