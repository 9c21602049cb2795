"""A device of 8 GB gets other proposals and a budget; the user may decide otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from mistudio.core.configs import HarvestConfig
from mistudio.core.device_profile import BUDGET_BYTES, budget, is_small, proposals
from mistudio.core.model_configs import DownloadModelConfig
from mistudio.core.paths import Paths
from mistudio.core.settings import Settings, SettingsFile
from mistudio.jobs import device_profile, training_plan
from mistudio.jobs.runner import Studio
from mistudio.system.budget import Budget


@pytest.mark.parametrize(
    ("choice", "total", "small"),
    [
        ("auto", 7.6e9, True),  # what 8 GiB leave beside the kernel
        ("auto", 8 * 2**30, True),
        ("auto", 15.6e9, False),
        ("small", 64e9, True),
        ("standard", 4e9, False),
    ],
)
def test_memory_decides_unless_the_user_does(choice: str, total: float, small: bool) -> None:
    assert is_small(choice, total) is small


def test_a_small_device_reads_less_at_a_time() -> None:
    values = Settings()
    assert proposals("HarvestConfig", values, True) == {"rows": 4096, "context": 128}
    assert proposals("HarvestConfig", values, False) == {}
    assert proposals("SweepConfig", values, True)["batch"] < 2048


def test_new_models_take_the_format_of_the_settings_and_4_bits_on_a_small_device() -> None:
    assert proposals("DownloadModelConfig", Settings(), True)["format"] == "nf4"
    assert proposals("DownloadModelConfig", Settings(), False)["format"] == "auto"
    chosen = Settings(model_format="int8")
    assert proposals("ImportModelConfig", chosen, True)["format"] == "int8"
    assert proposals("ImportModelConfig", chosen, False)["format"] == "int8"


def test_the_budget_holds_all_of_the_program() -> None:
    assert budget(7_000_000_000, 1_000_000_000, small=True) == BUDGET_BYTES - 1_000_000_000
    assert budget(2_000_000_000, 1_000_000_000, small=True) == 2_000_000_000
    assert budget(2_000_000_000, 7_000_000_000, small=True) == 0
    assert budget(50_000_000_000, 0, small=False) == 50_000_000_000


def test_a_limit_of_this_process_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    limited = Budget(5_000_000_000, 6_000_000_000, "container")
    monkeypatch.setattr(device_profile, "memory_budget", lambda: limited)
    assert device_profile.is_small(Settings())
    assert device_profile.proposals(HarvestConfig, Settings())["rows"] == 4096
    assert device_profile.proposals(DownloadModelConfig, Settings(device_profile="standard")) == {
        "format": "auto"
    }


def test_a_plan_keeps_to_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plenty = Budget(50_000_000_000, 64_000_000_000)
    monkeypatch.setattr(training_plan, "memory_budget", lambda: plenty)
    monkeypatch.setattr(training_plan, "_gpu", lambda: None)
    paths = Paths.at(tmp_path / "home")
    studio = Studio(paths)
    try:
        assert training_plan.room_of(studio).free == plenty.free
        settings = SettingsFile(paths.settings)
        settings.values.device_profile = "small"
        settings.save()
        assert 0 < training_plan.room_of(studio).free < BUDGET_BYTES
    finally:
        studio.close()
