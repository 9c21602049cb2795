"""The whole loop of the sample in a process that may take 6 GB: `pytest -m heavy -s`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from mistudio.core.settings import SettingsFile
from tests.heavy.test_little_memory import LIMIT, result

pytestmark = pytest.mark.heavy
BUDGET = 6_000_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="limits and measures a process through Linux")
def test_text_to_steering_within_the_budget_of_a_small_device(tmp_path: Path) -> None:
    home = tmp_path / "home"
    done, _, most = result(home, "demo", "--tokens", "60000")
    assert most < min(LIMIT, BUDGET)
    assert done["live_features"] > 0
    assert done["steering"]["kl"] > 0
    plan = ["train", "--model", "sample", "--dataset", "sample", "--layer", "2", "--plan"]
    found, _, _ = result(home, *plan)
    assert found["free"] < LIMIT  # the limit alone makes the device a small one

    settings = SettingsFile(home / "settings.json")
    settings.values.device_profile = "small"
    settings.save()
    held, _, _ = result(home, *plan)
    assert held["free"] < BUDGET
    sys.stdout.write(f"{most / 1e9:.2f} GB of data at most; {json.dumps(done['steering'])}\n")
