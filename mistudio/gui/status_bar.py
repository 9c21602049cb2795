"""The status bar: device, GPU, memory, temperature, loaded model, disk, running job."""

from __future__ import annotations

from PySide6.QtCore import QSize, Qt, Signal
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QLabel, QPushButton, QStatusBar, QWidget

from mistudio.core.units import EM_DASH, format_bytes
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label
from mistudio.system.monitor import Sample

_NAME_PX = 200  # of a device or model, at a 16-px font


class StatusBar(QStatusBar):
    """Always shows all of its readings; what is unknown is an em-dash.

    Long names of devices, models and jobs end in dots, so that they never widen the window.
    """

    unload_clicked = Signal()
    jobs_clicked = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setSizeGripEnabled(False)
        self.device = label("", "small")
        self.gpu = label("", "small")
        self.memory = label("", "small")
        self.temperature = label("", "small")
        self.model = label("", "small")
        self.unload = button("Unload", variant="link")
        self.unload.clicked.connect(self.unload_clicked)
        self.unload.setToolTip("Free the memory of the loaded model")
        self.disk = label("", "small")
        self.job = button("", variant="link")
        self.job.clicked.connect(self.jobs_clicked)
        self._job_text = ""
        left = self._left = (
            self.device,
            self.gpu,
            self.memory,
            self.temperature,
            self.disk,
            self.model,
        )
        self.setContentsMargins(appearance().px(16), 0, appearance().px(16), 0)
        for widget in (*left, self.unload):
            self.addWidget(widget)
        for reading in left:
            reading.setContentsMargins(0, 0, appearance().px(12), 0)
        self.addPermanentWidget(self.job)
        self.show_sample(None)
        self.show_model("")
        self.show_job("")

    def show_sample(self, sample: Sample | None) -> None:
        """Show a reading of the machine."""
        gpu = sample.gpu if sample else None
        load = gpu.load_percent if gpu else None
        heat = sample.temperature_c if sample else None
        _name(self.device, f"Device {gpu.name if gpu else 'CPU'}", appearance().px(_NAME_PX))
        self.gpu.setText(f"GPU {EM_DASH if load is None else f'{load:.0f} %'}")
        used = format_bytes(sample.memory_used if sample else None)
        free = format_bytes(sample.memory_free if sample else None)
        self.memory.setText(f"Memory {used} used, {free} free")
        self.temperature.setText(f"{EM_DASH if heat is None else f'{heat:.0f}'} °C")
        self.disk.setText(f"Disk {format_bytes(sample.disk_free if sample else None)} free")

    def show_model(self, name: str) -> None:
        """Name the loaded model; "" if none is."""
        _name(self.model, f"Model {name or EM_DASH}", appearance().px(_NAME_PX))
        self.unload.setVisible(bool(name))
        self._fit_job()

    def show_job(self, text: str) -> None:
        """Describe the running job; "" if none runs."""
        self._job_text = text
        self._fit_job()

    def minimumSizeHint(self) -> QSize:
        return QSize(appearance().px(360), super().minimumSizeHint().height())

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._fit_job()

    def _fit_job(self) -> None:
        """Give the job's line the room that the readings leave; its percentage stays in view."""
        px = appearance().px
        shown = [*self._left, self.unload] if not self.unload.isHidden() else self._left
        taken = sum(part.sizeHint().width() + px(8) for part in shown)
        text = self._job_text or "No job running"
        _name(self.job, text, max(px(160), self.width() - taken - px(72)))
        self.job.setToolTip(f"{text}: show the jobs (Ctrl+J)")
        self.job.setAccessibleName(text)


def _name(target: QLabel | QPushButton, text: str, room: int) -> None:
    """Show a text in so many pixels; the tooltip has all of what is left out."""
    short = target.fontMetrics().elidedText(text, Qt.TextElideMode.ElideMiddle, room)
    target.setText(short)
    target.setToolTip(text if short != text else "")
