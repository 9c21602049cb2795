"""Labels in the window: column, tile, page of a feature, and the dialog that makes them."""

from __future__ import annotations

from typing import Any

import pytest
from PySide6.QtCore import Qt
from pytestqt.qtbot import QtBot

from mistudio.gui.services import Services
from mistudio.gui.tabs.features.label_dialog import LabelDialog
from mistudio.gui.tabs.features.tab import FeaturesTab
from mistudio.jobs import feature_pages
from mistudio.store import feature_marks, features, labels
from mistudio.store.tables import JOBS
from tests.gui import feature_world
from tests.gui.test_features_tab import listed, settle, shown_tab


def rule(feature: int, text: str, auroc: float | None, method: str = "token") -> dict[str, Any]:
    scores = {"auroc": auroc, "auroc_random": 0.9, "auroc_hard": 0.7, "precision": 0.25}
    scores |= {"positives": 100 if auroc else 4, "negatives": 200}
    told = {"text": text, "method": method, "chosen": method == "token"}
    return {"feature": feature, "scores": scores, **told}


def labelled_world(services: Services) -> feature_world.World:
    db = services.studio.db()
    world = feature_world.add_world(db)
    made = [rule(i, f'token: "{i}"', 0.5 + 0.01 * i) for i in range(0, 40, 2)]
    made += [rule(6, "promotes digits", 0.61, "set"), rule(1, 'token: "few"', None)]
    labels.replace_auto(db, world.sae.id, made)
    return world


def test_column_and_tile(services: Services, qtbot: QtBot) -> None:
    world = labelled_world(services)
    db = services.studio.db()
    feature_marks.set_label(db, world.sae.id, 3, "mine")
    tab = shown_tab(services, qtbot)
    # 32, 34, 36 and 38 of 56 live features score above 0.8; 30 is at 0.8
    assert tab.tiles["interpretable"].value() == "7.1 %"
    header = [column.title for column in tab.table.model.columns]
    score, name = header.index("Interpretability"), header.index("Label")
    tab.table.view.sortByColumn(score, Qt.SortOrder.DescendingOrder)
    settle(tab, qtbot)
    assert listed(tab)[:2] == [38, 36]
    cell = tab.table.model.index(0, score)
    assert cell.data() == "88.0 %"
    assert "n = 300" in cell.data(Qt.ItemDataRole.ToolTipRole)
    assert tab.table.model.index(0, name).data() == '≈ token: "38"'
    tab.table.view.select_id(3)
    shown = listed(tab).index(3)
    assert tab.table.model.index(shown, name).data() == "✎ mine"
    assert tab.table.model.index(shown, score).data() == "—"


def test_detail_lists_labels_and_the_users_choice_stays(
    services: Services, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_pages, "page", feature_world.page)
    world = labelled_world(services)
    tab = shown_tab(services, qtbot)
    tab.open_feature(6)
    settle(tab, qtbot)
    detail = tab.detail
    assert detail is not None
    assert detail.tiles["interpretability"].value() == "56.0 %"
    assert detail.head.source.text() == "by rules · 56.0 %"
    detail.pages.setCurrentWidget(detail.labels)
    settle(tab, qtbot)
    table = detail.labels.table
    assert [row[:2] for row in table.texts()] == [
        ["●", '≈ token: "6"'],
        ["", "≈ promotes digits"],
    ]
    item = table.item(0, 0)
    assert item is not None
    assert "against random ones 90.0 %, against hard ones 70.0 %" in item.toolTip()
    assert not detail.labels.use_button.isEnabled()
    table.selectRow(1)
    detail.labels.use_button.click()
    settle(tab, qtbot)
    assert detail.head.label_edit.text() == "promotes digits"
    labels.replace_auto(services.studio.db(), world.sae.id, [rule(6, "another", 0.99)])
    (row,) = features.feature_rows(services.studio.db(), world.feature_set, [6])
    assert row.label == "promotes digits"
    detail.head.label_edit.setText("mine")
    detail.head.label_edit.setModified(True)
    detail.head.commit()
    settle(tab, qtbot)
    assert detail.labels.table.texts()[0][:3] == ["●", "✎ mine", "by you"]
    detail.close()


def test_the_dialog_plans_and_queues(services: Services, qtbot: QtBot) -> None:
    world = labelled_world(services)
    tab = shown_tab(services, qtbot)
    tab.labels_button.click()
    dialog = tab.findChild(LabelDialog)
    assert dialog is not None
    settle(tab, qtbot)
    assert "21 of 56 live features have a label" in dialog.figures.text()
    assert dialog.histogram._counts.sum() == 20
    assert "seconds" in dialog.plan.text()
    assert not dialog.listed_button.isVisible()
    dialog.form.set_values({"method": "model"})
    settle(tab, qtbot)
    dialog.listed_button.click()
    settle(tab, qtbot)
    assert dialog.plan.text().startswith("56 features")
    dialog.form.set_values({"endpoint": "http://example.org/v1", "endpoint_model": "m"})
    dialog.start()
    problem = dialog.form.fields["endpoint"].problem.text()
    assert "is not this machine" in problem
    assert JOBS.select(services.studio.db()) == []
    dialog.form.set_values({"method": "rules", "endpoint": ""})
    dialog.start()
    (job,) = JOBS.select(services.studio.db())
    assert (job.kind, job.config["sae"], job.config["method"]) == (
        "label_features", world.sae.id, "rules"
    )  # fmt: skip
    dialog.close()


def test_regenerate_asks_a_model_about_one_feature(
    services: Services, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_pages, "page", feature_world.page)
    labelled_world(services)
    tab: FeaturesTab = shown_tab(services, qtbot)
    tab.open_feature(6)
    settle(tab, qtbot)
    assert tab.detail is not None
    tab.detail.pages.setCurrentWidget(tab.detail.labels)
    tab.detail.labels.regenerate_button.click()
    dialog = tab.detail.findChild(LabelDialog)
    assert dialog is not None
    settle(tab, qtbot)
    values = dialog.form.values()
    assert (values.method, values.feature, values.anew) == ("model", ("6",), True)
    assert dialog.plan.text().startswith("1 feature,")
    dialog.close()
    tab.detail.close()
