"""A process that is killed during a deletion, an undo, or at the end of the time to undo."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[2]


def test_a_kill_between_any_two_steps_loses_and_orphans_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.aside_kills", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ends: dict[str, list[str]] = json.loads(done.stdout)
    # a deletion is done from the moment its rows are gone, an undo once it is marked
    for act, first, last in (
        ("delete", "as before", "gone"),
        ("undo", "gone", "as before"),
        ("finish", "gone", "gone"),
    ):
        assert len(ends[act]) > 10, act
        turn = ends[act].index(last)
        assert set(ends[act][:turn]) <= {first}, ends[act]
        assert set(ends[act][turn:]) == {last}, ends[act]
