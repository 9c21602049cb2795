"""Samples processor, memory, GPU, temperature and disk in a background thread."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

log = logging.getLogger(__name__)

PERIOD_S = 2.0


@dataclass(frozen=True)
class GpuSample:
    """One GPU; None where the driver does not tell."""

    name: str
    load_percent: float | None
    memory_used: int | None
    memory_total: int | None
    temperature_c: float | None
    shared_memory: bool = False  # the GPU uses the machine's own memory


@dataclass(frozen=True)
class Sample:
    """The machine at one moment; bytes, percent, degrees Celsius. `at` is time.monotonic()."""

    at: float
    cpu_percent: float
    memory_used: int
    memory_total: int
    disk_free: int
    disk_total: int
    temperature_c: float | None
    gpu: GpuSample | None

    @property
    def memory_free(self) -> int:
        return self.memory_total - self.memory_used


class Monitor:
    """Takes a `Sample` every two seconds; `latest` is read from any thread.

    NVML is used where it is installed and finds a GPU; a Jetson is read from sysfs.
    """

    def __init__(self, folder: Path, period_s: float = PERIOD_S) -> None:
        """`folder` tells which disk is watched."""
        self.latest: Sample | None = None
        self._folder = folder
        self._period = period_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)
        self._gpu = GpuReader()

    def start(self) -> None:
        """Begin sampling."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        self._gpu.open()
        psutil.cpu_percent(None)  # the first call has nothing to compare with
        wait = 0.2
        while not self._ended.wait(wait):
            wait = self._period
            try:
                self.latest = self.take()
            except (OSError, psutil.Error):
                log.warning("the machine could not be sampled", exc_info=True)
        self._gpu.close()

    def take(self) -> Sample:
        """One sample now."""
        memory = psutil.virtual_memory()
        disk = psutil.disk_usage(str(self._folder))
        gpu = self._gpu.take()
        heat = gpu.temperature_c if gpu and gpu.temperature_c is not None else temperature()
        return Sample(
            at=time.monotonic(),
            cpu_percent=psutil.cpu_percent(None),
            memory_used=memory.total - memory.available,
            memory_total=memory.total,
            disk_free=disk.free,
            disk_total=disk.total,
            temperature_c=heat,
            gpu=gpu,
        )


class GpuReader:
    """Reads the first NVIDIA GPU through NVML, or a Tegra one through sysfs; else nothing."""

    TEGRA_LOAD = (
        Path("/sys/devices/platform/gpu.0/load"),
        Path("/sys/devices/platform/bus@0/17000000.gpu/load"),
        Path("/sys/devices/gpu.0/load"),
    )

    def __init__(self) -> None:
        self._nvml: Any = None
        self._handle: Any = None
        self._tegra: Path | None = None

    def open(self) -> None:
        """Look for a GPU; quiet if there is none."""
        try:
            import pynvml

            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByIndex(0)
            self._nvml = pynvml
        except ImportError:
            log.info("nvidia-ml-py is not installed")
        except Exception as error:  # noqa: BLE001 - NVML raises its own types, made at run time
            log.info("no NVIDIA GPU through NVML: %s", error)
        if self._nvml is None:
            self._tegra = next((path for path in self.TEGRA_LOAD if path.exists()), None)

    def close(self) -> None:
        """Let go of the driver."""
        if self._nvml is not None:
            self._nvml.nvmlShutdown()
            self._nvml = None

    def take(self) -> GpuSample | None:
        """The GPU now, None without one."""
        if self._nvml is not None:
            return self._take_nvml()
        if self._tegra is not None:
            return self._take_tegra(self._tegra)
        return None

    def _ask(self, function: str, *arguments: Any) -> Any:
        try:
            return getattr(self._nvml, function)(self._handle, *arguments)
        except self._nvml.NVMLError:
            return None

    def _take_nvml(self) -> GpuSample:
        load = self._ask("nvmlDeviceGetUtilizationRates")
        memory = self._ask("nvmlDeviceGetMemoryInfo")
        name = self._ask("nvmlDeviceGetName") or "GPU"
        return GpuSample(
            name=name.decode() if isinstance(name, bytes) else str(name),
            load_percent=None if load is None else float(load.gpu),
            memory_used=None if memory is None else int(memory.used),
            memory_total=None if memory is None else int(memory.total),
            temperature_c=self._ask("nvmlDeviceGetTemperature", 0),
            shared_memory=memory is None,
        )

    def _take_tegra(self, path: Path) -> GpuSample:
        try:
            load = int(path.read_text().strip()) / 10
        except (OSError, ValueError):
            load = None
        return GpuSample("Tegra", load, None, None, temperature(), shared_memory=True)


def temperature(root: Path = Path("/sys/class/thermal")) -> float | None:
    """The hottest thermal zone in °C, None if the machine shows none."""
    found: list[float] = []
    for zone in root.glob("thermal_zone*/temp"):
        try:
            value = int(zone.read_text().strip()) / 1000
        except (OSError, ValueError):
            continue
        if 0 < value < 150:
            found.append(value)
    return max(found, default=None)
