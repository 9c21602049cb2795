"""One control per type of setting, all with the same small interface."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from PySide6.QtCore import Signal
from PySide6.QtGui import QValidator
from PySide6.QtWidgets import (
    QAbstractSpinBox,
    QCheckBox,
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QLineEdit,
    QWidget,
)

from mistudio.core.config import Setting
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button
from mistudio.gui.widgets.elided import Combo
from mistudio.gui.widgets.layout import guard_wheel

AUTOMATIC = "automatic"
_TAKES = re.compile(r"(?:^|[;.] )(-1|0) takes ")


class Editor(QWidget):
    """A control for one value. `value()` is text or a JSON value; `changed` follows every edit.

    Subclasses put their control into `self.control` with `_hold`.
    """

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._box = QHBoxLayout(self)
        self._box.setContentsMargins(0, 0, 0, 0)
        self._box.setSpacing(appearance().px(8))
        self.control: QWidget = self

    def _hold(self, control: QWidget, *others: QWidget) -> None:
        self.control = control
        self.setFocusProxy(control)
        self._box.addWidget(control, 1)
        for other in others:
            self._box.addWidget(other)

    def value(self) -> Any:
        raise NotImplementedError

    def set_value(self, value: Any) -> None:
        raise NotImplementedError


class TextEditor(Editor):
    """A line of text."""

    def __init__(self, placeholder: str = "", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.line = QLineEdit()
        self.line.setPlaceholderText(placeholder)
        self.line.textChanged.connect(self.changed)
        self._hold(self.line)

    def value(self) -> str:
        return self.line.text().strip()

    def set_value(self, value: Any) -> None:
        self.line.setText("" if value is None else str(value))


class ListEditor(TextEditor):
    """Several texts, separated by commas."""

    def value(self) -> list[str]:  # type: ignore[override]
        return [part.strip() for part in self.line.text().split(",") if part.strip()]

    def set_value(self, value: Any) -> None:
        self.line.setText(", ".join(str(part) for part in value or ()))


class PathEditor(TextEditor):
    """A file or folder, typed or chosen; `pick` is "file", "folder" or "either"."""

    def __init__(
        self, pick: str = "file", filters: str = "", parent: QWidget | None = None
    ) -> None:
        super().__init__("", parent)
        self._filters = filters
        if pick in ("file", "either"):
            self._box.addWidget(button("File…", self._pick_file, icon="file"))
        if pick in ("folder", "either"):
            self._box.addWidget(button("Folder…", self._pick_folder, icon="folder"))

    def _pick_file(self) -> None:
        chosen, _ = QFileDialog.getOpenFileName(self, "Choose a file", self.value(), self._filters)
        if chosen:
            self.set_value(chosen)

    def _pick_folder(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, "Choose a folder", self.value())
        if chosen:
            self.set_value(chosen)


class ChoiceEditor(Editor):
    """A combo of (value, shown) pairs, or of plain values."""

    def __init__(
        self, choices: Sequence[str | tuple[str, str]] = (), parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self.combo = Combo()
        self.combo.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.combo.setMinimumContentsLength(12)
        guard_wheel(self.combo)
        self.set_choices(choices)
        self.combo.currentIndexChanged.connect(self._on_changed)
        self._hold(self.combo)

    def set_choices(self, choices: Sequence[str | tuple[str, str]]) -> None:
        """Offer other choices; the present one stays if it is among them."""
        kept = self.value()
        self.combo.blockSignals(True)
        self.combo.clear()
        for choice in choices:
            value, shown = choice if isinstance(choice, tuple) else (choice, choice)
            self.combo.addItem(shown or "as in the file", value)
        self.combo.setCurrentIndex(max(0, self.combo.findData(kept)) if choices else -1)
        self.combo.blockSignals(False)
        if self.value() != kept:
            self.changed.emit()

    def value(self) -> str:
        found = self.combo.currentData()
        return "" if found is None else str(found)

    def set_value(self, value: Any) -> None:
        index = self.combo.findData(str(value))
        if index >= 0:
            self.combo.setCurrentIndex(index)

    def _on_changed(self) -> None:
        self.changed.emit()


class CheckEditor(Editor):
    """A tick."""

    def __init__(self, text: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.box = QCheckBox(text)
        self.box.setMinimumHeight(appearance().px(34))  # that of the other controls
        self.box.toggled.connect(self._on_toggled)
        self._hold(self.box)

    def value(self) -> bool:
        return self.box.isChecked()

    def set_value(self, value: Any) -> None:
        self.box.setChecked(bool(value))

    def _on_toggled(self) -> None:
        self.changed.emit()


class NumberBox(QAbstractSpinBox):
    """A number as text: 1,000 and 5e-5 are fine; the arrows step by a share of the magnitude."""

    def __init__(
        self,
        *,
        whole: bool,
        minimum: float | None = None,
        maximum: float | None = None,
        automatic: float | None = None,
        parent: QWidget | None = None,
    ) -> None:
        """`automatic` is the number that stands for a choice by the program: shown as a word."""
        super().__init__(parent)
        self._whole, self._minimum, self._maximum = whole, minimum, maximum
        self._automatic = automatic
        self.lineEdit().setPlaceholderText("" if automatic is None else AUTOMATIC)
        guard_wheel(self)

    def text_value(self) -> str:
        """The text without thousands separators; left empty, the number for automatic."""
        text = self.lineEdit().text().replace(",", "").strip()
        if self._automatic is not None and text.casefold() in ("", AUTOMATIC):
            return f"{self._automatic:g}"
        return text

    def set_range(self, minimum: float | None, maximum: float | None) -> None:
        """Where the arrows end; other numbers can still be typed."""
        self._minimum, self._maximum = minimum, maximum

    def set_number(self, value: float) -> None:
        """Show a number."""
        if value == self._automatic:
            self.lineEdit().clear()
        else:
            self.lineEdit().setText(f"{int(value)}" if self._whole else f"{value:g}")
            self.lineEdit().setCursorPosition(0)  # of a long number the beginning counts

    def stepBy(self, steps: int) -> None:
        try:
            now = float(self.text_value())
        except ValueError:
            now = self._minimum or 0.0
        low = -math.inf if self._minimum is None else self._minimum
        high = math.inf if self._maximum is None else self._maximum
        self.set_number(min(high, max(low, self.stepped(now, steps))))

    def stepped(self, now: float, steps: int) -> float:
        """Where the arrows lead from a number."""
        size = 10.0 ** (math.floor(math.log10(abs(now))) - 1) if now else 0.1
        size = max(1.0, size) if self._whole else size
        return round(now + steps * size, 12)

    def stepEnabled(self) -> QAbstractSpinBox.StepEnabledFlag:
        flags = QAbstractSpinBox.StepEnabledFlag
        return flags.StepUpEnabled | flags.StepDownEnabled

    def validate(self, text: str, position: int) -> tuple[QValidator.State, str, int]:
        return (QValidator.State.Acceptable, text, position)

    def fixup(self, text: str) -> str:
        return text


class NumberEditor(Editor):
    """A whole or decimal number; wrong text stays visible and is named beside the field."""

    def __init__(
        self,
        *,
        whole: bool,
        minimum: float | None = None,
        maximum: float | None = None,
        automatic: float | None = None,
        box: NumberBox | None = None,
        parent: QWidget | None = None,
    ) -> None:
        """`box`: one of its own, such as one with other steps; the rest is for a usual one."""
        super().__init__(parent)
        self.box = box or NumberBox(
            whole=whole, minimum=minimum, maximum=maximum, automatic=automatic
        )
        self.box.lineEdit().textChanged.connect(self._on_changed)
        self._hold(self.box)

    def value(self) -> str:
        return self.box.text_value()

    def set_value(self, value: Any) -> None:
        try:
            self.box.set_number(float(value))
        except (TypeError, ValueError, OverflowError):
            self.box.lineEdit().setText(str(value))

    def _on_changed(self) -> None:
        self.changed.emit()


def automatic_number(text: str) -> float | None:
    """The number that a help text says leaves the choice to the program ("0 takes …")."""
    found = _TAKES.search(text)
    return None if found is None else float(found[1])


def editor_for(setting: Setting) -> Editor:
    """The control for a setting by its type and choices."""
    described = setting.option
    if setting.type is bool:
        return CheckEditor(described.label)
    if setting.type in (int, float):
        return NumberEditor(
            whole=setting.type is int,
            minimum=described.minimum,
            maximum=described.maximum,
            automatic=automatic_number(described.help),
        )
    if setting.type is tuple:
        return ListEditor()
    if described.choices:
        return ChoiceEditor(described.choices)
    return TextEditor()
