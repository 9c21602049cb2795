"""The background sampler, and what becomes of missing readings."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from mistudio.gui.header import SystemStrip
from mistudio.gui.status_bar import StatusBar
from mistudio.system import monitor
from mistudio.system.monitor import GpuReader, GpuSample, Monitor, Sample, temperature


def test_samples_are_those_of_this_machine(tmp_path: Path) -> None:
    sample = Monitor(tmp_path).take()
    assert 0 < sample.memory_used < sample.memory_total
    assert sample.memory_free + sample.memory_used == sample.memory_total
    assert 0 < sample.disk_free <= sample.disk_total
    assert 0 <= sample.cpu_percent <= 100


def test_the_thread_samples_and_ends(tmp_path: Path) -> None:
    watched = Monitor(tmp_path, period_s=0.01)
    watched.start()
    waiting = threading.Event()
    for _ in range(500):
        if watched.latest is not None:
            break
        waiting.wait(0.01)
    watched.stop()
    assert watched.latest is not None


def test_temperature_takes_the_hottest_believable_zone(tmp_path: Path) -> None:
    for number, text in enumerate(("45000\n", "61500\n", "-274000\n", "broken\n")):
        zone = tmp_path / f"thermal_zone{number}"
        zone.mkdir()
        (zone / "temp").write_text(text)
    assert temperature(tmp_path) == 61.5


def test_without_zones_the_hottest_other_sensor_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sensors() -> dict[str, list[Any]]:
        read = [SimpleNamespace(current=heat) for heat in (52.0, 71.5, -40.0, 900.0, None)]
        return {"nvme": read[:1], "k10temp": read[1:]}

    monkeypatch.setattr("psutil.sensors_temperatures", sensors, raising=False)
    assert temperature(tmp_path) == 71.5
    monkeypatch.setattr("psutil.sensors_temperatures", dict, raising=False)
    assert temperature(tmp_path) is None
    monkeypatch.delattr("psutil.sensors_temperatures")
    assert temperature(tmp_path) is None


def test_a_reading_that_fails_does_not_end_the_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched, fails = Monitor(tmp_path, period_s=0.01), iter((True, False))
    take = watched.take

    def sometimes() -> Sample:
        if next(fails, False):
            raise NotImplementedError("no such counter in this container")
        return take()

    monkeypatch.setattr(watched, "take", sometimes)
    watched.start()
    waiting = threading.Event()
    for _ in range(500):
        if watched.latest is not None:
            break
        waiting.wait(0.01)
    watched.stop()
    assert watched.latest is not None


def test_closing_does_not_wait_for_a_disk_that_never_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "_PATIENCE_S", 0.05)
    watched, hangs, answers = Monitor(tmp_path), threading.Event(), threading.Event()
    sample = watched.take()

    def hang() -> Sample:
        hangs.set()
        answers.wait()
        return sample

    monkeypatch.setattr(watched, "take", hang)
    watched.start()
    assert hangs.wait(5)
    watched.stop()
    assert watched._thread.is_alive()
    answers.set()
    watched._thread.join()


class FakeNvml:
    class NVMLError(Exception):
        pass

    def nvmlDeviceGetUtilizationRates(self, handle: object) -> Any:
        return SimpleNamespace(gpu=37)

    def nvmlDeviceGetMemoryInfo(self, handle: object) -> Any:
        raise self.NVMLError

    def nvmlDeviceGetName(self, handle: object) -> bytes:
        return b"Orin"

    def nvmlDeviceGetTemperature(self, handle: object, sensor: int) -> int:
        return 55


def test_a_gpu_that_tells_no_memory_shares_it() -> None:
    reader = GpuReader()
    reader._nvml = FakeNvml()
    assert reader.take() == GpuSample("Orin", 37.0, None, None, 55, shared_memory=True)


def test_a_jetson_is_read_from_sysfs(tmp_path: Path) -> None:
    def write(place: str, text: str) -> None:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(text)

    write("devices/platform/bus@0/17000000.gpu/load", "437\n")
    for number, (kind, heat) in enumerate((("cpu-thermal", 61000), ("gpu-thermal", 55500))):
        write(f"class/thermal/thermal_zone{number}/type", f"{kind}\n")
        write(f"class/thermal/thermal_zone{number}/temp", f"{heat}\n")
    for rail, name, volts, amperes in ((1, "VDD_IN", 5000, 1800), (2, "VDD_CPU", 5000, 400)):
        write(f"class/hwmon/hwmon1/in{rail}_label", f"{name}\n")
        write(f"class/hwmon/hwmon1/in{rail}_input", f"{volts}\n")
        write(f"class/hwmon/hwmon1/curr{rail}_input", f"{amperes}\n")
    reader = GpuReader(tmp_path)
    reader.open()
    found = reader.take()
    reader.close()
    assert found == GpuSample("Tegra", 43.7, None, None, 55.5, shared_memory=True, power_w=9.0)


def test_rates_are_differences_over_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter(
        (monitor._Counters(10.0, 100, 200, 300, 400), monitor._Counters(12.0, 700, 200, 100, 500))
    )
    monkeypatch.setattr(monitor, "_count", lambda: next(counts))
    watched = Monitor(tmp_path)
    first, second = watched.take(), watched.take()
    assert (first.disk_read_per_s, first.sent_per_s) == (None, None)
    assert (second.disk_read_per_s, second.disk_written_per_s) == (300.0, 0.0)
    # a counter that began anew is no negative rate
    assert (second.received_per_s, second.sent_per_s) == (0.0, 50.0)


def test_an_hour_is_kept_and_no_more(tmp_path: Path) -> None:
    watched = Monitor(tmp_path)
    for at in range(0, 8000, 100):
        watched.keep(Sample(float(at), 0.0, 1, 2, 3, 4, None, None))
    kept = watched.history()
    assert (kept[0].at, kept[-1].at, len(kept)) == (4300.0, 7900.0, 37)
    assert watched.latest is kept[-1]


@pytest.mark.parametrize(("age", "color"), [(1.0, "emerald"), (7.0, "yellow"), (20.0, "red")])
def test_the_dot_ages(qapp: QApplication, qtbot: QtBot, age: float, color: str) -> None:
    strip = SystemStrip()
    qtbot.addWidget(strip)
    assert strip.dot.color() == "red"
    gpu = GpuSample("Orin", None, None, None, None, shared_memory=True)
    strip.show_sample(Sample(100.0, 12.4, 3, 4, 5, 6, None, gpu), now=100.0 + age)
    assert strip.dot.color() == color
    shown = {name: value.text() for name, value in strip.values.items()}
    assert shown == {"CPU": "12 %", "RAM": "75 %", "GPU": "—", "VRAM": "shared", "Temp": "—"}


def test_status_bar_names_everything(qapp: QApplication, qtbot: QtBot) -> None:
    bar = StatusBar()
    qtbot.addWidget(bar)
    assert bar.memory.text() == "Memory — used, — free"
    bar.show_sample(Sample(0.0, 1.0, 2_000_000_000, 8_000_000_000, 5_500_000_000, 1, 61.2, None))
    assert bar.memory.text() == "Memory 2.0 GB used, 6.0 GB free"
    assert (bar.device.text(), bar.gpu.text()) == ("Device CPU", "GPU —")
    assert (bar.temperature.text(), bar.disk.text()) == ("61 °C", "Disk 5.5 GB free")
    bar.show_model("SmolLM2")
    assert bar.model.text() == "Model SmolLM2"
    assert not bar.unload.isHidden()
    bar.show_model("")
    assert bar.unload.isHidden()


def test_long_names_do_not_widen_the_window(qapp: QApplication, qtbot: QtBot) -> None:
    bar = StatusBar()
    qtbot.addWidget(bar)
    bar.resize(1280, 32)
    bar.show()
    job = f"Import dataset {'a name that goes on ' * 8}"
    bar.show_model("an-owner/a-model-with-a-name-of-many-words-that-nobody-types-by-hand")
    bar.show_job(f"{job}  12.5 %")
    assert "…" in bar.model.text()
    assert bar.model.toolTip().endswith("by-hand")
    assert "…" in bar.job.text()
    assert bar.job.text().endswith("12.5 %")
    assert bar.job.accessibleName().startswith(job)
    assert bar.job.geometry().right() < 1280
    assert bar.minimumSizeHint().width() <= 640
    bar.show_job("Tokenise text  3.0 %")
    assert bar.job.text() == "Tokenise text  3.0 %"
