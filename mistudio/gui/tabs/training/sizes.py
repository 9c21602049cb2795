"""Sizes of a training in the units they are thought of in: latents or expansion, tokens or steps,
batches in powers of two, saves every so many hundred steps."""

from __future__ import annotations

import math
from typing import Any

from PySide6.QtWidgets import QCheckBox, QWidget

from mistudio.core.config import settings_of
from mistudio.core.training_configs import TrainConfig
from mistudio.gui.widgets.editors import Editor, NumberBox, NumberEditor, automatic_number
from mistudio.gui.widgets.two_units import TwoUnitsEditor

EXPANSIONS = (4, 8, 16, 32)
MOST_EXPANSION = 64
MOST_STEPS = 1_000_000
_OPTIONS = {setting.name: setting.option for setting in settings_of(TrainConfig)}


def expansion_editor() -> TwoUnitsEditor:
    """Latents, or how many of them there are for each dimension of the model."""
    return TwoUnitsEditor(
        "Expansion",
        "× width",
        most=MOST_EXPANSION,
        tip="Latents as a multiple of the model's width: any whole number from 1 to "
        f"{MOST_EXPANSION}. Choose a model first.",
        offered=EXPANSIONS,
        minimum=_OPTIONS["width"].minimum,
        maximum=_OPTIONS["width"].maximum,
    )


def steps_editor() -> TwoUnitsEditor:
    """Tokens to train on, or the steps in which batches of them are taken."""
    return TwoUnitsEditor(
        "Steps",
        "steps",
        most=MOST_STEPS,
        tip=f"Length in steps of one batch each, 1 to {MOST_STEPS:,}; tokens that do not fill the "
        "last batch count as one step more.",
        rounds_up=True,
        minimum=_OPTIONS["tokens"].minimum,
        maximum=_OPTIONS["tokens"].maximum,
        automatic=automatic_number(_OPTIONS["tokens"].help),
    )


class _PowersBox(NumberBox):
    """The arrows go to the next power of two."""

    def stepped(self, now: float, steps: int) -> float:
        power = math.log2(max(1.0, now))
        return 2.0 ** ((math.floor(power) if steps > 0 else math.ceil(power)) + steps)


class BatchEditor(NumberEditor):
    """Tokens per step. `problem` names what is no power of two, which this form does not take.

    Files and commands may hold others, so that a run which was begun with one goes on.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        option = _OPTIONS["batch"]
        box = _PowersBox(whole=True, minimum=option.minimum, maximum=option.maximum)
        super().__init__(whole=True, box=box, parent=parent)

    @property
    def problem(self) -> str:
        typed = self.value()
        if not typed.isdecimal() or int(typed).bit_count() == 1:
            return ""  # what is no number, or out of range, is told with the others
        low, high = int(_OPTIONS["batch"].minimum or 1), int(_OPTIONS["batch"].maximum or 1)
        if not low <= int(typed) <= high:
            return ""
        below = 1 << (int(typed).bit_length() - 1)
        return f"Batch must be a power of two, such as {below:,} or {2 * below:,}."


class _HundredsBox(NumberBox):
    """The arrows go to the next multiple of a hundred, 100 to 10,000."""

    def stepped(self, now: float, steps: int) -> float:
        hundreds = now / 100
        whole = math.floor(hundreds) if steps > 0 else math.ceil(hundreds)
        return 100.0 * min(100, max(1, whole + steps))


class AutoSaveEditor(Editor):
    """Whether checkpoints are written during the run, and every how many steps; 0 is off."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        option = _OPTIONS["checkpoint_every"]
        self.auto = QCheckBox("Auto-save")
        self.auto.setToolTip("Off, only the last step writes a checkpoint")
        self.box = _HundredsBox(whole=True, minimum=1, maximum=option.maximum)
        self.box.set_number(float(TrainConfig().checkpoint_every))
        self._hold(self.box)
        self._box.insertWidget(0, self.auto)
        self.auto.setChecked(True)
        self.auto.toggled.connect(self._on_toggled)
        self.box.lineEdit().textChanged.connect(self._on_changed)

    def value(self) -> str:
        return self.box.text_value() if self.auto.isChecked() else "0"

    def set_value(self, value: Any) -> None:
        """Take over an interval; 0 keeps the one that is shown for when it is turned on again."""
        text = str(value)
        self.auto.setChecked(text != "0")
        if text != "0":
            self.box.lineEdit().setText(text)

    def _on_toggled(self, on: bool) -> None:
        self.box.setEnabled(on)
        self.changed.emit()

    def _on_changed(self) -> None:
        self.changed.emit()
