"""Choosing blocks of a model: a grid of toggles, all or none, and how many are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QCheckBox, QGridLayout, QPushButton, QVBoxLayout, QWidget

from mistudio.core.model_configs import EXTRACTION_HOOKS, chosen_layers
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label, row
from mistudio.gui.widgets.editors import Editor

_COLUMNS = 6  # unless told otherwise
HOOK_TEXTS = {
    "resid_post": ("Residual", "the block's output, the residual stream after it"),
    "mlp_out": ("MLP", "what the MLP adds to the residual stream"),
    "attn_out": ("Attention", "what attention adds to the residual stream, before it is added"),
    "attn_z": ("Heads", "what attention's heads give, side by side, before they are led back"),
    "resid_pre": ("Input", "what the block reads; that of L0 is the embedding"),
    "resid_mid": ("Middle", "the residual stream between attention and MLP"),
    "mlp_in": ("MLP input", "what the MLP reads, after the norm before it"),
}


class LayerGrid(QWidget):
    """Toggles L0, L1, … in columns; `value()` is "0,6,11", "all" or ""."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None, columns: int = _COLUMNS) -> None:
        super().__init__(parent)
        px = appearance().px
        self._columns = columns
        self._only: Sequence[int] | None = None
        self.title = label("Layers (0 selected)", "label")
        self.all_button = button("All", self._take_all, variant="link", tip="Take every layer")
        self.none_button = button("None", self._take_none, variant="link", tip="Take no layer")
        self._grid = QGridLayout()
        self._grid.setSpacing(px(6))
        for column in range(columns):
            self._grid.setColumnStretch(column, 1)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(px(4))
        box.addLayout(row(self.title, None, self.all_button, self.none_button))
        box.addLayout(self._grid)
        self.toggles: list[QPushButton] = []
        self._wanted = ""
        self._quiet = False

    def set_layers(self, count: int, only: Sequence[int] | None = None) -> None:
        """Offer the blocks of a model; what was chosen stays as far as there are such blocks.

        only: the blocks of these that can be chosen; None: all of them.
        """
        wanted = self.value() if self.toggles else self._wanted
        self._only = only
        for toggle in self.toggles:
            self._grid.removeWidget(toggle)
            toggle.deleteLater()
        self.toggles = []
        for layer in range(count):
            toggle = button(f"L{layer}", self._on_toggled, variant="toggle")
            toggle.setAccessibleName(f"Layer {layer}")
            toggle.setToolTip(f"Read block {layer}; the first is 0")
            toggle.setEnabled(only is None or layer in only)
            self._grid.addWidget(toggle, *divmod(layer, self._columns))
            self.toggles.append(toggle)
        self.set_value(wanted)

    def chosen(self) -> list[int]:
        """The numbers of the blocks that are on."""
        return [layer for layer, toggle in enumerate(self.toggles) if toggle.isChecked()]

    def value(self) -> str:
        on = self.chosen()
        if self.toggles and len(on) == len(self.toggles):
            return "all"
        return ",".join(map(str, on))

    def set_value(self, text: str) -> list[int]:
        """Choose "0,6,11", "0-3", "all" or ""; returns the blocks that the model lacks."""
        self._wanted = text
        count = len(self.toggles)
        try:
            asked = chosen_layers(text, count if text == "all" else 4097) if text else []
        except ValueError:
            asked = []
        self._quiet = True
        for layer, toggle in enumerate(self.toggles):
            toggle.setChecked(layer in asked and (self._only is None or layer in self._only))
        self._quiet = False
        self._on_toggled()
        return [layer for layer in asked if layer >= count]

    def _take_all(self) -> None:
        self.set_value("all")

    def _take_none(self) -> None:
        self.set_value("")

    def _on_toggled(self) -> None:
        if not self._quiet:
            self.title.setText(f"Layers ({len(self.chosen()):,} selected)")
            self.changed.emit()


class HooksEditor(Editor):
    """A tick for each of some kinds of hook point."""

    def __init__(
        self, hooks: Sequence[str] = EXTRACTION_HOOKS, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._offered = tuple(hooks)
        holder = QWidget()
        grid = QGridLayout(holder)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(appearance().px(4))
        self.ticks: dict[str, QCheckBox] = {}
        for position, hook in enumerate(hooks):
            name, meaning = HOOK_TEXTS[hook]
            tick = QCheckBox(name)
            tick.setToolTip(f"{hook}: {meaning}")
            tick.setAccessibleDescription(meaning)
            tick.toggled.connect(self._on_toggled)
            grid.addWidget(tick, *divmod(position, 2))
            self.ticks[hook] = tick
        self._hold(holder)
        self.setFocusProxy(self.ticks[hooks[0]])

    def value(self) -> list[str]:
        return [
            hook for hook, tick in self.ticks.items() if tick.isChecked() and hook in self._offered
        ]

    def offer(self, hooks: Sequence[str]) -> None:
        """Let only some be chosen; ticks of others stay for when they are offered again."""
        before = self.value()
        self._offered = tuple(hooks)
        for hook, tick in self.ticks.items():
            tick.setEnabled(hook in hooks)
        if self.value() != before:
            self.changed.emit()

    def set_value(self, value: Any) -> None:
        wanted = [value] if isinstance(value, str) else list(value or ())
        for hook, tick in self.ticks.items():
            tick.setChecked(hook in wanted)

    def _on_toggled(self) -> None:
        self.changed.emit()
