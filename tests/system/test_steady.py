"""Readings of a slow screen change only when they have moved; a process knows its age."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace

from mistudio.system.gpu import GpuSample
from mistudio.system.monitor import Sample
from mistudio.system.process import age_s, resident_bytes
from mistudio.system.steady import steady

GPU = GpuSample("G", 10.0, 2_000, 10_000, 50.0)
FIRST = Sample(1.0, 10.0, 4_000, 10_000, 500, 1_000, 50.0, GPU)


def test_small_changes_are_not_shown() -> None:
    gpu = replace(GPU, load_percent=13.0, memory_used=2_100, temperature_c=52.0)
    new = replace(FIRST, at=3.0, cpu_percent=14.9, memory_used=4_199, temperature_c=48.0, gpu=gpu)
    assert steady(FIRST, new) == replace(FIRST, at=3.0)


def test_large_changes_are_shown_each_by_itself() -> None:
    gpu = replace(GPU, load_percent=15.0)
    new = replace(FIRST, at=3.0, cpu_percent=15.0, memory_used=4_100, temperature_c=54.0, gpu=gpu)
    shown = steady(FIRST, new)
    assert (shown.cpu_percent, shown.memory_used, shown.temperature_c) == (15.0, 4_000, 54.0)
    assert shown.gpu is not None
    assert shown.gpu.load_percent == 15.0


def test_slow_growth_is_shown_in_the_end() -> None:
    shown, steps = FIRST, []
    for percent in range(10, 31):
        shown = steady(shown, replace(FIRST, cpu_percent=float(percent)))
        steps.append(shown.cpu_percent)
    assert sorted(set(steps)) == [10.0, 15.0, 20.0, 25.0, 30.0]


def test_what_comes_and_goes_is_shown() -> None:
    assert steady(None, FIRST) is FIRST
    assert steady(FIRST, replace(FIRST, temperature_c=None, gpu=None)).gpu is None
    assert steady(replace(FIRST, gpu=None), FIRST).gpu == GPU


def test_a_process_knows_its_age_and_its_memory() -> None:
    code = "from mistudio.system.process import age_s, resident_bytes as r; print(age_s(), r())"
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    took = time.monotonic() - began
    age, memory = (float(word) for word in done.stdout.split())
    assert 0.0 < age <= took + 0.02  # the start is told in hundredths
    assert 1e6 < memory < 1e9
    assert age_s() > age
    assert resident_bytes() > 1e6
