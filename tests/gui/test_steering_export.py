"""Steering without an SAE and its export, through the window: clicks and real jobs."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QFileDialog, QPushButton
from pytestqt.qtbot import QtBot

from mistudio.core.model_configs import ImportModelConfig
from mistudio.core.steering_spec import Direction, Edit
from mistudio.gui import ask
from mistudio.gui.services import Services
from mistudio.gui.tabs.steering import export as export_module
from mistudio.gui.tabs.steering.card import CardState
from mistudio.gui.tabs.steering.search import NO_VECTOR
from mistudio.gui.tabs.steering.tab import SteeringTab
from mistudio.jobs import lookup, vector_library
from mistudio.jobs.runner import Studio
from mistudio.store.tables import SAES, STEERING_RUNS
from tests.gui.model_world import settle
from tests.helpers.studio import new_studio, run
from tests.helpers.tiny import save_tiny_llama

LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    made = new_studio(tmp_path / "data")
    folder = save_tiny_llama(tmp_path / "model")
    run(made, "import_model", ImportModelConfig(path=str(folder), name="tiny"))
    yield made
    made.close()


def opened(services: Services, qtbot: QtBot) -> SteeringTab:
    services.lanes.start()
    tab = SteeringTab(services)
    qtbot.addWidget(tab)
    tab.resize(1240, 700)
    tab.show()
    settle(qtbot, services)
    return tab


def add_vector(services: Services) -> None:
    v_D = np.random.default_rng(0).normal(size=32).astype(np.float32)
    model = lookup.model(services.studio, "tiny")
    new = vector_library.NewVector(v_D, "formal", 1, "resid_post", {})
    vector_library.add(services.studio, model, [new], "import")
    services.publisher.publish("steering_vectors", "")


def pick(qtbot: QtBot, button: QPushButton, text: str) -> None:
    """Open the menu of a button and click an entry."""
    menu = button.menu()
    entry = next(action for action in menu.actions() if action.text() == text)
    assert entry.isEnabled()
    menu.popup(button.mapToGlobal(QPoint(0, button.height())))
    qtbot.mouseClick(menu, LEFT, pos=menu.actionGeometry(entry).center())
    menu.close()


def write(qtbot: QtBot, tab: SteeringTab, prompt: str = "Once upon a time") -> None:
    tab.prompt.setPlainText(prompt)
    tab.form.set_values({"max_tokens": 6})
    qtbot.mouseClick(tab.generate_button, LEFT)
    settle(qtbot, tab.services, lambda: not tab._is_busy())


def test_a_vector_steers_where_there_is_no_sae(services: Services, qtbot: QtBot) -> None:
    tab = opened(services, qtbot)
    panel, search = tab.panel, tab.panel.search
    assert panel.source.currentText() == "Vectors only · tiny"
    assert tab.reason.text() == "Add a vector to steer along."
    assert "two lists of prompts" in panel.hint.text()
    qtbot.mouseClick(search.field, LEFT)
    settle(qtbot, services)
    assert search.hint.text() == NO_VECTOR
    assert not search.add_button.isEnabled()
    add_vector(services)  # as the window of vectors does
    settle(qtbot, services)
    assert [found.words for found in search._shown()] == ["@formal   layer 1 · resid_post"]
    qtbot.mouseClick(search.add_button, LEFT)
    settle(qtbot, services)
    (card,) = panel.cards
    assert card.facts.title == "formal"
    card.set_value(3.0)
    write(qtbot, tab)
    assert tab.problem.isHidden()
    (kept,) = STEERING_RUNS.select(services.studio.db())
    assert (kept.sae_id, kept.model_id) == (None, lookup.model(services.studio, "tiny").id)
    assert tab.output.panes["steered"].text.toPlainText() == kept.outputs["steered"]  # type: ignore[index]
    panel.clear()
    settle(qtbot, services)
    tab.history.view.selectRow(0)
    qtbot.mouseClick(tab.history.load_button, LEFT)
    settle(qtbot, services)
    assert tab.problem.isHidden(), "no SAE is missed"
    assert [c.edit() for c in tab.panel.cards] == [Edit(Direction("formal"), 3.0, unit="raw")]
    assert not SAES.select(services.studio.db())


def test_without_a_model_the_tab_says_what_to_do(services: Services, qtbot: QtBot) -> None:
    model = lookup.model(services.studio, "tiny")
    services.studio.db().execute("DELETE FROM models WHERE id = ?", [model.id])
    tab = opened(services, qtbot)
    assert tab.reason.text() == "Add a model first: the Models tab downloads or imports one."
    assert not tab.panel.search.isEnabled()
    assert not tab.export_button.isEnabled()


def test_what_is_set_and_what_is_shown_are_exported(
    services: Services,
    qtbot: QtBot,
    window_stub: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    add_vector(services)
    tab = opened(services, qtbot)
    tab.panel.load([CardState(Edit(Direction("formal"), 3.0, unit="raw"))])
    settle(qtbot, services)
    tab.prompt.setPlainText("Once upon a time")
    tab.form.set_values({"max_tokens": 6, "temperature": 0})
    pick(qtbot, tab.export_button, export_module.COPY)
    settle(qtbot, services, lambda: bool(window_stub.banners))
    assert window_stub.banners == ["The script is on the clipboard."]
    script = QGuiApplication.clipboard().text()
    assert tab.reason.text() == ""
    write(qtbot, tab)
    out = str(tmp_path / "steer.py")
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (out, ""))
    pick(qtbot, tab.output.export_button, export_module.SAVE["python"])
    settle(qtbot, services, lambda: len(window_stub.banners) == 2)
    assert window_stub.banners[1] == "steer.py is written."
    assert Path(out).read_text(encoding="utf-8") == script
    monkeypatch.setattr(sys, "argv", [out])
    capsys.readouterr()
    runpy.run_path(out, run_name="__main__")
    (kept,) = STEERING_RUNS.select(services.studio.db())
    assert capsys.readouterr().out == f"{kept.outputs['steered']}\n"  # type: ignore[index]
    out = str(tmp_path / "steer.gguf")
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (out, ""))
    assert not tab.history._of_one[0].isEnabled()
    tab.history.view.selectRow(0)
    pick(qtbot, tab.history.export_button, export_module.SAVE["gguf"])
    settle(qtbot, services, lambda: len(window_stub.banners) == 3)
    assert window_stub.banners[2].startswith("steer.gguf is written. What is added there acts on")
    v_D = vector_library.read(services.studio, vector_library.find_one(services.studio, "formal"))
    (tensor,) = gguf.GGUFReader(out).tensors
    np.testing.assert_allclose(tensor.data, 3 * v_D, rtol=1e-6)
    report = str(tmp_path / "run.md")
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (report, ""))
    pick(qtbot, tab.output.export_button, "Save as Markdown…")
    settle(qtbot, services, lambda: Path(report).is_file())


def test_what_cannot_be_exported_is_said(
    services: Services, qtbot: QtBot, window_stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_vector(services)
    tab = opened(services, qtbot)
    tab.panel.load([CardState(Edit(Direction("formal"), 3.0, unit="raw"))])
    settle(qtbot, services)
    tab.prompt.setPlainText("Once upon a time")
    tab.positions.set_values("generated", "")
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: ("/nowhere/v.gguf", ""))
    pick(qtbot, tab.export_button, export_module.SAVE["gguf"])
    assert "cannot hold the positions 'generated'" in window_stub.banners[0]
    tab.positions.set_values("all", "")
    tab.modes.set_mode("sweep", "1,2")
    asked: list[list[str]] = []

    def choose(*words: Any) -> tuple[str, bool]:
        asked.append(list(words[3]))
        return words[3][1], True

    monkeypatch.setattr(ask, "choice", choose)
    pick(qtbot, tab.export_button, export_module.COPY)
    settle(qtbot, services, lambda: len(window_stub.banners) == 2)
    assert asked == [["Strength ×1", "Strength ×2"]]
    assert "'value': 6.0" in QGuiApplication.clipboard().text()
    monkeypatch.setattr(ask, "choice", lambda *_: ("", False))
    pick(qtbot, tab.export_button, export_module.COPY)
    assert services.lanes.is_idle()
