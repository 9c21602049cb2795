"""The status bar: device, GPU, memory, temperature, loaded model, disk, running job."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QStatusBar, QWidget

from mistudio.core.units import EM_DASH, format_bytes
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label
from mistudio.system.monitor import Sample


class StatusBar(QStatusBar):
    """Always shows all of its readings; what is unknown is an em-dash."""

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
        self.job.setToolTip("Show the jobs (Ctrl+J)")
        left = (self.device, self.gpu, self.memory, self.temperature, self.disk, self.model)
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
        self.device.setText(f"Device {gpu.name if gpu else 'CPU'}")
        self.gpu.setText(f"GPU {EM_DASH if load is None else f'{load:.0f} %'}")
        used = format_bytes(sample.memory_used if sample else None)
        free = format_bytes(sample.memory_free if sample else None)
        self.memory.setText(f"Memory {used} used, {free} free")
        self.temperature.setText(f"{EM_DASH if heat is None else f'{heat:.0f}'} °C")
        self.disk.setText(f"Disk {format_bytes(sample.disk_free if sample else None)} free")

    def show_model(self, name: str) -> None:
        """Name the loaded model; "" if none is."""
        self.model.setText(f"Model {name or EM_DASH}")
        self.unload.setVisible(bool(name))

    def show_job(self, text: str) -> None:
        """Describe the running job; "" if none runs."""
        self.job.setText(text or "No job running")
