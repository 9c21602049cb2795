"""Where there is little room: rows of buttons wrap, texts end in …, dialogs scroll."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtWidgets import QApplication, QPushButton, QScrollArea, QWidget
from pytestqt.qtbot import QtBot

from mistudio.gui import style
from mistudio.gui.system_dialog import SystemDialog
from mistudio.gui.tabs.models.tables import FigureTable
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button
from mistudio.gui.widgets.elided import Combo, Elided
from mistudio.gui.widgets.flow import FlowRow
from mistudio.gui.widgets.plots import CurvePlot
from mistudio.system.monitor import Monitor, Sample


@pytest.fixture
def large(styled: QApplication) -> Iterator[QApplication]:
    """The application at one and a half times its usual font."""
    style.apply(styled, "dark", 21)
    yield styled
    style.apply(styled, "dark", 14)


def test_a_row_of_buttons_wraps_and_leaves_no_gap_for_hidden_ones(
    styled: QApplication, qtbot: QtBot
) -> None:
    page, made = QWidget(), [QPushButton(f"Button {n}") for n in range(4)]
    qtbot.addWidget(page)
    flow = FlowRow(*made)
    page.setLayout(flow)
    page.resize(1000, 200)
    page.show()
    assert len({part.y() for part in made}) == 1
    assert flow.minimumSize().width() == max(part.sizeHint().width() for part in made)
    page.resize(made[0].sizeHint().width() * 2 + 20, 200)
    qtbot.waitUntil(lambda: made[2].y() > made[0].y())
    assert [part.y() for part in made] == [made[0].y()] * 2 + [made[2].y()] * 2
    assert all(part.geometry().right() < page.width() for part in made)
    assert flow.heightForWidth(page.width()) == 2 * made[0].height() + flow.spacing()
    made[0].hide()
    qtbot.waitUntil(lambda: made[1].x() == 0)


def test_long_texts_end_in_dots_and_are_told_whole(styled: QApplication, qtbot: QtBot) -> None:
    combo, line = Combo(), Elided("label")
    for part in (combo, line):
        qtbot.addWidget(part)
        part.resize(160, 32)
        part.show()
    text = "a dataset with a name as long as people make them"
    combo.addItem(text)
    line.set_text(text)
    assert combo.shown_text().endswith("…")
    assert line.toolTip() == text
    combo.resize(900, 32)
    line.resize(900, 32)
    assert combo.shown_text() == text
    assert line.toolTip() == ""


def test_icons_keep_a_distance_from_text_and_grow_with_the_font(large: QApplication) -> None:
    look = appearance()
    with_text, alone = button("Run", icon="play"), button("", icon="play", tip="Run")
    assert alone.iconSize().width() == alone.iconSize().height() == look.px(18)
    assert with_text.iconSize().width() == look.px(18) + look.px(4)


def test_the_system_window_fits_a_small_screen(
    tmp_path: Path, large: QApplication, qtbot: QtBot
) -> None:
    parent = QWidget()
    parent.resize(1280, 720)
    qtbot.addWidget(parent)
    monitor = Monitor(tmp_path)
    for moment, load in ((0.0, 40.0), (120.0, 42.0)):
        monitor.keep(Sample(moment, load, 1, 4, 1, 4, None, None, 0, 0, 1e6, 2e6, 3e6, 4e6))
    dialog = SystemDialog(monitor, parent)
    dialog.show()
    assert dialog.height() <= 720
    assert dialog.minimumSizeHint().height() <= 720
    assert dialog.findChild(QScrollArea) is not None
    load = dialog.charts[0]
    low, high = load.plot.viewRange()[1]
    assert low < 0  # percent on the whole scale, not magnified
    assert high > 100
    assert load.plot.getAxis("bottom").labelText == "minutes from now"
    assert dialog.charts[2].points("sent")[1].tolist() == [4.0, 4.0]
    dialog.close()


def test_a_short_axis_keeps_its_unit(styled: QApplication, qtbot: QtBot) -> None:
    plot = CurvePlot("Load (%)", "minutes from now")
    qtbot.addWidget(plot)
    plot.set_data("a", [-0.1, 0.0], [1.0, 2.0])
    plot.show()
    plot.grab()
    assert plot.plot.getAxis("bottom").autoSIPrefixScale == 1.0


def test_a_table_that_is_too_wide_can_be_scrolled(styled: QApplication, qtbot: QtBot) -> None:
    table = FigureTable(("Name", "Other", "State"), "Things")
    qtbot.addWidget(table)
    table.resize(900, 100)
    table.show()
    table.set_rows([("n", "o" * 60, "completed")])
    roomy = table.height()
    table.resize(300, 100)
    qtbot.waitUntil(lambda: table.horizontalScrollBar().maximum() > 0)
    qtbot.waitUntil(lambda: table.height() > roomy)
    row = table.visualItemRect(table.item(0, 0))
    assert row.bottom() <= table.viewport().height()
