"""The Models tab over a real studio: import, wrong inputs, the viewer, unloading, deletion."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QLabel
from pytestqt.qtbot import QtBot

from mistudio.gui.services import Services
from mistudio.gui.tabs.models import ModelsTab
from mistudio.gui.tabs.models.tab import ModelCard, facts_of
from mistudio.gui.tabs.models.viewer import ArchitectureViewer
from mistudio.store.records import ModelRow
from mistudio.store.tables import JOBS, MODELS
from tests.helpers.tiny import save_tiny_llama


@pytest.fixture
def tab(qtbot: QtBot, services: Services) -> ModelsTab:
    services.lanes.start()
    made = ModelsTab(services)
    qtbot.addWidget(made)
    made.resize(1240, 560)
    made.show()
    settle(qtbot, services)
    return made


def settle(qtbot: QtBot, services: Services, until: Callable[[], bool] = lambda: True) -> None:
    """Wait until jobs and questions are done and a condition holds."""

    def done() -> bool:
        waiting = JOBS.select(services.studio.db(), "status IN ('queued', 'running')")
        return not waiting and services.lanes.is_idle() and services.query.is_idle() and until()

    qtbot.waitUntil(done, timeout=60_000)
    qtbot.wait(80)
    qtbot.waitUntil(services.query.is_idle, timeout=5000)


def add_model(services: Services, **values: Any) -> ModelRow:
    return MODELS.insert(
        services.studio.db(),
        **{"name": "tiny", "origin": "folder", "path": "/nowhere", "status": "ready", **values},
    )


def test_importing_a_folder_and_looking_into_it(
    qtbot: QtBot, tab: ModelsTab, tmp_path: Path
) -> None:
    folder = save_tiny_llama(tmp_path / "tiny-llama")
    tab.importer.form.set_values({"path": str(folder), "name": "my model"})
    tab.importer.submit()
    settle(qtbot, tab.services, lambda: len(tab._rows) == 1)
    row = MODELS.select(tab.services.studio.db())[0]
    card = tab._cards[row.id]
    assert card.name.text() == "my model"
    assert card.facts.text() == facts_of(row)
    assert card.facts.text().startswith("50.0k parameters · float32 · 199.8 kB")
    tab.open(row.id)
    viewer = tab._dialogs[row.id]
    assert isinstance(viewer, ArchitectureViewer)
    tree = viewer.tree
    names = [tree.topLevelItem(i).text(0) for i in range(tree.topLevelItemCount())]
    assert names == ["Embedding", *(f"Block {i}" for i in range(4)), "Final norm", "Output"]
    assert tree.topLevelItem(0).text(2) == "400 × 32"
    block = tree.topLevelItem(1)
    assert [block.child(i).text(0) for i in range(2)] == ["self_attn", "mlp"]
    assert block.text(4) == f"{row.layer_map['tree'][1]['params']:,}"
    assert json.loads(viewer.raw.toPlainText())["num_hidden_layers"] == 4
    texts = {found.text() for found in viewer.findChildren(QLabel)}
    assert {"model.layers.3", "model.layers.3.mlp", "4 / 2"} <= texts
    qtbot.keyClick(viewer, Qt.Key.Key_Escape)
    assert not viewer.isVisible()


def folder_without_config(folder: Path) -> None:
    (folder / "notes.txt").write_text("nothing here")


def encoder_only(folder: Path) -> None:
    config = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 8}
    (folder / "config.json").write_text(json.dumps(config))


def truncated(folder: Path) -> None:
    save_tiny_llama(folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (folder_without_config, "no config.json"),
        (encoder_only, "a left-to-right model is needed"),
        (truncated, "model.safetensors"),
    ],
)
def test_wrong_folders_are_sentences_without_debris(
    qtbot: QtBot,
    tab: ModelsTab,
    tmp_path: Path,
    make: Callable[[Path], None],
    words: str,
) -> None:
    folder = tmp_path / "wrong"
    folder.mkdir()
    make(folder)
    tab.importer.form.set_values({"path": str(folder), "copy": True})
    tab.importer.submit()
    settle(qtbot, tab.services, tab.importer.problem.isVisible)
    assert words in tab.importer.problem.text()
    studio = tab.services.studio
    assert MODELS.select(studio.db()) == []
    assert list((studio.paths.home / "models").glob("*")) == []


def test_missing_path_is_told_at_once(tab: ModelsTab) -> None:
    tab.importer.form.set_values({"path": "/no/such/model"})
    tab.importer.submit()
    assert tab.importer.problem.text() == "There is no file or folder '/no/such/model'."
    assert JOBS.select(tab.services.studio.db()) == []


def test_only_the_loaded_model_can_be_unloaded(
    qtbot: QtBot, tab: ModelsTab, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, other = add_model(tab.services), add_model(tab.services, name="other")
    monkeypatch.setattr(tab.services.studio.models, "_name", "tiny")
    tab.refresh()
    settle(qtbot, tab.services, lambda: len(tab._cards) == 2)
    cards = {key: card for key, card in tab._cards.items() if isinstance(card, ModelCard)}
    assert cards[held.id].unload.isVisible()
    assert cards[held.id].pill.state() == "loaded"
    assert not cards[other.id].unload.isVisible()
    cards[held.id].unload.click()
    settle(qtbot, tab.services, lambda: not cards[held.id].unload.isVisible())
    assert tab.services.studio.models.name == ""
    assert cards[held.id].pill.state() == "ready"


def test_deleting_leaves_files_that_are_used_in_place(
    qtbot: QtBot, tab: ModelsTab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "mine.gguf"
    weights.write_bytes(b"GGUF")
    row = add_model(tab.services, path=str(weights), origin="gguf")
    tab.refresh()
    settle(qtbot, tab.services, lambda: row.id in tab._cards)
    asked: list[str] = []
    monkeypatch.setattr(
        "mistudio.gui.tabs.library.deleting.confirm",
        lambda parent, title, sentence: not asked.append(sentence),
    )
    tab._cards[row.id].delete.click()
    settle(qtbot, tab.services, lambda: not tab._rows)
    assert asked == ["Only the entry goes; its files stay where they are."]
    assert weights.exists()


def test_select_opens_the_viewer(qtbot: QtBot, tab: ModelsTab) -> None:
    row = add_model(tab.services)
    tab.select(model=row.id)
    settle(qtbot, tab.services, lambda: row.id in tab._dialogs)
    viewer = tab._dialogs[row.id]
    assert viewer.isVisible()
    tab.open(row.id)
    assert tab._dialogs[row.id] is viewer
    viewer.close()
