"""The System window: what the machine does now, and what it did in the last hour."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from PySide6.QtCore import QTimer, Slot
from PySide6.QtGui import QCloseEvent
from PySide6.QtWidgets import QGridLayout, QWidget

from mistudio.core.units import EM_DASH, format_bytes
from mistudio.gui.dialog import Dialog
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import MetricTile, label
from mistudio.gui.widgets.progress import ProgressBar
from mistudio.system.monitor import Monitor, Sample

COLUMNS = 5


class Reading(NamedTuple):
    """How a tile shows a sample: the number, a detail, and the share of what there is (0–100)."""

    value: str
    detail: str = ""
    percent: float | None = None


class Gauge(NamedTuple):
    """A tile: its name, its colour and what it reads."""

    name: str
    color: str
    read: Callable[[Sample], Reading]


def _cpu(sample: Sample) -> Reading:
    return Reading(f"{sample.cpu_percent:.0f} %", "", sample.cpu_percent)


def _memory(sample: Sample) -> Reading:
    return _share(sample.memory_used, sample.memory_total)


def _swap(sample: Sample) -> Reading:
    if not sample.swap_total:
        return Reading(EM_DASH, "no swap")
    return _share(sample.swap_used, sample.swap_total)


def _disk(sample: Sample) -> Reading:
    found = _share(sample.disk_total - sample.disk_free, sample.disk_total)
    return found._replace(detail=f"{format_bytes(sample.disk_free)} free")


def _disk_traffic(sample: Sample) -> Reading:
    return _traffic(sample.disk_read_per_s, sample.disk_written_per_s, "read", "written")


def _network(sample: Sample) -> Reading:
    return _traffic(sample.received_per_s, sample.sent_per_s, "received", "sent")


def _gpu(sample: Sample) -> Reading:
    gpu = sample.gpu
    if gpu is None or gpu.load_percent is None:
        return Reading(EM_DASH, gpu.name if gpu else "no GPU")
    return Reading(f"{gpu.load_percent:.0f} %", gpu.name, gpu.load_percent)


def _gpu_memory(sample: Sample) -> Reading:
    gpu = sample.gpu
    if gpu is not None and gpu.shared_memory:
        return Reading("shared", "with the machine's own")
    if gpu is None or gpu.memory_used is None or not gpu.memory_total:
        return Reading(EM_DASH, "" if gpu else "no GPU")
    return _share(gpu.memory_used, gpu.memory_total)


def _heat(sample: Sample) -> Reading:
    heat = sample.temperature_c
    return Reading(EM_DASH) if heat is None else Reading(f"{heat:.0f} °C", "", heat)


def _power(sample: Sample) -> Reading:
    watts = sample.gpu.power_w if sample.gpu else None
    return Reading(EM_DASH) if watts is None else Reading(f"{watts:.1f} W")


def _share(used: int, total: int) -> Reading:
    percent = 100 * used / total if total else 0.0
    return Reading(f"{percent:.0f} %", f"{format_bytes(used)} of {format_bytes(total)}", percent)


def _traffic(inward: float | None, outward: float | None, first: str, second: str) -> Reading:
    if inward is None or outward is None:
        return Reading(EM_DASH)
    return Reading(f"{format_bytes(inward)}/s", f"{first}, {format_bytes(outward)}/s {second}")


GAUGES = (
    Gauge("Processor", "purple", _cpu),
    Gauge("Memory", "cyan", _memory),
    Gauge("Swap", "cyan", _swap),
    Gauge("Disk", "indigo", _disk),
    Gauge("Disk traffic", "indigo", _disk_traffic),
    Gauge("GPU", "emerald", _gpu),
    Gauge("GPU memory", "blue", _gpu_memory),
    Gauge("Temperature", "green", _heat),
    Gauge("Power", "amber", _power),
    Gauge("Network", "blue", _network),
)


class Curve(NamedTuple):
    """One line of a chart; `read` gives its value at a sample, None where it is unknown."""

    name: str
    color: str
    read: Callable[[Sample], float | None]


CHARTS: tuple[tuple[str, Sequence[Curve]], ...] = (
    (
        "Load (%)",
        (
            Curve("processor", "purple", lambda s: s.cpu_percent),
            Curve("GPU", "emerald", lambda s: s.gpu.load_percent if s.gpu else None),
        ),
    ),
    (
        "Memory (%)",
        (
            Curve("memory", "blue", lambda s: _memory(s).percent),
            Curve("swap", "yellow", lambda s: _swap(s).percent),
            Curve("GPU", "emerald", lambda s: _gpu_memory(s).percent),
        ),
    ),
    (
        "Traffic (MB/s)",
        (
            Curve("read", "emerald", lambda s: _mega(s.disk_read_per_s)),
            Curve("written", "purple", lambda s: _mega(s.disk_written_per_s)),
            Curve("received", "blue", lambda s: _mega(s.received_per_s)),
            Curve("sent", "yellow", lambda s: _mega(s.sent_per_s)),
        ),
    ),
    (
        "Heat (°C), power (W)",
        (
            Curve("temperature", "emerald", lambda s: s.temperature_c),
            Curve("power", "yellow", lambda s: s.gpu.power_w if s.gpu else None),
        ),
    ),
)


def _mega(count: float | None) -> float | None:
    return None if count is None else count / 1e6


class GaugeTile(MetricTile):
    """A tile with an 8-px bar where there is a whole to fill."""

    def __init__(self, gauge: Gauge) -> None:
        super().__init__(gauge.name)
        self._gauge = gauge
        self.bar = ProgressBar(gauge.color, percent=False)
        self.box.addStretch(1)
        self.box.addWidget(self.bar)
        self.keep_narrow()

    def show_sample(self, sample: Sample) -> None:
        """Show another sample."""
        reading = self._gauge.read(sample)
        self.set_value(reading.value, reading.detail)
        self.bar.setVisible(reading.percent is not None)
        self.bar.set_value(reading.percent)
        self.setAccessibleName(f"{self._gauge.name} {reading.value} {reading.detail}".strip())


class SystemDialog(Dialog):
    """Tiles of the newest sample and curves of the last hour; follows the monitor while open."""

    def __init__(self, monitor: Monitor, parent: QWidget) -> None:
        super().__init__("System", parent, width=1152, height_share=0.95)
        # loaded here so that the window starts without the plotting library
        from mistudio.gui.widgets.plots import CurvePlot

        self._monitor = monitor
        self._drawn_at = 0.0
        px = appearance().px
        grid = QGridLayout()
        grid.setSpacing(px(12))
        self.tiles = [GaugeTile(gauge) for gauge in GAUGES]
        for column in range(COLUMNS):
            grid.setColumnStretch(column, 1)
        for position, tile in enumerate(self.tiles):
            grid.addWidget(tile, position // COLUMNS, position % COLUMNS)
        self.box.addLayout(grid)
        self.span = label("", "muted")
        self.box.addWidget(self.span)
        charts = QGridLayout()
        charts.setSpacing(px(16))
        self.charts: list[CurvePlot] = []
        for position, (title, curves) in enumerate(CHARTS):
            whole = (0.0, 100.0) if "%" in title else None
            chart = CurvePlot(title, "minutes from now", digits=1, y_range=whole)
            chart.log_button.hide()
            chart.shrink_to(120)
            for curve in curves:
                chart.add_series(curve.name, curve.color)
            charts.addWidget(chart, position // 2, position % 2)
            self.charts.append(chart)
        self.box.addLayout(charts, 1)
        self.add_close()
        self._timer = QTimer(self)
        self._timer.setInterval(round(1000 * monitor.period_s))
        self._timer.timeout.connect(self.refresh)
        self._timer.start()
        self.refresh()

    @Slot()
    def refresh(self) -> None:
        """Show the newest samples, if there is one that is not yet shown."""
        history = self._monitor.history()
        if not history or history[-1].at == self._drawn_at:
            return
        self._drawn_at = history[-1].at
        for tile in self.tiles:
            tile.show_sample(history[-1])
        self._draw(history)

    def _draw(self, history: list[Sample]) -> None:
        minutes = [(sample.at - history[-1].at) / 60 for sample in history]
        self.span.setText(f"The last {max(1, round(-minutes[0]))} min, of at most an hour")
        for chart, (_, curves) in zip(self.charts, CHARTS, strict=True):
            for curve in curves:
                values = [_known(curve.read(sample)) for sample in history]
                chart.set_data(curve.name, minutes, values)

    def closeEvent(self, event: QCloseEvent) -> None:
        self._timer.stop()
        super().closeEvent(event)

    def reject(self) -> None:
        self._timer.stop()
        super().reject()


def _known(value: float | None) -> float:
    return float("nan") if value is None else value
