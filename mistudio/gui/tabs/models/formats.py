"""The formats of a model's weights with the memory they take: as a combo, and as a list to pick."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QSignalBlocker, Signal
from PySide6.QtWidgets import QButtonGroup, QGridLayout, QRadioButton, QWidget

from mistudio.core.model_configs import MODEL_FORMATS
from mistudio.core.units import EM_DASH, format_bytes
from mistudio.gui import icons
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import IconLabel, label
from mistudio.gui.widgets.editors import ChoiceEditor
from mistudio.jobs.model_pages import FormatChoice

NAMES = {
    "auto": "Automatic",
    "fp32": "FP32",
    "bf16": "BF16",
    "fp16": "FP16",
    "int8": "INT8",
    "nf4": "NF4",
    "fp4": "FP4",
}
QUANTISED = ("int8", "nf4", "fp4")
LEVELS = {"green": "fits well", "yellow": "tight", "red": "too large"}
_ROLES = {"green": "emerald", "yellow": "yellow", "red": "red"}
_BITS = {
    "fp32": "4 bytes a weight",
    "bf16": "2 bytes a weight",
    "fp16": "2 bytes a weight",
    "int8": "1 byte a weight",
    "nf4": "half a byte a weight",
    "fp4": "half a byte a weight",
}


def format_name(form: str | None) -> str:
    """ "NF4" for nf4; an unknown one as it is, none as an em-dash."""
    return NAMES.get(form, form) if form else EM_DASH


def describe(choice: FormatChoice) -> str:
    """ "NF4 · about 0.9 GB · fits well · Recommended"."""
    parts = [format_name(choice.format), f"about {format_bytes(choice.bytes)}"]
    parts.append(LEVELS[choice.level])
    if choice.recommended:
        parts.append("Recommended")
    return " · ".join(parts)


class FormatEditor(ChoiceEditor):
    """A combo of formats; once the weights are counted each tells its memory, and whether it fits.

    The dot's colour repeats the words.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__([(form, format_name(form)) for form in MODEL_FORMATS], parent)
        self._choices: Sequence[FormatChoice] = ()
        appearance().changed.connect(self._draw)

    def offer(self, choices: Sequence[FormatChoice]) -> None:
        """Tell the memory of each format; none when it is not known."""
        self._choices = choices
        known = {choice.format: choice for choice in choices}
        for position in range(self.combo.count()):
            form = self.combo.itemData(position)
            choice = known.get(form)
            text = describe(choice) if choice else format_name(form)
            self.combo.setItemText(position, text)
        self._draw()

    def _draw(self) -> None:
        known = {choice.format: choice for choice in self._choices}
        for position in range(self.combo.count()):
            choice = known.get(self.combo.itemData(position))
            role = _ROLES[choice.level] if choice else "muted"
            self.combo.setItemIcon(position, icons.icon("dot", role))


class FormatList(QWidget):
    """One line per format: a mark to choose it, memory, whether it fits, and a note."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._marks = QButtonGroup(self)
        self._marks.buttonToggled.connect(self._on_toggled)
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setHorizontalSpacing(appearance().px(16))
        self._grid.setVerticalSpacing(appearance().px(10))
        self._grid.setColumnStretch(4, 1)
        self.buttons: dict[str, QRadioButton] = {}

    def show_choices(self, choices: Sequence[FormatChoice], chosen: str) -> None:
        """Show the formats; `chosen` is marked."""
        for line, choice in enumerate(choices):
            mark = QRadioButton(format_name(choice.format))
            mark.setProperty("format", choice.format)
            mark.setAccessibleName(describe(choice))
            mark.setToolTip(_BITS[choice.format])
            with QSignalBlocker(self._marks):
                self._marks.addButton(mark)
                mark.setChecked(choice.format == chosen)
            self.buttons[choice.format] = mark
            size = label(f"about {format_bytes(choice.bytes)}", "mono")
            role = _ROLES[choice.level]
            fits = label(LEVELS[choice.level], f"text-{role}")
            note = label(choice.note, "small", wrap=True)
            if choice.recommended:
                note = label(f"Recommended. {choice.note}".strip(), "text-emerald", wrap=True)
            parts = (mark, size, IconLabel("dot", role, 24), fits, note)
            for column, part in enumerate(parts):
                self._grid.addWidget(part, line, column)

    def value(self) -> str:
        """The marked format, "" if none is."""
        mark = self._marks.checkedButton()
        return "" if mark is None else str(mark.property("format"))

    def _on_toggled(self, mark: object, on: bool) -> None:
        if on:
            self.changed.emit()
