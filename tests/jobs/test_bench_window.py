"""The measurement of the window: its goals, and the Hub that a download beside it asks."""

from __future__ import annotations

from pathlib import Path

import pytest

from mistudio.core.control import JobControl
from mistudio.core.errors import Damaged, InvalidInput
from mistudio.core.events import SilentReporter
from mistudio.jobs.bench_hub import REPO, BenchHub
from mistudio.jobs.bench_window import bench_window, goals

TABS = {"Datasets": 10.0, "Models": 49.0}


def test_goals_are_met_or_missed_by_the_worst_figure() -> None:
    start = {"usable_s": 0.9, "idle_memory_mb": 251.0, "tab_first_ms": TABS, "tab_again_ms": TABS}
    found = {
        "start": {**start, "tab_again_ms": {**TABS, "Steering": 51.0}},
        "remote": {"idle": {"repaints_per_s": 0.0}},
        "load": {
            "first_load": {"own_max_ms": 99.0},
            "rest": {"p99_ms": 20.0, "own_max_ms": 101.0},
            "gaps": {"first load of torch": {}, "Training": {}},
            "download_beside": ["Training"],
        },
    }
    met = {goal.what: goal.is_met for goal in goals(found)}
    assert met == {
        "start to a usable window (s)": True,
        "memory of the idle window (MB)": False,
        "slowest first visit of a tab (ms)": True,
        "slowest later visit of a tab (ms)": False,
        "idle, remote (repaints/s)": True,
        "99 % of the gaps while jobs run (ms)": True,
        "longest gap while jobs run, others' turns left out (ms)": False,
        "longest gap at the first load of torch, others' turns left out (ms)": True,
        "phases without a download beside": False,
    }
    assert goals(found)[1].line() == "MISSED  memory of the idle window (MB): 251 (goal 250)"


@pytest.mark.parametrize("values", [{"parts": ("all",)}, {"rounds": 0}, {"tokens": 10}])
def test_what_cannot_be_measured_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        bench_window(**values)  # type: ignore[arg-type]


def test_the_hub_gives_a_model_at_its_rate(hf_home: Path) -> None:
    from mistudio.hub import client, model_files, setup
    from mistudio.hub.download import download, plan_download

    before = setup.current()
    with BenchHub(1_000_000, 1e9) as hub:
        setup.configure(address=hub.url)
        try:
            facts = client.repo_facts("model", REPO, "main", None)
            plan = plan_download(facts, model_files.wanted_files(facts))
            assert plan.total_bytes > 1_000_000
            with pytest.raises(Damaged):  # made-up weights have another sum than the Hub tells
                download(plan, None, SilentReporter(), JobControl(), hold=lambda: None)
            assert hub.sent >= 1_000_000
        finally:
            setup.use(before)
