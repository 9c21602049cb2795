"""One steered feature: on or off, operator, strength by slider or number."""

from __future__ import annotations

from typing import NamedTuple

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QComboBox, QFrame, QHBoxLayout, QSizePolicy, QSlider, QWidget

from mistudio.core.steering_spec import Edit, Feature
from mistudio.gui.style import set_property
from mistudio.gui.theme import ACCENTS, appearance
from mistudio.gui.widgets.cards import Card, button, label, row
from mistudio.gui.widgets.editors import NumberBox
from mistudio.gui.widgets.layout import guard_wheel
from mistudio.gui.widgets.progress import Toggle
from mistudio.store.features import FeatureRow

OPERATORS = (("add", "Add"), ("clamp", "Set (clamp)"))
OPERATOR_TIP = (
    "Add: the activation plus the strength. Set: the activation becomes the strength, "
    "whatever it was."
)
STEPS = 10  # slider steps per unit
ENDS = 5.0  # of the slider, in units of the largest activation
REACH = {"max": 10.0, "raw": 300.0}  # of the number's arrows


class CardState(NamedTuple):
    """A card as it is kept and loaded again."""

    feature: int
    value: float = 0.0
    operator: str = "add"
    on: bool = True


def what_it_is(found: FeatureRow) -> str:
    """The label of a feature, else its top tokens."""
    return found.label or found.top_tokens or "no label"


class FeatureCard(Card):
    """Edits one `Edit`; `changed` follows every edit, `removed(index)` asks to take it away."""

    changed = Signal()
    removed = Signal(int)

    def __init__(
        self, found: FeatureRow, state: CardState, unit: str, parent: QWidget | None = None
    ) -> None:
        super().__init__("nested", parent, padding=10)
        self.feature = found
        self.unit = unit
        self._quiet = False
        name = f"feature {found.index}"
        self.stripe = QFrame(self)
        self.toggle = Toggle(f"Steer {name}")
        self.toggle.setChecked(state.on)
        self.operator = QComboBox()
        for value, shown in OPERATORS:
            self.operator.addItem(shown, value)
        self.operator.setAccessibleName(f"Operator of {name}")
        self.operator.setToolTip(OPERATOR_TIP)
        self.operator.setCurrentIndex(max(0, self.operator.findData(state.operator)))
        self.number = NumberBox(whole=False, minimum=-REACH[unit], maximum=REACH[unit])
        self.number.setAccessibleName(f"Strength of {name}")
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(round(-ENDS * STEPS), round(ENDS * STEPS))
        self.slider.setPageStep(STEPS)
        self.slider.setAccessibleName(f"Strength of {name}, −5 to 5 times its maximum")
        guard_wheel(self.slider)
        guard_wheel(self.operator)
        self.unit_label = label("", "small")
        self._lay_out(name)
        self.set_unit(unit)
        self.set_value(state.value)
        self._connect()

    def _lay_out(self, name: str) -> None:
        px = appearance().px
        self.box.setSpacing(px(6))
        self.box.setContentsMargins(px(16), px(8), px(10), px(8))
        shown = what_it_is(self.feature)
        title = label(shown, "label")
        title.setToolTip(f"{shown}\nlargest activation {self.feature.max:.3f}")
        title.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        remove = button("", self._on_remove, variant="ghost", icon="close", tip=f"Remove {name}")
        head = row(label(f"#{self.feature.index}", "mono"), title, self.toggle, remove)
        head.setStretch(1, 1)
        reset = button("Reset", self.reset, tip="Back to 0 (Set: back to the maximum)")
        middle = row(self.operator, self.number, self.unit_label, None, reset)
        self.slider_row = QWidget()
        less = button("Suppress −2", self._on_less, tip="Strength −2")
        more = button("Amplify +2", self._on_more, tip="Strength +2")
        line = QHBoxLayout(self.slider_row)
        line.setContentsMargins(0, 0, 0, 0)
        line.setSpacing(px(8))
        line.addWidget(less)
        line.addWidget(self.slider, 1)
        line.addWidget(more)
        self.number.setFixedWidth(px(96))
        self.operator.setFixedWidth(px(164))
        self.box.addLayout(head)
        self.box.addLayout(middle)
        self.box.addWidget(self.slider_row)

    def _connect(self) -> None:
        self.slider.valueChanged.connect(self._on_slider)
        self.number.lineEdit().textChanged.connect(self._on_number)
        self.operator.currentIndexChanged.connect(self._on_operator)
        self.toggle.toggled.connect(self._tell)

    def resizeEvent(self, event: object) -> None:
        self.stripe.setGeometry(0, 4, appearance().px(5), self.height() - 8)

    def set_accent(self, position: int) -> None:
        """Colour the stripe by the card's place in the list."""
        self.stripe.setStyleSheet(f"background: {ACCENTS[position % len(ACCENTS)]};")

    def set_unit(self, unit: str) -> None:
        """× max (slider and number) or raw (number only); the strength stays the same push."""
        if unit != self.unit and self.feature.max > 0:
            factor = self.feature.max if unit == "raw" else 1 / self.feature.max
            self.unit = unit
            self.set_value((self.value() or 0.0) * factor)
        self.unit = unit
        self.slider_row.setVisible(unit == "max")
        self.unit_label.setText("× max" if unit == "max" else "raw")

    def value(self) -> float | None:
        """The strength in the unit, None while the text is no number."""
        try:
            return float(self.number.text_value())
        except ValueError:
            return None

    def set_value(self, value: float) -> None:
        """Show another strength."""
        self.number.set_number(round(value, 6) + 0.0)
        self._move_slider(value)

    def edit(self) -> Edit | None:
        """The edit, None while the number cannot be read."""
        value = self.value()
        if value is None:
            return None
        return Edit(Feature(self.feature.index), value, str(self.operator.currentData()))

    def state(self) -> CardState:
        """What `CardState` brings this card back."""
        operator = str(self.operator.currentData())
        return CardState(self.feature.index, self.value() or 0.0, operator, self.toggle.isChecked())

    def is_on(self) -> bool:
        return self.toggle.isChecked()

    def reset(self) -> None:
        """Add: nothing added. Set: to the largest activation."""
        clamp = self.operator.currentData() == "clamp"
        full = 1.0 if self.unit == "max" else self.feature.max
        self.set_value(full if clamp else 0.0)

    def _on_slider(self, steps: int) -> None:
        if not self._quiet:
            self.set_value(steps / STEPS)

    def _on_number(self) -> None:
        value = self.value()
        set_property(self.number, "invalid", value is None)
        if value is not None:
            self._move_slider(value)
        self._tell()

    def _move_slider(self, value: float) -> None:
        self._quiet = True
        self.slider.setValue(round(max(-ENDS, min(ENDS, value)) * STEPS))
        self._quiet = False

    def _on_operator(self) -> None:
        self.reset()
        self._tell()

    def _on_less(self) -> None:
        self.set_value(-2.0)

    def _on_more(self) -> None:
        self.set_value(2.0)

    def _on_remove(self) -> None:
        self.removed.emit(self.feature.index)

    def _tell(self) -> None:
        self.changed.emit()
