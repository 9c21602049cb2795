"""The System window shows what the monitor measured, and nothing where nothing was measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtWidgets import QApplication, QWidget
from pytestqt.qtbot import QtBot

from mistudio.gui.header import SystemStrip
from mistudio.gui.system_dialog import SystemDialog
from mistudio.system.gpu import GpuSample
from mistudio.system.monitor import Monitor, Sample

GIGA = 1_000_000_000


def sample(at: float, cpu: float, gpu: GpuSample | None = None) -> Sample:
    return Sample(
        at, cpu, 2 * GIGA, 8 * GIGA, 5 * GIGA, 20 * GIGA, 61.0, gpu, 0, 0, 2e6, 1e6, 3e5, 1e4
    )


@pytest.fixture
def parent(styled: QApplication, qtbot: QtBot) -> Iterator[QWidget]:
    made = QWidget()
    made.resize(1280, 720)
    qtbot.addWidget(made)
    return made


def tiles(dialog: SystemDialog) -> dict[str, str]:
    return {tile._name.text(): tile.value() for tile in dialog.tiles}


def test_tiles_show_the_newest_sample(tmp_path: Path, parent: QWidget) -> None:
    monitor = Monitor(tmp_path)
    monitor.keep(sample(0.0, 10.0))
    monitor.keep(sample(60.0, 42.0, GpuSample("Orin", 37.0, None, None, 55.0, True, 9.3)))
    dialog = SystemDialog(monitor, parent)
    assert tiles(dialog) == {
        "Processor": "42 %",
        "Memory": "25 %",
        "Swap": "—",
        "Disk": "75 %",
        "Disk traffic": "2.0 MB/s",
        "GPU": "37 %",
        "GPU memory": "shared",
        "Temperature": "61 °C",
        "Power": "9.3 W",
        "Network": "300.0 kB/s",
    }
    dialog.close()


def test_curves_go_back_in_minutes_and_break_where_nothing_is_known(
    tmp_path: Path, parent: QWidget
) -> None:
    monitor = Monitor(tmp_path)
    for minute in range(5):
        gpu = GpuSample("Orin", 50.0, None, None, None) if minute > 2 else None
        monitor.keep(sample(60.0 * minute, 10.0 * minute, gpu))
    dialog = SystemDialog(monitor, parent)
    xs, ys = dialog.charts[0].points("processor")
    assert xs.tolist() == [-4, -3, -2, -1, 0]
    assert ys.tolist() == [0, 10, 20, 30, 40]
    assert np.isnan(dialog.charts[0].points("GPU")[1]).tolist() == [True, True, True, False, False]
    monitor.keep(sample(300.0, 99.0))
    dialog.refresh()
    assert tiles(dialog)["Processor"] == "99 %"
    assert tiles(dialog)["GPU"] == "—"
    dialog.close()


def test_the_strip_opens_it_by_mouse_and_keyboard(styled: QApplication, qtbot: QtBot) -> None:
    from PySide6.QtCore import Qt

    strip = SystemStrip()
    qtbot.addWidget(strip)
    strip.show()
    with qtbot.waitSignal(strip.clicked):
        qtbot.mouseClick(strip, Qt.MouseButton.LeftButton)
    with qtbot.waitSignal(strip.clicked):
        qtbot.keyClick(strip, Qt.Key.Key_Return)
