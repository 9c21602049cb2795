"""The controls above the curves of runs: x axis, smoothing, zoom."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Signal, Slot
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QSpinBox, QWidget

from mistudio.gui.tabs.training.series import SMOOTHING
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label
from mistudio.gui.widgets.layout import guard_wheel

TIME = 2  # place of the time axis among the choices


class ChartTools(QWidget):
    """`changed` follows another axis or smoothing, `zoomed(factor)` and `reset` their buttons."""

    changed = Signal()
    zoomed = Signal(float)
    reset = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.x_axis = QComboBox()
        for name, text in (("step", "Steps"), ("tokens", "Tokens"), ("time", "Time")):
            self.x_axis.addItem(text, name)
        self.x_axis.setAccessibleName("Horizontal axis")
        self.x_axis.setToolTip("Horizontal axis; time is known of runs of this version on")
        guard_wheel(self.x_axis)
        self.x_axis.currentIndexChanged.connect(self._on_changed)
        self.smooth_button = button(
            "Smooth", variant="toggle", tip="Moving average over the raw line, which stays faint"
        )
        self.smooth_button.toggled.connect(self._on_changed)
        self.window_points = QSpinBox()
        self.window_points.setRange(3, 1001)
        self.window_points.setSingleStep(10)
        self.window_points.setValue(SMOOTHING)
        self.window_points.setSuffix(" points")
        self.window_points.setAccessibleName("Points of the moving average")
        self.window_points.setToolTip("Points that are averaged; more make a calmer curve")
        guard_wheel(self.window_points)
        self.window_points.valueChanged.connect(self._on_points)
        self.window_points.setVisible(False)
        self.in_button = button("", self._zoom_in, variant="ghost", icon="plus", tip="Zoom in")
        self.out_button = button("−", self._zoom_out, variant="ghost", tip="Zoom out")
        self.out_button.setAccessibleName("Zoom out")
        self.all_button = button(
            "", self.reset.emit, variant="ghost", icon="zoom_reset", tip="Show all of every curve"
        )
        self.box = QHBoxLayout(self)
        self.box.setContentsMargins(0, 0, 0, 0)
        self.box.setSpacing(appearance().px(8))
        for part in (
            label("Over", "small"),
            self.x_axis,
            self.smooth_button,
            self.window_points,
            self.in_button,
            self.out_button,
            self.all_button,
        ):
            self.box.addWidget(part)
        self.box.addStretch(1)

    def axis(self) -> str:
        """step, tokens or time."""
        return str(self.x_axis.currentData())

    def smooths(self) -> bool:
        """Whether a moving average is wanted."""
        return self.smooth_button.isChecked()

    def points(self) -> int:
        """How many points the moving average spans."""
        return self.window_points.value()

    def offer_time(self, on: bool) -> None:
        """Allow time as the axis, or not where no row tells it."""
        model: Any = self.x_axis.model()
        model.item(TIME).setEnabled(on)

    @Slot()
    def _on_changed(self) -> None:
        self.window_points.setVisible(self.smooths())
        self.changed.emit()

    @Slot()
    def _on_points(self) -> None:
        if self.smooths():
            self.changed.emit()

    def _zoom_in(self) -> None:
        self.zoomed.emit(0.5)

    def _zoom_out(self) -> None:
        self.zoomed.emit(2.0)
