"""Conditions of the feature table as chips: each one edited in place, and taken away by its ×."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PySide6.QtCore import QTimer, Signal
from PySide6.QtWidgets import QComboBox, QLineEdit, QMenu, QWidget

from mistudio.gui.tabs.features.colours import colour_icon
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import Card, button, label
from mistudio.gui.widgets.editors import NumberBox
from mistudio.gui.widgets.flow import FlowRow
from mistudio.gui.widgets.layout import guard_wheel
from mistudio.store.feature_conditions import (
    ANY_COLOUR,
    COLOURS,
    FLAGS,
    TEXTS,
    Among,
    Condition,
    HasColour,
    HasFlag,
    InList,
    LabelState,
    Matches,
    NumberRange,
    from_json,
    to_json,
)

STATES = {
    "none": "no label",
    "auto": "an automatic label",
    "model": "a label by a model",
    "user": "a label of yours",
    "imported": "an imported label",
}
# numbers that can be bounded, as their columns are called; percentages are edited as such
NUMBERS = {
    "frequency": "Frequency %",
    "score": "Interpretability %",
    "rule_score": "Rule AUROC %",
    "model_score": "Model score %",
    "max": "Max",
    "mean": "Mean (active)",
    "mean_all": "Mean (all)",
    "count": "Tokens",
    "samples": "Samples",
    "skew": "Skew",
    "kurtosis": "Kurtosis",
    "top_token_share": "Top token share %",
    "nearest_cosine": "Nearest cosine",
    "ablation_ce": "Ablation ΔCE",
    "lists": "Number of lists",
    "index": "ID",
}
COLOUR_NAMES = {**{colour: colour for colour in COLOURS}, ANY_COLOUR: "any colour"}
_ENDS = ("least", "most")


class Chip(Card):
    """One condition; `changed` follows every edit, `removed` the ×."""

    changed = Signal()
    removed = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("nested", parent, horizontal=True, padding=0)
        px = appearance().px
        self.box.setContentsMargins(px(8), px(1), 0, px(1))
        self.box.setSpacing(px(6))

    def add(self, *widgets: QWidget) -> None:
        """Put the controls and then the × into the chip."""
        for widget in widgets:
            self.box.addWidget(widget)
        away = button("", self._remove, variant="ghost", icon="close", tip="Take this filter away")
        away.setFixedWidth(appearance().px(36))
        self.box.addWidget(away)

    def condition(self) -> Condition:
        raise NotImplementedError

    def _remove(self) -> None:
        self.removed.emit(self)


class RangeChip(Chip):
    """A column of numbers between two bounds."""

    def __init__(self, wanted: NumberRange, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._column = wanted.column
        title = NUMBERS.get(wanted.column, wanted.column)
        self._scale = 100.0 if title.endswith("%") else 1.0
        self.boxes: list[NumberBox] = []
        for end, value in zip(_ENDS, (wanted.low, wanted.high), strict=True):
            box = NumberBox(whole=False)
            box.setAccessibleName(f"{title}: {end}")
            box.lineEdit().setPlaceholderText("any")
            box.setFixedWidth(appearance().px(92))
            if value is not None:
                box.set_number(value * self._scale)
            box.lineEdit().textChanged.connect(self.changed)
            self.boxes.append(box)
        self.add(label(title, "label"), self.boxes[0], label("to", "muted"), self.boxes[1])

    def condition(self) -> NumberRange:
        low, high = (_number(box, self._scale) for box in self.boxes)
        return NumberRange(self._column, low, high)


class ChoiceChip(Chip):
    """A choice or two of combos."""

    def __init__(
        self,
        combos: Sequence[tuple[str, Mapping[str, str], str]],
        make: Callable[..., Condition],
        parent: QWidget | None = None,
    ) -> None:
        """`combos`: name, shown text by value, chosen value; `make(*values)` the condition."""
        super().__init__(parent)
        self._make = make
        self.combos: list[QComboBox] = []
        for name, choices, chosen in combos:
            combo = QComboBox()
            combo.setAccessibleName(name)
            for value, text in choices.items():
                combo.addItem(text, value)
            combo.setCurrentIndex(max(0, combo.findData(chosen)))
            combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToContents)
            guard_wheel(combo)
            combo.currentIndexChanged.connect(self.changed)
            self.combos.append(combo)
        self.add(*self.combos)

    def condition(self) -> Condition:
        return self._make(*(str(combo.currentData()) for combo in self.combos))


class MatchChip(Chip):
    """A text that a regular expression is looked for in."""

    def __init__(self, wanted: Matches, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._column = wanted.column
        name = TEXTS.get(wanted.column, wanted.column)
        self.line = QLineEdit(wanted.pattern)
        self.line.setAccessibleName(f"Regular expression for the {name}")
        self.line.setPlaceholderText("regular expression")
        self.line.setFixedWidth(appearance().px(200))
        self.line.textChanged.connect(self.changed)
        self.add(label(f"{name[0].upper()}{name[1:]} matches", "label"), self.line)

    def condition(self) -> Matches:
        return Matches(self._column, self.line.text())


class AmongChip(Chip):
    """Features that were chosen elsewhere."""

    def __init__(self, wanted: Among, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._wanted = wanted
        self.add(label(f"{len(wanted.features):,} {wanted.told}", "label"))

    def condition(self) -> Among:
        return self._wanted


class ConditionChips(QWidget):
    """The chips, the menu that adds one, and whether all or any must hold."""

    changed = Signal()
    dropped = Signal(str)  # name of a list that was deleted, whose filter went with it

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.chips: list[Chip] = []
        self._lists: dict[str, str] = {}
        self._absent: frozenset[str] = frozenset()
        self._typing = QTimer(self)
        self._typing.setSingleShot(True)
        self._typing.setInterval(300)
        self._typing.timeout.connect(self.changed)
        self.menu = QMenu(self)
        self.menu.aboutToShow.connect(self._fill_menu)
        self.adder = button("Filter", icon="plus", tip="Narrow the table by a column")
        self.adder.setMenu(self.menu)
        self.joined = QComboBox()
        self.joined.addItems(["All of", "Any of"])
        self.joined.setAccessibleName("Whether all or any filter must hold")
        self.joined.setToolTip("Whether a feature must pass every filter, or one of them")
        guard_wheel(self.joined)
        self.joined.currentIndexChanged.connect(self.changed)
        self.flow = FlowRow(self.adder, self.joined)
        self.setLayout(self.flow)
        self._tell()

    def set_lists(self, lists: Mapping[str, str]) -> None:
        """The user's lists, names by id, which conditions may name."""
        if lists != self._lists:
            before, self._lists = self._lists, dict(lists)
            every = self.conditions()
            gone = [c for c in every if isinstance(c, InList) and c.list_id not in lists]
            self.set_conditions([c for c in every if c not in gone], any_of=self.any_of())
            for condition in gone:
                self.dropped.emit(before.get(condition.list_id, "a list"))
            if gone:
                self.changed.emit()

    def set_absent(self, columns: frozenset[str]) -> None:
        """Columns that no analysis has filled yet are not offered."""
        self._absent = columns

    def conditions(self) -> tuple[Condition, ...]:
        """As edited; a range without bounds and an empty expression narrow nothing."""
        found = (chip.condition() for chip in self.chips)
        return tuple(
            c
            for c in found
            if not (isinstance(c, NumberRange) and c.low is None and c.high is None)
            and not (isinstance(c, Matches) and not c.pattern)
        )

    def any_of(self) -> bool:
        """Whether one of the conditions is enough."""
        return self.joined.currentIndex() == 1

    def set_conditions(self, conditions: Sequence[Condition], *, any_of: bool = False) -> None:
        """Show other conditions; says nothing of it."""
        for chip in self.chips:
            self._drop(chip)
        self.chips = []
        self.joined.blockSignals(True)
        self.joined.setCurrentIndex(int(any_of))
        self.joined.blockSignals(False)
        for condition in conditions:
            self._append(self._chip_of(condition))
        self._tell()

    def state(self) -> dict[str, Any]:
        """What to remember."""
        return {"conditions": to_json(self.conditions()), "any_of": self.any_of()}

    def restore(self, stored: Any) -> None:
        """Show what `state` gave earlier."""
        if isinstance(stored, Mapping):
            conditions = from_json(stored.get("conditions"))
            self.set_conditions(conditions, any_of=bool(stored.get("any_of")))

    def choose(self, wanted: Among) -> None:
        """Show only these features, in place of earlier ones chosen so."""
        others = [c for c in self.conditions() if not isinstance(c, Among)]
        self.set_conditions([*others, wanted], any_of=self.any_of())
        self.changed.emit()

    def add(self, condition: Condition) -> None:
        """Add a chip and put the cursor into it."""
        chip = self._chip_of(condition)
        self._append(chip)
        self._tell()
        if isinstance(chip, RangeChip):
            chip.boxes[0].setFocus()
        elif isinstance(chip, MatchChip):
            chip.line.setFocus()
        if condition in self.conditions():
            self.changed.emit()

    def _append(self, chip: Chip) -> None:
        chip.changed.connect(self._typing.start)
        chip.removed.connect(self._on_removed)
        self.chips.append(chip)
        self.flow.addWidget(chip)
        chip.show()

    def _chip_of(self, condition: Condition) -> Chip:
        if isinstance(condition, NumberRange):
            return RangeChip(condition, self)
        if isinstance(condition, Among):
            return AmongChip(condition, self)
        if isinstance(condition, Matches):
            return MatchChip(condition, self)
        if isinstance(condition, LabelState):
            return ChoiceChip([("Label", STATES, condition.state)], LabelState, self)
        is_on = "1" if condition.on else ""
        if isinstance(condition, HasFlag):
            combos = [
                ("Has the flag or not", {"1": "is", "": "is not"}, is_on),
                ("Flag", {flag: flag for flag in FLAGS}, condition.flag),
            ]
            return ChoiceChip(combos, lambda on, flag: HasFlag(flag, bool(on)), self)
        if isinstance(condition, HasColour):
            combos = [
                ("Has the colour or not", {"1": "marked", "": "not marked"}, is_on),
                ("Colour", COLOUR_NAMES, condition.colour),
            ]
            chip = ChoiceChip(combos, lambda on, colour: HasColour(colour, bool(on)), self)
            for place, colour in enumerate(COLOURS):
                chip.combos[1].setItemIcon(place, colour_icon(colour))
            return chip
        # a filter that is restored before the lists are read keeps its list's id
        known = {condition.list_id: "a list", **self._lists}
        combos = [
            ("In the list or not", {"1": "in", "": "not in"}, is_on),
            ("List", known, condition.list_id),
        ]
        return ChoiceChip(combos, lambda on, chosen: InList(chosen, bool(on)), self)

    def _on_removed(self, chip: Chip) -> None:
        self.chips.remove(chip)
        self._drop(chip)
        self._tell()
        self.changed.emit()

    def _drop(self, chip: Chip) -> None:
        self.flow.removeWidget(chip)
        chip.hide()
        chip.deleteLater()

    def _tell(self) -> None:
        self.joined.setVisible(len(self.chips) > 1)
        self.updateGeometry()

    def _fill_menu(self) -> None:
        self.menu.clear()
        numbers = self.menu.addMenu("Number between")
        for column, title in NUMBERS.items():
            if column not in self._absent:
                self._offer(numbers, title.removesuffix(" %"), NumberRange(column))
        flags = self.menu.addMenu("Flag")
        for flag in FLAGS:
            self._offer(flags, flag, HasFlag(flag))
        states = self.menu.addMenu("Label")
        for state, text in STATES.items():
            self._offer(states, text[0].upper() + text[1:], LabelState(state))
        texts = self.menu.addMenu("Text matches")
        for column, text in TEXTS.items():
            self._offer(texts, text[0].upper() + text[1:], Matches(column, ""))
        colours = self.menu.addMenu("Colour")
        for colour, text in COLOUR_NAMES.items():
            self._offer(colours, text[0].upper() + text[1:], HasColour(colour))
        lists = self.menu.addMenu("List")
        lists.setEnabled(bool(self._lists))
        for list_id, name in self._lists.items():
            self._offer(lists, name, InList(list_id))

    def _offer(self, menu: QMenu, text: str, condition: Condition) -> None:
        action = menu.addAction(text.replace("&", "&&"))
        action.setData(condition)
        action.triggered.connect(self._on_offered)

    def _on_offered(self) -> None:
        action: Any = self.sender()
        self.add(action.data())


def _number(box: NumberBox, scale: float) -> float | None:
    try:
        return float(box.text_value()) / scale
    except ValueError:
        return None
