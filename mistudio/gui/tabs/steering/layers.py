"""The further layers that a card's vector is added at, as a grid of eight columns."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QGridLayout, QVBoxLayout, QWidget

from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label

COLUMNS = 8
MANY = 4  # further layers beyond which it is warned


class LayerGrid(QWidget):
    """One button per layer of the model; the own one is pressed and cannot be changed."""

    changed = Signal()

    def __init__(self, count: int, own: int, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        px = appearance().px
        self.buttons = []
        self._own = own
        grid = QGridLayout()
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(px(4))
        for layer in range(count):
            made = button(str(layer), variant="toggle", tip=f"Also at layer {layer}")
            made.setAccessibleName(f"Layer {layer}, {name}")
            made.setMinimumWidth(px(30))
            if layer == own:
                made.setChecked(True)
                made.setEnabled(False)
                made.setToolTip("The layer of the feature or vector itself")
            made.toggled.connect(self._on_toggled)
            grid.addWidget(made, layer // COLUMNS, layer % COLUMNS)
            self.buttons.append(made)
        for column in range(COLUMNS):
            grid.setColumnStretch(column, 1)
        self.about = label("", "small", wrap=True)
        self.warning = label("", "warning", wrap=True)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(px(4))
        box.addWidget(label("Also at the residual stream of layers", "small"))
        box.addLayout(grid)
        box.addWidget(self.about)
        box.addWidget(self.warning)
        self._tell()

    def layers(self) -> tuple[int, ...]:
        """The further layers, rising."""
        return tuple(
            n for n, made in enumerate(self.buttons) if made.isChecked() and n != self._own
        )

    def set_layers(self, layers: Sequence[int]) -> None:
        """Press these; what the model does not have is left out."""
        for number, made in enumerate(self.buttons):
            if number != self._own:
                made.blockSignals(True)
                made.setChecked(number in layers)
                made.blockSignals(False)
        self._tell()

    def _on_toggled(self, _on: bool) -> None:
        self._tell()
        self.changed.emit()

    def _tell(self) -> None:
        count = len(self.layers())
        self.about.setText(
            f"The same vector everywhere, its strength in the unit of layer {self._own}. Where the "
            "stream is longer it weighs less: ‖Δ‖/‖x‖ of each layer is told with the run."
        )
        self.about.setVisible(count > 0)
        self.warning.setText(f"{count} further layers: text often breaks above {MANY}.")
        self.warning.setVisible(count > MANY)
