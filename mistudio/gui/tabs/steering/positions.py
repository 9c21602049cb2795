"""Which tokens are steered, and whether their length is kept: one row of controls."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QCheckBox, QLineEdit, QVBoxLayout, QWidget

from mistudio.core.errors import StudioError
from mistudio.core.steering_positions import ROLES, Positions, parse_positions
from mistudio.core.steering_words import parse_norm
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import label
from mistudio.gui.widgets.editors import NumberBox
from mistudio.gui.widgets.elided import Combo
from mistudio.gui.widgets.flow import FlowRow
from mistudio.gui.widgets.layout import guard_wheel

RULES = (
    ("all", "Prompt and generated", ""),
    ("prompt", "Prompt only", ""),
    ("generated", "Generated only", ""),
    ("last", "Last prompt token", ""),
    ("first", "First tokens", "1"),
    ("ranges", "Positions", "0-3,12-"),
    ("text", "Text in the prompt", "words of the prompt"),
    ("regex", "Pattern in the prompt", "regular expression"),
    ("role", "Chat role", ", ".join(ROLES)),
)
NORMS = (("", "Length may change"), ("keep", "Keep the length"), ("cap", "Cap the change"))
NORM_TIP = (
    "Keep: every steered token gets its old length |x| back. Cap: the change is at most so many "
    "times as long as |x|."
)


class PositionsRow(QWidget):
    """Edits the settings `positions` and `norm`; `changed` follows every edit."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        px = appearance().px
        self.rule = Combo()
        for value, shown, _ in RULES:
            self.rule.addItem(shown, value)
        self.rule.setAccessibleName("Tokens that are steered")
        self.rule.setToolTip("Positions count from 0 at the first token of the prompt")
        self.detail = QLineEdit()
        self.detail.setFixedWidth(px(190))
        self.special = QCheckBox("special tokens")
        self.special.setToolTip("Steer tokens such as <bos> too; usually they are left alone")
        self.sinks = QCheckBox("high-norm tokens")
        self.sinks.setToolTip(
            "Steer tokens beyond 10 median norms too (attention sinks); usually they are left alone"
        )
        self.norm = Combo()
        for value, shown in NORMS:
            self.norm.addItem(shown, value)
        self.norm.setAccessibleName("Norm rule")
        self.norm.setToolTip(NORM_TIP)
        self.cap = NumberBox(whole=False, minimum=0.01, maximum=10.0)
        self.cap.set_number(1.0)
        self.cap.setFixedWidth(px(76))
        self.cap.setAccessibleName("Longest change, times |x|")
        self.cap.setToolTip("Longest change, in times |x|")
        self.problem = label("", "error", wrap=True)
        self.problem.hide()
        for combo, wide in ((self.rule, 236), (self.norm, 200)):
            combo.setMinimumWidth(px(wide))
            guard_wheel(combo)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(px(4))
        flow = FlowRow(
            self.rule, self.detail, self.special, self.sinks, self.norm, self.cap, spacing=8
        )
        box.addLayout(flow)
        box.addWidget(self.problem)
        self.rule.currentIndexChanged.connect(self._on_rule)
        self.norm.currentIndexChanged.connect(self._on_edited)
        self.detail.textChanged.connect(self._on_edited)
        self.cap.lineEdit().textChanged.connect(self._on_edited)
        for check in (self.special, self.sinks):
            check.toggled.connect(self._on_edited)
        self._arrange()

    def positions(self) -> str:
        """The setting as it is written."""
        rule, text = str(self.rule.currentData()), self.detail.text().strip()
        form = {"first": f"first:{text or 1}", "ranges": text}.get(rule, rule)
        if rule in ("text", "regex", "role"):
            form = f"{rule}:{text}"
        return form + "+special" * self.special.isChecked() + "+sinks" * self.sinks.isChecked()

    def words(self) -> str:
        """The rule in short."""
        detail = f" “{self.detail.text()}”" if RULES[self.rule.currentIndex()][2] else ""
        more = " + special" * self.special.isChecked() + " + high-norm" * self.sinks.isChecked()
        norm = f" · {self.norm.currentText().lower()}" if self.norm.currentData() else ""
        return f"{self.rule.currentText().lower()}{detail}{more}{norm}"

    def norm_rule(self) -> str:
        """The setting as it is written."""
        rule = str(self.norm.currentData())
        return f"cap:{self.cap.text_value()}" if rule == "cap" else rule

    def set_values(self, positions: str, norm: str) -> None:
        """Show other settings; what cannot be read becomes the default."""
        try:
            found = parse_positions(positions)
        except StudioError:
            found = Positions()
        self.rule.setCurrentIndex(self.rule.findData(found.rule))
        text = {"first": str(found.count), "role": found.role}.get(found.rule, found.pattern)
        if found.rule == "ranges":
            text = Positions("ranges", ranges=found.ranges).written()
        self.detail.setText(text)
        self.special.setChecked(found.special)
        self.sinks.setChecked(found.sinks)
        try:
            rule, cap = parse_norm(norm)
        except StudioError:
            rule, cap = "", 1.0
        self.norm.setCurrentIndex(self.norm.findData(rule))
        self.cap.set_number(cap)

    def sentence(self) -> str:
        """What is wrong, "" if nothing."""
        try:
            parse_positions(self.positions())
            parse_norm(self.norm_rule())
        except StudioError as error:
            return error.sentence
        return ""

    def _on_rule(self) -> None:
        self.detail.setText("1" if self.rule.currentData() == "first" else "")
        self._on_edited()

    def _on_edited(self) -> None:
        self._arrange()
        self.changed.emit()

    def _arrange(self) -> None:
        hint = RULES[self.rule.currentIndex()][2]
        self.detail.setVisible(bool(hint))
        self.detail.setPlaceholderText(hint)
        self.detail.setAccessibleName(f"{self.rule.currentText()}: {hint}")
        self.detail.setToolTip(f"For example {hint}")
        self.cap.setVisible(self.norm.currentData() == "cap")
        wrong = self.sentence()
        self.problem.setText(wrong)
        self.problem.setVisible(bool(wrong))
