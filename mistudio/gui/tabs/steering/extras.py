"""What some edits need beside a strength: the target of a swap, and a condition."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QHBoxLayout, QLineEdit, QWidget

from mistudio.core.steering_spec import Condition, Direction, Feature, Source
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import label
from mistudio.gui.widgets.editors import NumberBox
from mistudio.gui.widgets.elided import Combo
from mistudio.gui.widgets.layout import guard_wheel
from mistudio.jobs.steering_cards import CardFacts


class _Extra(QWidget):
    """A row of controls; `changed` follows every edit."""

    changed = Signal()

    def __init__(self, facts: CardFacts, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.sae = facts.source.sae if isinstance(facts.source, Feature) else ""
        self.line = QHBoxLayout(self)
        self.line.setContentsMargins(0, 0, 0, 0)
        self.line.setSpacing(appearance().px(8))

    def _tell(self) -> None:
        self.changed.emit()


class TargetRow(_Extra):
    """Where a swap goes: a feature of the same SAE by number, or a vector as @name."""

    def __init__(self, facts: CardFacts, name: str, parent: QWidget | None = None) -> None:
        super().__init__(facts, parent)
        self.field = QLineEdit()
        self.field.setPlaceholderText("number, or @vector")
        self.field.setAccessibleName(f"What {name} is swapped for")
        self.field.setToolTip("A feature of the same SAE by its number, or a vector as @name")
        self.line.addWidget(label("for", "small"))
        self.line.addWidget(self.field, 1)
        self.field.textChanged.connect(self._tell)

    def target(self) -> Source | None:
        """The source as written, None if it is none."""
        text = self.field.text().strip()
        if text.startswith("@") and len(text) > 1:
            return Direction(text[1:])
        number = text.lstrip("#")
        return Feature(int(number), self.sae) if number.isdigit() else None

    def set_target(self, target: Source | None) -> None:
        """Show another target."""
        if isinstance(target, Feature):
            self.sae = target.sae or self.sae
            self.field.setText(str(target.index))
        else:
            self.field.setText(f"@{target.name}" if target else "")


class ConditionRow(_Extra):
    """Only where feature N is above a level."""

    def __init__(self, facts: CardFacts, name: str, parent: QWidget | None = None) -> None:
        super().__init__(facts, parent)
        px = appearance().px
        self.feature = NumberBox(whole=True, minimum=0)
        self.feature.setAccessibleName(f"Feature that the condition of {name} watches")
        self.feature.setToolTip("Number of a feature of the same SAE")
        self.level = NumberBox(whole=False, minimum=0)
        self.level.set_number(0)
        self.level.setAccessibleName(f"Level of the condition of {name}")
        self.unit = Combo()
        self.unit.addItem("raw", "raw")
        self.unit.addItem("× max", "max")
        self.unit.setAccessibleName(f"Unit of the condition of {name}")
        guard_wheel(self.unit)
        for box in (self.feature, self.level):
            box.setFixedWidth(px(84))
            box.lineEdit().textChanged.connect(self._tell)
        self.unit.currentIndexChanged.connect(self._tell)
        for widget in (
            label("where #", "small"),
            self.feature,
            label(">", "small"),
            self.level,
            self.unit,
        ):
            self.line.addWidget(widget)
        self.line.addStretch(1)

    def condition(self) -> Condition | None:
        """The condition as written, None if it is none."""
        try:
            index, level = int(self.feature.text_value()), float(self.level.text_value())
        except ValueError:
            return None
        if index < 0:
            return None
        return Condition(Feature(index, self.sae), level, str(self.unit.currentData()))

    def set_condition(self, condition: Condition | None) -> None:
        """Show another condition."""
        if condition is None:
            return
        self.sae = condition.feature.sae or self.sae
        self.feature.set_number(condition.feature.index)
        self.level.set_number(condition.above)
        self.unit.setCurrentIndex(max(0, self.unit.findData(condition.unit)))
