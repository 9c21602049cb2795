"""A training warns when the machine is hot and pauses at the user's limit."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from mistudio.core.control import EndsTurn, JobControl, Request
from mistudio.core.events import RecordingReporter
from mistudio.core.paths import Paths
from mistudio.jobs.thermal_guard import ThermalGuard, limit_of
from mistudio.store.tables import TRAININGS
from mistudio.system import gpu
from tests.helpers.studio import tiny_studio, tiny_training


class Machine:
    """A clock and a sensor."""

    def __init__(self, *heats: float | None) -> None:
        self.now, self.heats, self.reads = 0.0, list(heats), 0

    def read(self) -> float | None:
        self.reads += 1
        return self.heats.pop(0) if len(self.heats) > 1 else self.heats[0]

    def clock(self) -> float:
        return self.now


def guarded(machine: Machine, limit: float) -> tuple[EndsTurn, JobControl, RecordingReporter]:
    control, report = JobControl(), RecordingReporter()
    guard = ThermalGuard(control, report, limit, read=machine.read, clock=machine.clock)
    return EndsTurn(guard), control, report


def notes(report: RecordingReporter) -> list[str]:
    return [str(event.values["sentence"]) for event in report.events if event.kind == "note"]


def test_heat_is_told_once_until_it_has_cooled() -> None:
    machine = Machine(70, 81, 85, 79, 82, 74, 81)
    control, _, report = guarded(machine, 0)
    for _ in range(7):
        assert control.requested() is Request.NONE
        machine.now += 10
    assert notes(report) == ["The machine is at 81 °C."] * 2


def test_the_limit_pauses_as_the_user_would() -> None:
    machine = Machine(70, 90)
    control, inner, report = guarded(machine, 85)
    assert control.requested() is Request.NONE
    machine.now = 9.9
    assert control.requested() is Request.NONE
    assert machine.reads == 1  # not at every step
    machine.now = 10
    assert control.requested() is Request.PAUSE
    assert inner.requested() is Request.PAUSE
    assert "90 °C reaches the limit of 85 °C" in notes(report)[0]
    machine.now = 20
    assert control.requested() is Request.PAUSE
    assert len(notes(report)) == 1


def test_a_stop_is_not_turned_into_a_pause() -> None:
    machine = Machine(99)
    control, inner, report = guarded(machine, 85)
    inner.stop()
    assert control.requested() is Request.STOP
    assert notes(report) == []


def test_without_a_sensor_nothing_is_said() -> None:
    control, _, report = guarded(Machine(None), 60)
    assert control.requested() is Request.NONE
    assert notes(report) == []


def test_the_limit_is_the_setting(tmp_path: Path) -> None:
    paths = Paths.at(tmp_path)
    assert limit_of(paths) == 0
    paths.settings.write_text(json.dumps({"pause_at_c": 85}))
    assert limit_of(paths) == 85


def test_the_hotter_of_gpu_and_machine_counts(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    sample = gpu.GpuSample("GPU", None, None, None, 71.0)
    monkeypatch.setattr(gpu.GpuReader, "open", lambda self: None)
    for machine_c, seen, expected in ((64.0, sample, 71.0), (88.0, sample, 88.0), (64.0, None, 64)):
        monkeypatch.setattr(gpu.GpuReader, "take", lambda self, seen=seen: seen)
        monkeypatch.setattr(gpu, "temperature", lambda machine_c=machine_c: machine_c)
        assert gpu.hottest() == expected
    monkeypatch.setattr(gpu, "temperature", lambda: None)
    assert gpu.hottest() is None


def test_a_training_pauses_at_the_limit_and_goes_on_when_it_is_cooler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heats = iter([82.0, 90.0])
    defaults = ThermalGuard.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "read", lambda: next(heats, 60.0))
    monkeypatch.setitem(defaults, "clock", itertools.count(step=3).__next__)
    studio, report = tiny_studio(tmp_path), RecordingReporter()
    studio.paths.settings.write_text(json.dumps({"pause_at_c": 85}))
    try:
        result = studio.run_now("train", tiny_training(), report, JobControl())
        assert result["status"] == "paused"
        told = notes(report)
        assert "The machine is at 82 °C." in told
        assert any("90 °C reaches the limit of 85 °C" in sentence for sentence in told)
        row = TRAININGS.select(studio.db())[0]
        assert row.status == "paused"
        studio.execute(studio.resume_training(row.id))
        assert TRAININGS.get(studio.db(), row.id).status == "completed"
    finally:
        studio.close()
