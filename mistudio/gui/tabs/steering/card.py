"""One steered source: on or off, operator, strength by slider or number, unit, condition."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QFrame, QSizePolicy, QWidget

from mistudio.core.steering_operators import OPERATORS, Value
from mistudio.core.steering_scales import (
    BIG,
    converted,
    expected_ratio,
    middle,
    red_from,
    start,
    step,
)
from mistudio.core.steering_shown import LARGE_PUSH
from mistudio.core.steering_spec import FACTOR_REACH, REACH, Edit, Feature
from mistudio.gui.style import set_property
from mistudio.gui.tabs.steering.card_state import CardState, with_sae
from mistudio.gui.tabs.steering.extras import ConditionRow, TargetRow
from mistudio.gui.tabs.steering.layers import LayerGrid
from mistudio.gui.tabs.steering.strength import StrengthSlider
from mistudio.gui.theme import ACCENTS, appearance
from mistudio.gui.widgets.cards import Card, button, label, row
from mistudio.gui.widgets.editors import NumberBox
from mistudio.gui.widgets.elided import Combo, Elided
from mistudio.gui.widgets.layout import guard_wheel
from mistudio.gui.widgets.progress import Toggle
from mistudio.jobs.steering_cards import CardFacts

__all__ = ["CardState", "FeatureCard", "with_sae"]

UNITS = {"max": "× max", "raw": "raw", "percent": "% norm"}
UNIT_TIP = (
    "× max: multiples of the feature's largest activation on the text read. raw: the activation "
    "itself. % norm: of the median residual norm, comparable across models."
)


class FeatureCard(Card):
    """Edits one `Edit`; `changed` follows every edit, `removed(source)` asks to take it away."""

    changed = Signal()
    removed = Signal(object)

    def __init__(self, facts: CardFacts, state: CardState, parent: QWidget | None = None) -> None:
        super().__init__("nested", parent, padding=10)
        self.facts = facts
        self._kept_layers = state.edit.layers  # while it is not known which layers there are
        self.stripe = QFrame(self)
        name = self._name()
        self.toggle = Toggle(f"Steer {name}")
        self.operator = Combo()
        for value, rule in OPERATORS.items():
            if isinstance(facts.source, Feature) or not rule.for_features_only:
                self.operator.addItem(rule.label, value)
        self.operator.setAccessibleName(f"Operator of {name}")
        self.number = NumberBox(whole=False)
        self.number.setAccessibleName(f"Strength of {name}")
        self.high = NumberBox(whole=False)
        self.high.setAccessibleName(f"Upper end of {name}")
        self.unit = Combo()
        for value, shown in UNITS.items():
            if isinstance(facts.source, Feature) or value == "raw" or facts.push:
                self.unit.addItem(shown, value)
        if not isinstance(facts.source, Feature) and self.unit.findData("max") >= 0:
            self.unit.removeItem(self.unit.findData("max"))
        self.unit.setAccessibleName(f"Unit of {name}")
        self.unit.setToolTip(UNIT_TIP)
        self.strength = StrengthSlider(f"Strength of {name} by slider")
        self.slider = self.strength.slider
        self.target: TargetRow | None = None  # made when first needed, as seldom used
        self.condition: ConditionRow | None = None
        self.layers: LayerGrid | None = None
        self.hint = label("", "small", wrap=True)
        self.problem = label("", "error", wrap=True)
        for combo in (self.operator, self.unit):
            guard_wheel(combo)
        self._lay_out(name)
        self._show(state)
        self._connect()
        self._arrange()

    def _name(self) -> str:
        source = self.facts.source
        return f"feature {source.index}" if isinstance(source, Feature) else f"{source.name}"

    def _lay_out(self, name: str) -> None:
        px = appearance().px
        self.box.setSpacing(px(6))
        self.box.setContentsMargins(px(16), px(8), px(10), px(8))
        title = Elided("label")
        title.set_text(self.facts.title)
        title.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        place = label(self.facts.place, "small")
        known = self.facts.sae
        place.setToolTip(f"{known.name}\n{known.model_name or ''}" if known else "")
        remove = button("", self._on_remove, variant="ghost", icon="close", tip=f"Remove {name}")
        self.also = button("", icon="plus", variant="toggle", tip="Also at layers…")
        self.also.setAccessibleName(f"Also at layers, {name}")
        self.also.setFixedSize(px(34), px(34))
        head = row(label(self.facts.short, "mono"), title, place, self.also, self.toggle, remove)
        head.setStretch(1, 1)
        self.to = label("upper end", "small")
        controls = row(self.operator, self.number, self.unit)
        controls.setStretch(0, 1)
        self.range_row = QWidget()
        self.range_row.setLayout(row(None, self.to, self.high))
        for box in (self.number, self.high):
            box.setFixedWidth(px(92))
        self.unit.setFixedWidth(px(132))
        self.less = button("", self._on_less)
        self.more = button("", self._on_more)
        self.reset_button = button("Reset", self.reset, variant="ghost", tip="Back to the start")
        self.reset_button.setAccessibleName(f"Reset {name}")
        self.when = button("If", variant="toggle", tip="Act only where a feature is active")
        self.when.setAccessibleName(f"Condition of {name}")
        foot = row(self.less, self.reset_button, self.more, None, self.when, spacing=4)
        self.box.addLayout(head)
        if self.facts.added:
            self.box.addWidget(label(self.facts.added, "small", wrap=True))
        self.box.addLayout(controls)
        self.box.addWidget(self.range_row)
        self.box.addWidget(self.strength)
        self._target_box = row()
        self.box.addLayout(self._target_box)
        self.box.addLayout(foot)
        self._condition_box = row()
        self.box.addLayout(self._condition_box)
        self._layers_box = row()
        self.box.addLayout(self._layers_box)
        self.box.addWidget(self.hint)
        self.box.addWidget(self.problem)

    def _show(self, state: CardState) -> None:
        """Take an edit over."""
        edit = state.edit
        self.toggle.setChecked(state.on)
        self.operator.setCurrentIndex(max(0, self.operator.findData(edit.operator)))
        self.unit.setCurrentIndex(max(0, self.unit.findData(edit.unit or "max")))
        self._unit = str(self.unit.currentData())
        self.number.set_number(round(edit.value, 6) + 0.0)
        self.high.set_number(round(edit.high if edit.high is not None else edit.value + 1, 6))
        if edit.target is not None:
            self._target().set_target(edit.target)
        if edit.condition is not None:
            self._condition().set_condition(edit.condition)
            self.when.setChecked(True)
        if edit.layers and self._has_layers():
            self._layers().set_layers(edit.layers)
            self.also.setChecked(True)

    def _connect(self) -> None:
        self.slider.valueChanged.connect(self._on_slider)
        self.number.lineEdit().textChanged.connect(self._on_number)
        self.high.lineEdit().textChanged.connect(self._on_number)
        self.operator.currentIndexChanged.connect(self._on_operator)
        self.unit.currentIndexChanged.connect(self._on_unit)
        self.toggle.toggled.connect(self._tell)
        self.when.toggled.connect(self._on_when)
        self.also.toggled.connect(self._on_when)

    def resizeEvent(self, event: object) -> None:
        self.stripe.setGeometry(0, 4, appearance().px(5), self.height() - 8)

    def set_accent(self, position: int) -> None:
        """Colour the stripe by the card's place in the list."""
        self.stripe.setStyleSheet(f"background: {ACCENTS[position % len(ACCENTS)]};")

    def _target(self) -> TargetRow:
        if self.target is None:
            self.target = TargetRow(self.facts, self._name())
            self.target.changed.connect(self._on_number)
            self._target_box.addWidget(self.target)
        return self.target

    def _condition(self) -> ConditionRow:
        if self.condition is None:
            self.condition = ConditionRow(self.facts, self._name())
            self.condition.changed.connect(self._on_number)
            self._condition_box.addWidget(self.condition)
        return self.condition

    def _has_layers(self) -> bool:
        return self.facts.layers > 1 and self.facts.layer is not None

    def _layers(self) -> LayerGrid:
        if self.layers is None:
            self.layers = LayerGrid(self.facts.layers, self.facts.layer or 0, self._name())
            self.layers.changed.connect(self._on_number)
            self._layers_box.addWidget(self.layers)
        return self.layers

    def _further(self) -> tuple[int, ...]:
        """The further layers that are chosen, none for an operator that has none."""
        if not self._has_layers():
            return self._kept_layers if self.operator_name() == "add" else ()
        shown = self.layers is not None and self.also.isChecked()
        return self._layers().layers() if shown and self.operator_name() == "add" else ()

    def operator_name(self) -> str:
        return str(self.operator.currentData())

    def unit_name(self) -> str:
        return str(self.unit.currentData())

    def value(self) -> float | None:
        """The strength in the unit, None while the text is no number."""
        return _number(self.number)

    def set_value(self, value: float) -> None:
        """Show another strength."""
        self.number.set_number(round(value, 6) + 0.0)

    def edit(self) -> Edit | None:
        """The edit, None while it cannot be read or cannot be."""
        found = self._read()
        return None if found is None or found.problems() else found

    def _read(self) -> Edit | None:
        rule = OPERATORS[self.operator_name()]
        value, high = self.value(), _number(self.high)
        if rule.value is Value.NONE:
            value = 0.0
        if value is None or (rule.value is Value.RANGE and high is None):
            return None
        condition = self._condition().condition() if self.when.isChecked() else None
        if self.when.isChecked() and condition is None:
            return None
        has_unit = rule.value not in (Value.NONE, Value.FACTOR)
        unit = self.unit_name()
        return Edit(
            self.facts.source,
            value,
            self.operator_name(),
            unit if has_unit and unit != "max" else "",
            high if rule.value is Value.RANGE else None,
            self._target().target() if rule.has_target else None,
            condition,
            layers=self._further(),
        )

    def state(self) -> CardState:
        """What brings this card back."""
        found = self._read() or Edit(self.facts.source, 0.0)
        return CardState(found, self.toggle.isChecked())

    def is_on(self) -> bool:
        return self.toggle.isChecked()

    def sentence(self) -> str:
        """What is wrong with the card, "" if nothing."""
        found = self._read()
        if found is not None:
            return " ".join(found.problems())
        if self.value() is None or _number(self.high) is None:
            return "A strength is not a number."
        return "The condition needs the number of a feature and a level."

    def reset(self) -> None:
        """Back to where the operator starts: no change, or 1 × max."""
        rule, unit = OPERATORS[self.operator_name()], self.unit_name()
        first = start(self.operator_name(), unit, self.facts.maximum)
        if rule.value is Value.RANGE:
            one = 10 * step(self.operator_name(), unit, self.facts.maximum)
            first = -one
            self.high.set_number(one)
        self.set_value(first)

    def _on_slider(self, steps: int) -> None:
        operator, unit = self.operator_name(), self.unit_name()
        self.set_value(middle(operator) + steps * step(operator, unit, self.facts.maximum))

    def _on_number(self) -> None:
        for box in (self.number, self.high):
            set_property(box, "invalid", _number(box) is None)
        self._arrange()
        self._tell()

    def _on_operator(self) -> None:
        self.reset()
        self._arrange()
        self._tell()

    def _on_unit(self) -> None:
        new, facts = self.unit_name(), self.facts
        for box in (self.number, self.high):
            value = _number(box)
            if value is None:
                continue
            moved = converted(value, self._unit, new, facts.maximum, facts.push)
            box.set_number(
                round(
                    start(self.operator_name(), new, facts.maximum) if moved is None else moved, 6
                )
            )
        self._unit = new
        self._arrange()
        self._tell()

    def _on_when(self, on: bool) -> None:
        self._arrange()
        self._tell()

    def _arrange(self) -> None:
        """Show what the operator has, and what its value means."""
        operator, unit, facts = self.operator_name(), self.unit_name(), self.facts
        rule = OPERATORS[operator]
        has_value = rule.value is not Value.NONE
        has_unit = has_value and rule.value is not Value.FACTOR
        ranged = rule.value is Value.RANGE
        self.number.setVisible(has_value)
        self.unit.setVisible(has_unit)
        self.range_row.setVisible(ranged)
        for widget in (self.strength, self.less, self.more):
            widget.setVisible(has_value and not ranged)
        self.reset_button.setVisible(has_value)
        if self.target is not None or rule.has_target:
            self._target().setVisible(rule.has_target)
        if self.condition is not None or self.when.isChecked():
            self._condition().setVisible(self.when.isChecked())
        can_add = operator == "add" and self._has_layers()
        self.also.setVisible(can_add)
        if self.layers is not None or (can_add and self.also.isChecked()):
            self._layers().setVisible(can_add and self.also.isChecked())
        reach = REACH[unit] if has_unit else FACTOR_REACH
        for box in (self.number, self.high):
            box.set_range(-reach, reach)
        one, zero = step(operator, unit, facts.maximum), middle(operator)
        self.less.setText(f"Suppress {_short(zero - BIG * one)}")
        self.more.setText(f"Amplify {_short(zero + BIG * one, sign=rule.value is Value.STRENGTH)}")
        for made in (self.less, self.more):
            made.setAccessibleName(f"{made.text()}, {self._name()}")
        words = ("suppress", _short(zero), "amplify")
        if rule.value is Value.LEVEL:
            words = (_short(-50 * one), "0", f"{_short(50 * one)}, a target")
        self.strength.describe(
            words, red_from(operator, unit, facts.maximum, facts.push), rule.about
        )
        self.operator.setToolTip(rule.about)
        self.hint.setText(self._hint())
        self.hint.setVisible(bool(self.hint.text()))
        self.hint.setToolTip(rule.about)
        value = self.value()
        if value is not None:
            self.strength.show_steps((value - zero) / one)
        wrong = self.sentence()
        self.problem.setText(wrong)
        self.problem.setVisible(bool(wrong))

    def _hint(self) -> str:
        operator, unit, facts = self.operator_name(), self.unit_name(), self.facts
        rule, value = OPERATORS[operator], self.value()
        if rule.value is Value.NONE:
            return "Takes no strength."
        parts: list[str] = []
        if rule.value is Value.LEVEL and operator != "dir-ablate":
            parts.append("A target; starts at 1 × max.")
        elif rule.value is Value.FACTOR:
            parts.append("1 leaves it as it is.")
        elif value == 0 and rule.value is Value.STRENGTH:
            parts.append("0 changes nothing.")
        if unit == "max" and not facts.maximum and isinstance(facts.source, Feature):
            parts.append("Never fired on the text read: use another unit.")
        elif value is not None:
            ratio = expected_ratio(operator, unit, value, facts.maximum, facts.push)
            if ratio is not None and ratio > LARGE_PUSH:
                parts.append(f"Over-steering expected: about {ratio:.0%} of |x|.")
        return " ".join(parts)

    def _on_less(self) -> None:
        self._by(-BIG)

    def _on_more(self) -> None:
        self._by(BIG)

    def _by(self, steps: int) -> None:
        operator = self.operator_name()
        one = step(operator, self.unit_name(), self.facts.maximum)
        self.set_value(middle(operator) + steps * one)

    def _on_remove(self) -> None:
        self.removed.emit(self.facts.source)

    def _tell(self) -> None:
        self.changed.emit()


def _number(box: NumberBox) -> float | None:
    try:
        return float(box.text_value())
    except ValueError:
        return None


def _short(value: float, *, sign: bool = False) -> str:
    return f"{round(value, 3):{'+' if sign else ''}g}".replace("-", "−")
