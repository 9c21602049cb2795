"""What the start of the window loads, and that it looks the same as one styled from the first."""

from __future__ import annotations

import builtins
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

import mistudio
from mistudio.core.settings import SettingsFile
from mistudio.gui import main_window, style
from mistudio.gui.main_window import MainWindow
from mistudio.jobs.runner import Studio

# What the first paint does not need, and how much later it comes.
LATER = (
    # of jobs: with the first one
    "mistudio.jobs.registry",
    "mistudio.jobs.storage",
    "mistudio.jobs.deletion",
    "mistudio.jobs.set_aside",
    "mistudio.jobs.sample",
    "mistudio.jobs.lookup",
    "mistudio.jobs.activation_pages",
    "mistudio.jobs.import_preview",
    "mistudio.jobs.hub_pages",
    "mistudio.core.configs",
    "mistudio.core.model_configs",
    "mistudio.core.vector_configs",
    "mistudio.grammar",
    # of the window: when they are opened
    "mistudio.gui.about_dialog",
    "mistudio.gui.command_palette",
    "mistudio.gui.help_topics",
    "mistudio.gui.help_window",
    "mistudio.gui.problem_report",
    "mistudio.gui.settings_dialog",
    "mistudio.gui.storage_dialog",
    "mistudio.gui.system_dialog",
    "mistudio.gui.tour",
    "mistudio.gui.tabs.training.tab",
    "mistudio.gui.tabs.datasets.detail",
    "mistudio.gui.tabs.datasets.hub_preview",
    "mistudio.gui.tabs.datasets.import_card",
    # of others
    "click",
    "dateutil",
    "huggingface_hub",
    "importlib.metadata",
    "numpy",
    "pandas",
    "psutil",
    "pyqtgraph",
    "torch",
    "transformers",
)
_LOOK = """
import json, sys
from pathlib import Path
from PySide6.QtCore import QEvent, QObject
from mistudio.gui import app
from mistudio.gui.main_window import MainWindow

class Watch(QObject):
    def eventFilter(self, watched, event):
        if event.type() == QEvent.Type.UpdateRequest and "found" not in told:
            told["found"] = sorted(sys.modules)
            Path(sys.argv[1]).write_text(json.dumps(told["found"]))
            watched.end_without_asking()
        return False

told = {}
shown = MainWindow.show

def show(self):
    self.watch = Watch()
    self.installEventFilter(self.watch)
    shown(self)

MainWindow.show = show
from mistudio.cli import main
sys.exit(main(["--home", sys.argv[2]]))
"""


@pytest.mark.window
def test_the_first_paint_waits_for_nothing_that_it_does_not_show(
    studio: Studio, tmp_path: Path
) -> None:
    report = tmp_path / "modules.json"
    done = subprocess.run(
        [sys.executable, "-c", _LOOK, str(report), str(studio.paths.home)],
        env={
            **os.environ,
            "QT_QPA_PLATFORM": "offscreen",
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(report.read_text()))
    assert "mistudio.gui.tabs.datasets.tab" in loaded, "the first tab was there"
    assert sorted(loaded & set(LATER)) == []


def test_every_module_that_comes_later_exists() -> None:
    """A module under a new name would pass unseen."""
    root = Path(mistudio.__file__).parent.parent
    ours = [root / name.replace(".", "/") for name in LATER if name.startswith("mistudio")]
    assert [path for path in ours if not path.with_suffix(".py").is_file()] == []


def test_imports_read_no_source() -> None:
    """PySide6 would have every module's source read for the sake of its own imports."""
    plain = getattr(builtins, "__orig_import__", None)
    assert plain is None or builtins.__import__ is plain


def _is_at_rest(app: QApplication, window: MainWindow) -> bool:
    """Whether nothing of it waits to be laid out again."""
    before = window.grab().toImage()
    app.processEvents()
    app.sendPostedEvents()
    return before == window.grab().toImage()


@pytest.mark.window
def test_a_style_sheet_that_comes_after_the_widgets_changes_nothing(
    qapp: QApplication, studio: Studio, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main_window, "warm_up_for", lambda studio, job_id: None)
    drawn = []
    for last in (False, True):
        if last:
            qapp.setStyleSheet("")
            style.prepare(qapp, "dark", 14)
        else:
            style.apply(qapp, "dark", 14)
        window = MainWindow(studio, SettingsFile(studio.paths.settings))
        if last:
            style.complete(qapp)
        window.resize(1280, 720)
        window.show()
        qtbot.waitExposed(window)
        qtbot.waitUntil(window.query.is_idle)
        window.setFocus()
        qtbot.waitUntil(partial(_is_at_rest, qapp, window))
        drawn.append(window.grab().toImage())
        window.close()
        window.deleteLater()
    assert drawn[0].size() == drawn[1].size()
    assert drawn[0] == drawn[1]
