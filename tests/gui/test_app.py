"""What the window's process settles before its window, and takes back at its end."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest
from PySide6.QtWidgets import QApplication

from mistudio.core.paths import Paths
from mistudio.gui import app


def test_the_window_s_thread_waits_a_millisecond_for_its_turn(
    styled: QApplication, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, bool]] = []
    monkeypatch.setattr(
        app, "_run", lambda *_: seen.append((sys.getswitchinterval(), gc.isenabled())) or 3
    )
    monkeypatch.setattr(app, "raise_other", lambda _home: False)
    before = sys.getswitchinterval()
    assert app.run(Paths.at(tmp_path)) == 3
    assert seen == [(pytest.approx(app.TURN_S), False)]
    assert sys.getswitchinterval() == before


def test_the_window_s_thread_is_spared_the_import_of_the_jobs() -> None:
    code = """
import sys
from mistudio.gui.tab_pages import load_libraries
load_libraries()
there = set(sys.modules)
import mistudio.jobs.registry
assert set(sys.modules) == there, set(sys.modules) - there
assert "torch" not in there
assert "PySide6.QtPrintSupport" not in there and "pyqtgraph" not in there
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
