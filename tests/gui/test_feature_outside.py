"""A delphi cache taken over, and a label tested by steering, from the window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pytestqt.qtbot import QtBot

from mistudio.gui.services import Services
from mistudio.gui.tabs.features.import_cache_dialog import ImportCacheDialog
from mistudio.gui.tabs.features.tab import FIND
from mistudio.jobs import feature_pages
from mistudio.store import labels
from mistudio.store.tables import JOBS
from tests.gui import feature_world
from tests.gui.test_feature_labels import labelled_world
from tests.gui.test_features_tab import settle, shown_tab


def test_a_delphi_cache_is_taken_over(services: Services, qtbot: QtBot, tmp_path: Path) -> None:
    world = feature_world.add_world(services.studio.db())
    tab = shown_tab(services, qtbot)
    tab.again.click()
    assert tab.pages.currentIndex() == FIND
    tab.form.cache_button.click()
    dialog = tab.findChild(ImportCacheDialog)
    assert dialog is not None
    dialog.start()  # without a folder
    assert JOBS.select(services.studio.db()) == []
    dialog.form.set_values({"path": str(tmp_path)})
    dialog.start()
    assert "no delphi cache" in dialog.job.problem.text()
    (tmp_path / "layers.3").mkdir()
    (tmp_path / "layers.3" / "0_63.safetensors").write_bytes(b"")
    dialog.start()
    (job,) = JOBS.select(services.studio.db())
    assert (job.kind, job.config["sae"]) == ("import_cache", world.sae.id)
    assert job.config["path"] == str(tmp_path)
    told = {"features": 64, "live_features": 60, "tokens": 9000, "agreement": {"share": 0.987}}
    dialog._on_done(told)
    assert "60 of 64 features fire on 9,000 tokens" in dialog.found.text()
    assert "98.7 %" in dialog.found.text()
    dialog.close()


def test_a_label_is_tested_by_steering(
    services: Services, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_pages, "page", feature_world.page)
    monkeypatch.setattr("mistudio.jobs.steer_claims.prepare", lambda *_: None)
    world = labelled_world(services)
    tab = shown_tab(services, qtbot)
    tab.open_feature(6)
    settle(tab, qtbot)
    detail = tab.detail
    assert detail is not None
    page: Any = detail.labels
    detail.pages.setCurrentWidget(page)
    settle(tab, qtbot)
    steering = [row[7] for row in page.table.texts()]
    assert steering == ["—", "—"]
    page.test_button.click()
    (job,) = JOBS.select(services.studio.db())
    assert (job.kind, job.config["features"], job.config["controls"]) == ("steer_claims", "6", 19)
    output = {"outcome": "yes", "tokens": 1, "before": 0.1, "after": 0.2, "p": 0.05}
    output |= {"controls": 19, "kl": 0.5, "strength": 3.0}
    assert labels.set_output(services.studio.db(), world.sae.id, 6, 'token: "6"', output)
    page._on_tested({"features": [{"feature": 6}]})
    settle(tab, qtbot)
    assert page.table.texts()[0][7] == "rises × 2, p 0.05"
    item = page.table.item(0, 0)
    assert item is not None
    assert "Output side" in item.toolTip()
    detail.close()
