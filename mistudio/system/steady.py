"""Readings that stand still while nothing much happens, for a screen that is slow to repaint."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from mistudio.system.gpu import GpuSample
from mistudio.system.monitor import Sample

PERCENT = 5.0  # points by which a load has to move before it is shown anew
SHARE = 0.02  # of all memory, or of all the disk
DEGREES = 3.0

N = TypeVar("N", int, float)


def steady(shown: Sample | None, new: Sample) -> Sample:
    """`new` with those figures of `shown` that have hardly moved since; its time is the new one."""
    if shown is None:
        return new
    return replace(
        new,
        cpu_percent=_kept(shown.cpu_percent, new.cpu_percent, PERCENT),
        memory_used=_kept(shown.memory_used, new.memory_used, SHARE * new.memory_total),
        disk_free=_kept(shown.disk_free, new.disk_free, SHARE * new.disk_total),
        temperature_c=_maybe(shown.temperature_c, new.temperature_c, DEGREES),
        gpu=_gpu(shown.gpu, new.gpu),
    )


def _gpu(shown: GpuSample | None, new: GpuSample | None) -> GpuSample | None:
    if shown is None or new is None:
        return new
    return replace(
        new,
        load_percent=_maybe(shown.load_percent, new.load_percent, PERCENT),
        memory_used=_maybe(shown.memory_used, new.memory_used, SHARE * (new.memory_total or 0)),
        temperature_c=_maybe(shown.temperature_c, new.temperature_c, DEGREES),
    )


def _kept(shown: N, new: N, step: float) -> N:
    return shown if abs(new - shown) < step else new


def _maybe(shown: N | None, new: N | None, step: float) -> N | None:
    return new if shown is None or new is None else _kept(shown, new, step)
