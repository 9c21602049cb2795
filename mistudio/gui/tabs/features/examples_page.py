"""The Examples page of a feature: top examples, intervals or quantiles, at three context widths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PySide6.QtCore import Signal
from PySide6.QtWidgets import (
    QButtonGroup,
    QCheckBox,
    QComboBox,
    QVBoxLayout,
    QWidget,
)

from mistudio.core.units import format_percent
from mistudio.gui.services import Services
from mistudio.gui.tabs.features.example_card import View, strongest
from mistudio.gui.tabs.features.example_column import ExampleColumn, Line
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label, row
from mistudio.gui.widgets.token_layout import LINEAR, LOGARITHMIC

MODES = ("Top", "Intervals", "Quantiles")
MODE_TIPS = (
    "The strongest examples, one per row of text.",
    "Examples from five equally wide ranges of activation, strongest first.",
    "Examples from ten ranges that hold equally many activations, strongest first.",
)
WIDTHS = (5, 16, 200)
SCALES = ("this list", "feature maximum", "each example")
CURVES = (LINEAR, LOGARITHMIC)
REMEMBERED = "features.examples"


class ExamplesPage(QWidget):
    """Shows the examples of a `FeaturePage`; `width_changed` asks for others."""

    width_changed = Signal()

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._services = services
        self._page: Any = None
        self.column = ExampleColumn()
        self.modes = self._group(MODES, MODE_TIPS)
        self.widths = self._group(
            [f"±{width}" for width in WIDTHS],
            [f"{width} tokens on each side" for width in WIDTHS],
        )
        self.scale = QComboBox()
        self.scale.addItems(list(SCALES))
        self.scale.setAccessibleName("Scale of the highlight")
        self.scale.setToolTip("The activation at which a token is fully highlighted.")
        self.curve = QComboBox()
        self.curve.addItems(["linear", "logarithmic"])
        self.curve.setAccessibleName("Curve of the highlight")
        self.curve.setToolTip("Logarithmic lifts weak activations: 0.05 + 0.95 log10(1 + 9 a/m).")
        self.marks = QCheckBox("Signs")
        self.marks.setToolTip("Show line ends, tabs and leading spaces as ↵ → ·.")
        self.breaks = QCheckBox("Line breaks")
        self.breaks.setToolTip("Break lines where the text does.")
        self.legend = label("", "small")
        self._lay_out()
        self._restore()
        self.modes.idClicked.connect(self._on_mode)
        self.widths.idClicked.connect(self._on_width)
        self.scale.currentIndexChanged.connect(self._on_view)
        self.curve.currentIndexChanged.connect(self._on_view)
        self.breaks.toggled.connect(self._on_view)
        self.marks.toggled.connect(self._on_view)

    def _group(self, names: Sequence[str], tips: Sequence[str]) -> QButtonGroup:
        group = QButtonGroup(self)
        for number, (name, tip) in enumerate(zip(names, tips, strict=True)):
            group.addButton(button(name, variant="toggle", tip=tip), number)
        return group

    def _lay_out(self) -> None:
        px = appearance().px
        tools = row(
            *self.modes.buttons(),
            label("Context", "label"),
            *self.widths.buttons(),
            label("Scale", "label"),
            self.scale,
            self.curve,
            self.breaks,
            self.marks,
            None,
        )
        box = QVBoxLayout(self)
        box.setContentsMargins(0, px(8), 0, 0)
        box.setSpacing(px(8))
        box.addLayout(tools)
        box.addWidget(self.legend)
        box.addWidget(self.column, 1)

    def _restore(self) -> None:
        stored = self._services.settings.recall(REMEMBERED, {})
        stored = stored if isinstance(stored, dict) else {}
        for group, name, default in ((self.modes, "mode", 0), (self.widths, "width", 1)):
            chosen = group.button(int(stored.get(name, default))) or group.button(default)
            chosen.setChecked(True)
        for combo, name in ((self.scale, "scale"), (self.curve, "curve")):
            index = stored.get(name, 0)
            combo.setCurrentIndex(index if index in range(combo.count()) else 0)
        self.marks.setChecked(bool(stored.get("marks", True)))
        self.breaks.setChecked(bool(stored.get("breaks", False)))

    def width_tokens(self) -> int:
        """Tokens on each side of the strongest one."""
        return WIDTHS[self.widths.checkedId()]

    def groups_shown(self) -> tuple[str, ...]:
        """Which groups of examples the mode in force needs of a page."""
        return (("intervals",), ("quantiles",))[mode - 1] if (mode := self._mode()) else ()

    def _mode(self) -> int:
        return self.modes.checkedId()

    def show_page(self, page: Any) -> None:
        """Show the examples of a feature."""
        other = self._page is None or page.row.index != self._page.row.index
        self._page = page
        self._draw(at_once=not other)
        if other:
            self.column.verticalScrollBar().setValue(0)

    def shown(self) -> list[tuple[str, list[Any]]]:
        """What is listed in the mode in force: a heading ("" for none) and examples, in order."""
        if self._page is None:
            return []
        mode = self._mode()
        if mode == 0:
            return [("", list(self._page.examples))]
        groups = self._page.intervals if mode == 1 else self._page.quantiles
        of = "all tokens" if mode == 1 else "active tokens"
        return [(f"{g.title} · {format_percent(g.share, 3)} of {of}", g.examples) for g in groups]

    def _draw(self, *, at_once: bool = True) -> None:
        listed = self.shown()
        every = [example for _, examples in listed for example in examples]
        scale = self.scale.currentIndex()
        maximum: float | None = strongest(every)
        if scale == 1 and self._page is not None:
            maximum = self._page.row.max
        elif scale == 2:
            maximum = None
        self.legend.setText(
            self._legend(maximum) if every else "This feature never fired on the text read."
        )
        lines: list[Line] = []
        for title, examples in listed:
            if title:
                lines.append(Line(title))
            for example in examples:
                full = strongest([example]) if maximum is None else maximum
                lines.append(Line("", example, full))
        view = View(
            self.breaks.isChecked(), self.marks.isChecked(), CURVES[self.curve.currentIndex()]
        )
        self.column.show_lines(lines, view, at_once=at_once)

    def _legend(self, maximum: float | None) -> str:
        """Curve, scale and m of the highlight, and what the outline and grey mean."""
        full = "each example's own maximum" if maximum is None else f"{maximum:.4f}"
        shown = "" if maximum is None else f" ({self.scale.currentText()})"
        return (
            f"Highlight: {self.curve.currentText()}, full at {full}{shown} · outlined: the token "
            "that the example is about · grey: left out"
        )

    def _remember(self) -> None:
        kept = {
            "mode": self.modes.checkedId(),
            "width": self.widths.checkedId(),
            "scale": self.scale.currentIndex(),
            "curve": self.curve.currentIndex(),
            "breaks": self.breaks.isChecked(),
            "marks": self.marks.isChecked(),
        }
        self._services.settings.remember(REMEMBERED, kept)

    def _on_mode(self) -> None:
        """Another page is asked for only if the one shown was read without these examples."""
        groups = self.groups_shown()
        if groups and self._page is not None and not getattr(self._page, groups[0]):
            self._on_width()
        else:
            self._on_view()

    def _on_view(self) -> None:
        self._remember()
        self._draw()

    def _on_width(self) -> None:
        self._remember()
        self.width_changed.emit()
