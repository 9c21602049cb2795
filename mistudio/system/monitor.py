"""Samples processor, memory, GPU, temperature, power, disk and network in a background thread."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from mistudio.system.gpu import GpuReader, GpuSample, temperature

__all__ = ["GpuReader", "GpuSample", "Monitor", "Sample", "temperature"]

log = logging.getLogger(__name__)

PERIOD_S = 2.0
HISTORY_S = 3600.0
_PATIENCE_S = 2.0  # with a driver or disk that does not answer, when the window closes


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
    swap_used: int = 0
    swap_total: int = 0
    disk_read_per_s: float | None = None  # bytes; None until there is an earlier sample
    disk_written_per_s: float | None = None
    received_per_s: float | None = None  # bytes over all network interfaces but the loopback
    sent_per_s: float | None = None

    @property
    def memory_free(self) -> int:
        return self.memory_total - self.memory_used


@dataclass(frozen=True)
class _Counters:
    """What the kernel has counted since the machine's start, in bytes."""

    at: float
    read: int
    written: int
    received: int
    sent: int


class Monitor:
    """Takes a `Sample` every period; `latest` and `history` are read from any thread.

    NVML is used where it is installed and finds a GPU; a Jetson is read from sysfs.
    """

    def __init__(self, folder: Path, period_s: float = PERIOD_S) -> None:
        """`folder` tells which disk is watched."""
        self.latest: Sample | None = None
        self.period_s = period_s
        self._folder = folder
        self._lock = threading.Lock()
        self._kept: deque[Sample] = deque()
        self._before: _Counters | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)
        self._gpu = GpuReader()

    def start(self) -> None:
        """Begin sampling."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it, but not for ever: a dead disk never answers."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(_PATIENCE_S)

    def history(self) -> list[Sample]:
        """The samples of the last hour, oldest first."""
        with self._lock:
            return list(self._kept)

    def keep(self, sample: Sample) -> None:
        """Make a sample the newest one; those older than an hour go."""
        with self._lock:
            self._kept.append(sample)
            while sample.at - self._kept[0].at > HISTORY_S:
                self._kept.popleft()
        self.latest = sample

    def _run(self) -> None:
        import psutil  # here and below: the window is there before it is needed

        self._gpu.open()
        psutil.cpu_percent(None)  # the first call has nothing to compare with
        wait = 0.2
        while not self._ended.wait(wait):
            wait = self.period_s
            try:
                self.keep(self.take())
            except Exception:
                # kernels and containers fail in many ways; the next reading may work
                log.warning("the machine could not be sampled", exc_info=True)
        self._gpu.close()

    def take(self) -> Sample:
        """One sample now; rates are over the time since the one before."""
        import psutil

        memory = psutil.virtual_memory()
        swap = psutil.swap_memory()
        disk = psutil.disk_usage(str(self._folder))
        gpu = self._gpu.take()
        heat = gpu.temperature_c if gpu and gpu.temperature_c is not None else temperature()
        now, before = _count(), self._before
        self._before = now
        span = now.at - before.at if before else 0.0
        return Sample(
            at=now.at,
            cpu_percent=psutil.cpu_percent(None),
            memory_used=memory.total - memory.available,
            memory_total=memory.total,
            disk_free=disk.free,
            disk_total=disk.total,
            temperature_c=heat,
            gpu=gpu,
            swap_used=swap.used,
            swap_total=swap.total,
            disk_read_per_s=_rate(now.read, before and before.read, span),
            disk_written_per_s=_rate(now.written, before and before.written, span),
            received_per_s=_rate(now.received, before and before.received, span),
            sent_per_s=_rate(now.sent, before and before.sent, span),
        )


def _count() -> _Counters:
    import psutil

    disk = psutil.disk_io_counters()
    cards = psutil.net_io_counters(pernic=True)
    outside = [count for name, count in cards.items() if name != "lo"]
    return _Counters(
        at=time.monotonic(),
        read=disk.read_bytes if disk else 0,
        written=disk.write_bytes if disk else 0,
        received=sum(count.bytes_recv for count in outside),
        sent=sum(count.bytes_sent for count in outside),
    )


def _rate(now: int, before: int | None, span: float) -> float | None:
    """Bytes per second; None without an earlier count, 0 where a counter began anew."""
    if before is None or span <= 0:
        return None
    return max(0, now - before) / span
