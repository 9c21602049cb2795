"""Reads the GPU: an NVIDIA one through NVML, a Tegra (Jetson) one through sysfs."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GpuSample:
    """One GPU; None where the driver does not tell. Bytes, percent, degrees Celsius, watts."""

    name: str
    load_percent: float | None
    memory_used: int | None
    memory_total: int | None
    temperature_c: float | None
    shared_memory: bool = False  # the GPU uses the machine's own memory
    power_w: float | None = None


@lru_cache(maxsize=8)
def _tell_once(problem: str) -> None:
    """A reader is opened again and again, the reason why there is no GPU stays the same."""
    log.info("no NVIDIA GPU through NVML: %s", problem)


class GpuReader:
    """Reads the first NVIDIA GPU through NVML, or a Tegra one through sysfs; else nothing."""

    TEGRA_LOAD = (
        "devices/platform/gpu.0/load",
        "devices/platform/bus@0/17000000.gpu/load",
        "devices/gpu.0/load",
    )

    def __init__(self, sysfs: Path = Path("/sys")) -> None:
        """`sysfs` is where the kernel shows devices."""
        self._sysfs = sysfs
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
            _tell_once(str(error))
        places = (self._sysfs / place for place in self.TEGRA_LOAD)
        self._tegra = next((path for path in places if path.exists()), None)

    def close(self) -> None:
        """Let go of the driver."""
        if self._nvml is not None:
            self._nvml.nvmlShutdown()
            self._nvml = None

    def take(self) -> GpuSample | None:
        """The GPU now, None without one."""
        seen = self._take_nvml() if self._nvml is not None else None
        if self._tegra is not None and (seen is None or seen.load_percent is None):
            # NVML of a Jetson finds the GPU but tells little of it
            return self._take_tegra(self._tegra)
        return seen

    def _ask(self, function: str, *arguments: Any) -> Any:
        try:
            return getattr(self._nvml, function)(self._handle, *arguments)
        except (self._nvml.NVMLError, AttributeError):
            return None

    def _take_nvml(self) -> GpuSample:
        load = self._ask("nvmlDeviceGetUtilizationRates")
        memory = self._ask("nvmlDeviceGetMemoryInfo")
        name = self._ask("nvmlDeviceGetName") or "GPU"
        power = self._ask("nvmlDeviceGetPowerUsage")
        return GpuSample(
            name=name.decode() if isinstance(name, bytes) else str(name),
            load_percent=None if load is None else float(load.gpu),
            memory_used=None if memory is None else int(memory.used),
            memory_total=None if memory is None else int(memory.total),
            temperature_c=self._ask("nvmlDeviceGetTemperature", 0),
            shared_memory=memory is None,
            power_w=None if power is None else power / 1000,
        )

    def _take_tegra(self, path: Path) -> GpuSample:
        load = read_number(path)
        zones = zone_temperatures(self._sysfs / "class" / "thermal")
        gpu_zones = [heat for kind, heat in zones if "gpu" in kind.lower()]
        return GpuSample(
            "Tegra",
            None if load is None else load / 10,
            None,
            None,
            max(gpu_zones, default=max((heat for _, heat in zones), default=None)),
            shared_memory=True,
            power_w=board_power(self._sysfs / "class" / "hwmon"),
        )


def read_number(path: Path) -> float | None:
    """The number in a file of sysfs, None if it cannot be read."""
    try:
        return float(path.read_text().strip())
    except (OSError, ValueError):
        return None


def zone_temperatures(root: Path = Path("/sys/class/thermal")) -> list[tuple[str, float]]:
    """Kind and °C of every thermal zone that shows a believable temperature."""
    found: list[tuple[str, float]] = []
    for zone in sorted(root.glob("thermal_zone*")):
        value = read_number(zone / "temp")
        if value is None or not 0 < value / 1000 < 150:
            continue
        try:
            kind = (zone / "type").read_text().strip()
        except OSError:
            kind = zone.name
        found.append((kind, value / 1000))
    return found


def temperature(root: Path = Path("/sys/class/thermal")) -> float | None:
    """The hottest thermal zone in °C, else the hottest other sensor; None if there is none."""
    return max((heat for _, heat in zone_temperatures(root)), default=sensor_temperature())


def hottest() -> float | None:
    """The hotter of GPU and machine in °C; None without a sensor. Takes some milliseconds."""
    reader = GpuReader()
    reader.open()
    try:
        sample = reader.take()
    finally:
        reader.close()
    heats = (sample.temperature_c if sample else None, temperature())
    return max((heat for heat in heats if heat is not None), default=None)


def sensor_temperature() -> float | None:
    """The hottest sensor in °C on a machine without thermal zones, such as one with an AMD CPU."""
    import psutil

    read = getattr(psutil, "sensors_temperatures", None)  # not on every system
    chips: dict[str, list[Any]] = read() if read is not None else {}
    heats = [sensor.current for found in chips.values() for sensor in found]
    return max((heat for heat in heats if heat is not None and 0 < heat < 150), default=None)


def board_power(root: Path = Path("/sys/class/hwmon")) -> float | None:
    """Watts drawn by a Jetson board, from the current and voltage of its VDD_IN rail."""
    for name in sorted(root.glob("hwmon*/in*_label")):
        try:
            rail = name.read_text().strip()
        except OSError:
            continue
        if rail not in ("VDD_IN", "POM_5V_IN"):
            continue
        number = name.name.removeprefix("in").removesuffix("_label")
        volts = read_number(name.with_name(f"in{number}_input"))
        amperes = read_number(name.with_name(f"curr{number}_input"))
        if volts is not None and amperes is not None:
            return volts * amperes / 1e6
    return None
