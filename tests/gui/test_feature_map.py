"""The density histogram with its brush, and the map of features with its lasso."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
from PySide6.QtCore import QPointF
from PySide6.QtGui import QPainterPath, QPolygonF
from pytestqt.qtbot import QtBot

from mistudio.gui.services import Services
from mistudio.gui.tabs.features.map_dialog import MapDialog, inside
from mistudio.jobs import map_features
from mistudio.jobs.map_features import FeatureMap
from mistudio.store import feature_marks
from mistudio.store.tables import JOBS
from tests.gui import feature_world
from tests.gui.test_features_tab import listed, settle, shown_tab

LIVE = [index for index in range(64) if index % 8 != 7]


def test_the_brush_narrows_the_table_and_follows_the_filter(
    services: Services, qtbot: QtBot
) -> None:
    feature_world.add_world(services.studio.db())
    tab = shown_tab(services, qtbot)
    tab.table.spread.click()
    settle(tab, qtbot)
    panel = tab.table.density
    assert panel is not None
    assert panel._shown is not None
    assert int(panel._shown.counts.sum()) == len(LIVE)
    panel.region.setRegion((math.log10(0.05), 5))
    qtbot.waitUntil(lambda: listed(tab) == [0, 1, 2, 3], timeout=4000)
    settle(tab, qtbot)
    tab.table.filters.low.lineEdit().setText("10")
    qtbot.waitUntil(lambda: listed(tab) == [0, 1], timeout=4000)
    settle(tab, qtbot)
    assert panel.region.getRegion()[0] == pytest.approx(-1)
    panel.clear()
    qtbot.waitUntil(lambda: listed(tab) == LIVE, timeout=4000)
    settle(tab, qtbot)


def test_a_lasso_holds_what_qt_says_it_holds() -> None:
    draw = random.Random(2)
    polygon = [(draw.uniform(-1, 1), draw.uniform(-1, 1)) for _ in range(9)]
    path = QPainterPath()
    path.addPolygon(QPolygonF([QPointF(x, y) for x, y in [*polygon, polygon[0]]]))
    points = np.array([(draw.uniform(-1, 1), draw.uniform(-1, 1)) for _ in range(500)])
    expected = [path.contains(QPointF(x, y)) for x, y in points]
    assert inside(np.array(polygon), points).tolist() == expected
    assert 20 < sum(expected) < 480


@pytest.fixture
def placed(monkeypatch: pytest.MonkeyPatch) -> FeatureMap:
    made = FeatureMap(
        LIVE,
        [float(i % 10) for i in LIVE],
        [float(i // 10) for i in LIVE],
        [0.25, 0.125],
        "2026-01-02T03:04:05",
    )
    monkeypatch.setattr(map_features, "known", lambda studio, sae: made)
    return made


def test_the_map_selects_tells_and_narrows(
    services: Services, qtbot: QtBot, placed: FeatureMap
) -> None:
    world = feature_world.add_world(services.studio.db())
    feature_marks.set_label(services.studio.db(), world.sae.id, 12, "snow")
    tab = shown_tab(services, qtbot)
    tab.show_map()
    dialog = tab.findChild(MapDialog)
    assert dialog is not None
    settle(tab, qtbot)
    assert "56 live features" in dialog.told.text()
    assert "25.0 % and 12.5 % of the variance" in dialog.told.text()
    assert not dialog.table_button.isEnabled()
    dialog.select_inside(np.array([[0.5, 0.5], [3.5, 0.5], [3.5, 1.5], [0.5, 1.5]]))
    assert dialog.selected == [11, 12, 13]
    dialog._on_table()
    settle(tab, qtbot)
    assert listed(tab) == [11, 12, 13]
    dialog.lists.create_list("cold")
    settle(tab, qtbot)
    dialog.hover(12)
    settle(tab, qtbot)
    assert dialog.under.text().startswith("#12 · snow · fires on")
    dialog.color.setCurrentIndex(1)
    dialog.hover(-1)
    assert "55 no label" in dialog._legend
    assert "1 yours" in dialog._legend
    tab.table.filters.chips.chips[0]._remove()
    settle(tab, qtbot)
    assert listed(tab) == LIVE
    assert services.settings.recall("features.table")["filters"]["chips"]["conditions"] == []
    dialog.close()


def test_a_map_that_is_not_known_is_made_by_a_job(
    services: Services, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = feature_world.add_world(services.studio.db())
    known: list[Any] = [None]
    monkeypatch.setattr(map_features, "known", lambda studio, sae: known[0])
    tab = shown_tab(services, qtbot)
    tab.show_map()
    settle(tab, qtbot)
    dialog = tab.findChild(MapDialog)
    assert dialog is not None
    (job,) = JOBS.select(services.studio.db())
    assert (job.kind, job.config["sae"]) == ("map_features", world.sae.id)
    known[0] = FeatureMap([0, 1], [0.0, 1.0], [0.0, 1.0], [0.5, 0.5], "2026")
    services.lanes.finished.emit(job.id, "completed")
    settle(tab, qtbot)
    assert dialog.shown is not None
    dialog.close()
