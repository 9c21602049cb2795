"""The window of raw directions over a tiny model; jobs run for real."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from PySide6.QtWidgets import QFileDialog
from pytestqt.qtbot import QtBot

from mistudio.gui.services import Services
from mistudio.gui.tabs.steering import vectors_dialog
from mistudio.gui.tabs.steering.tab import SteeringTab
from mistudio.gui.tabs.steering.vectors_dialog import NOTES, VectorsDialog, result_text
from mistudio.gui.tabs.steering.vectors_import import ImportVectorsDialog
from mistudio.jobs.runner import Studio
from mistudio.store.tables import STEERING_VECTORS
from tests.gui.model_world import settle
from tests.helpers.studio import tiny_studio
from tests.helpers.tiny import STORIES


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    made = tiny_studio(tmp_path)
    yield made
    made.close()


@pytest.fixture
def dialog(qtbot: QtBot, services: Services) -> VectorsDialog:
    services.lanes.start()
    made = VectorsDialog(services)
    qtbot.addWidget(made)
    made.show()
    settle(qtbot, services)
    return made


def fill(dialog: VectorsDialog, method: str = "mean", count: int = 3) -> None:
    dialog.prompts.positive.setPlainText("\n\n".join(STORIES[:count]))
    dialog.prompts.negative.setPlainText("\n".join(STORIES[40 : 40 + count]))
    dialog.form.set_values({"layer": 1, "method": method, "name": "warm"})


def test_two_lists_make_a_vector_that_is_listed(
    qtbot: QtBot, services: Services, dialog: VectorsDialog
) -> None:
    dialog.make()
    assert "Positive prompts is missing" in dialog.job.problem.text()
    fill(dialog, count=12)
    dialog.make()
    settle(qtbot, services, lambda: dialog.table.rowCount() == 1)
    (row,) = STEERING_VECTORS.select(services.studio.db())
    assert (row.name, row.layer, row.method) == ("warm", 1, "mean")
    assert row.report is not None
    assert f"Norm {row.norm:.4g}" in dialog.outcome.text()
    assert f"{row.report['auroc_held_out']:.3f} on 3 + 3 held out" in dialog.outcome.text()
    cells = [dialog.table.item(0, column).text() for column in range(7)]  # type: ignore[union-attr]
    assert cells[:5] == ["warm", "tiny", "1", "resid_post", "difference of means"]
    assert cells[6] == f"{row.report['auroc_held_out']:.3f}"
    cell: Any = dialog.table.item(0, NOTES)
    cell.setText("of stories")
    settle(qtbot, services)
    assert STEERING_VECTORS.get(services.studio.db(), row.id).notes == "of stories"


def test_lists_that_make_none_say_why(
    qtbot: QtBot, services: Services, dialog: VectorsDialog
) -> None:
    fill(dialog, "pca")
    dialog.prompts.negative.setPlainText(STORIES[50])
    dialog.make()
    assert "3 positive and 1 negative" in dialog.job.problem.text()
    fill(dialog)
    dialog.form.set_values({"layer": 9})
    dialog.make()
    assert "tiny has layers 0 to 3" in dialog.job.problem.text()
    assert not STEERING_VECTORS.select(services.studio.db())


def test_export_import_and_delete(
    qtbot: QtBot,
    services: Services,
    dialog: VectorsDialog,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    window_stub: Any,
) -> None:
    fill(dialog)
    dialog.make()
    settle(qtbot, services, lambda: dialog.table.rowCount() == 1)
    assert not dialog.export_button.isEnabled()
    dialog.table.selectRow(0)
    out = str(tmp_path / "w.gguf")
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (out, ""))
    dialog.export()
    settle(qtbot, services, lambda: bool(window_stub.banners))
    (tensor,) = gguf.GGUFReader(out).tensors
    assert tensor.name == "direction.1"
    dialog.open_import()
    (opened,) = dialog.findChildren(ImportVectorsDialog)
    settle(qtbot, services)
    opened.form.set_values({"path": out, "name": "again", "layer": 9})
    opened.submit()
    settle(qtbot, services, lambda: bool(opened.job.problem.text()))
    assert "is for layer 9; tiny has layers 0 to 3" in opened.job.problem.text()
    opened.form.set_values({"layer": -1})
    opened.submit()
    settle(qtbot, services, lambda: dialog.table.rowCount() == 2)
    rows = STEERING_VECTORS.select(services.studio.db())
    assert [row.name for row in rows] == ["again", "warm"]
    assert rows[0].norm == pytest.approx(float(np.linalg.norm(tensor.data)), rel=1e-6)
    monkeypatch.setattr(vectors_dialog, "confirm", lambda *_: True)
    dialog.table.selectRow(0)
    dialog.delete()
    settle(qtbot, services, lambda: dialog.table.rowCount() == 1)
    assert [row.name for row in STEERING_VECTORS.select(services.studio.db())] == ["warm"]


def test_the_tab_opens_it(qtbot: QtBot, services: Services) -> None:
    tab = SteeringTab(services)
    qtbot.addWidget(tab)
    tab.vectors_button.click()
    assert len(tab.findChildren(VectorsDialog)) == 1
    settle(qtbot, services)


def test_short_lists_are_said_not_to_be_held_out() -> None:
    told = result_text({"norm": 2.0, "auroc": 1.0, "auroc_held_out": None, "explained": 0.5})
    assert "none held out (12 prompts" in told
    assert "50.0 %" in told
