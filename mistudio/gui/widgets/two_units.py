"""A whole number that can also be typed in another unit, such as tokens as steps."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtWidgets import QComboBox, QLineEdit, QWidget

from mistudio.core.errors import InvalidInput
from mistudio.gui.style import set_property
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import label
from mistudio.gui.widgets.editors import NumberBox, NumberEditor
from mistudio.gui.widgets.elided import Combo
from mistudio.gui.widgets.layout import guard_wheel


class TwoUnitsEditor(NumberEditor):
    """Two controls for one number: typing into either changes the other.

    `value()` is the first one's: the second times `set_factor`. What the second cannot hold exactly
    it shows in grey, or rounded up. `problem` says what is wrong with what was typed there.
    """

    def __init__(
        self,
        name: str,
        sign: str,
        *,
        most: int,
        tip: str,
        offered: Sequence[int] = (),
        rounds_up: bool = False,
        minimum: float | None = None,
        maximum: float | None = None,
        automatic: float | None = None,
        parent: QWidget | None = None,
    ) -> None:
        """`name` and `sign` call the second control, which takes 1 to `most`, `offered` in a list;
        the rest is for the first one, as of `NumberEditor`."""
        super().__init__(
            whole=True, minimum=minimum, maximum=maximum, automatic=automatic, parent=parent
        )
        self._name, self._most, self._rounds_up = name, most, rounds_up
        self._factor: int | None = None
        self._quiet = False
        self.problem = ""
        self.other: NumberBox | Combo = _combo(offered) if offered else _number_box(most)
        self.other.setAccessibleName(name)
        self.other.setToolTip(tip)
        self.other.setEnabled(False)
        self._box.addWidget(self.other, 1)
        self._box.addWidget(label(sign, "muted"))
        self.line.textChanged.connect(self._on_other)
        self.line.editingFinished.connect(self._on_left)

    @property
    def line(self) -> QLineEdit:
        """Where the second unit is typed."""
        found = self.other.lineEdit()
        assert found is not None  # an editable combo has one
        return found

    def set_factor(self, factor: int | None) -> None:
        """How many of the first unit are one of the second; None while that is not known."""
        if factor != self._factor:
            self._factor = factor
            self.other.setEnabled(bool(factor))
            self._show_other()

    def _on_changed(self) -> None:
        if not self._quiet:
            self._show_other()
            super()._on_changed()

    def _show_other(self) -> None:
        """Tell the number in the second unit."""
        shown, grey = self._in_other()
        self._quiet = True
        self._name_problem("")
        self.line.setText(shown)
        self.line.setPlaceholderText(grey)
        self._quiet = False

    def _in_other(self) -> tuple[str, str]:
        """What is shown, and what in grey where it is not exact."""
        try:
            number = float(self.value())
        except ValueError:
            return "", ""
        if not self._factor or number <= 0:
            return "", ""
        count = number / self._factor
        if self._rounds_up:
            return f"{int(-(-number // self._factor))}", ""
        return (f"{int(count)}", "") if count.is_integer() else ("", f"{count:.3g}")

    def _on_other(self) -> None:
        """Take over what was typed or chosen in the second unit."""
        text = self.line.text().replace(",", "").strip()
        if self._quiet or not self._factor:
            return
        try:
            count = _whole(self._name, text, self._most) if text else None
        except InvalidInput as error:
            self._name_problem(error.sentence)
        else:
            self._name_problem("")
            if count is not None:
                self._quiet = True
                self.box.set_number(count * self._factor)
                self._quiet = False
        self.changed.emit()

    def _on_left(self) -> None:
        if not self.line.text().strip():
            self._show_other()

    def _name_problem(self, sentence: str) -> None:
        self.problem = sentence
        set_property(self.other, "invalid", bool(sentence))


def _whole(name: str, text: str, most: int) -> int:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not number.is_integer():
        raise InvalidInput(f"{name} must be a whole number, not {text}.")
    if not 1 <= number <= most:
        raise InvalidInput(f"{name} must lie between 1 and {most:,}.")
    return int(number)


def _number_box(most: int) -> NumberBox:
    return NumberBox(whole=True, minimum=1, maximum=most)


def _combo(offered: Sequence[int]) -> Combo:
    made = Combo()
    made.setEditable(True)
    made.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
    made.setCompleter(None)  # pyright: ignore[reportArgumentType] - None takes it away
    made.addItems([str(one) for one in offered])
    made.setCurrentIndex(-1)
    made.setMinimumWidth(appearance().px(72))
    guard_wheel(made)
    return made
