"""The Models tab over a real studio: import, wrong inputs, the viewer, unloading, deletion."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QLabel
from pytestqt.qtbot import QtBot

from mistudio.core.configs import SAE_HOOKS
from mistudio.core.errors import OutOfMemory
from mistudio.gui.services import Services
from mistudio.gui.tabs.models import ModelsTab
from mistudio.gui.tabs.models.card import ModelCard, facts_of
from mistudio.gui.tabs.models.viewer import ArchitectureViewer
from mistudio.jobs.registry import JOB_KINDS
from mistudio.store.tables import JOBS, MODELS
from tests.gui.model_world import add_model, answer_jobs, open_tab, settle
from tests.helpers.tiny import save_tiny_llama


@pytest.fixture
def tab(qtbot: QtBot, services: Services) -> ModelsTab:
    made = open_tab(qtbot, services)
    made.sources.open("files")
    return made


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
    assert card.facts.text().startswith("50.0k parameters · FP32 · 199.8 kB")
    tab.open(row.id)
    viewer = tab._dialogs[row.id]
    assert isinstance(viewer, ArchitectureViewer)
    tree = viewer.tree
    names = [tree.topLevelItem(i).text(1) for i in range(tree.topLevelItemCount())]
    assert [name.split(" · ")[0] for name in names] == [
        "Embedding",
        *(f"Block {i}" for i in range(4)),
        "Final norm",
        "Output",
    ]
    assert tree.topLevelItem(0).text(2) == "400 × 32"
    block = tree.topLevelItem(1)
    inside = [block.child(i).text(1) for i in range(block.childCount())]
    assert inside[:2] == ["self_attn · LlamaAttention", "mlp · LlamaMLP"]
    hooks = [text.split(" · ")[0] for text in inside[-7:]]
    assert sorted(hooks) == sorted([*SAE_HOOKS, "mlp_in"])
    assert "4 heads × 8" in block.text(1)
    assert block.text(4) == f"{row.layer_map['tree'][1]['params']:,}"
    assert json.loads(viewer.raw.toPlainText())["num_hidden_layers"] == 4
    texts = {found.text() for found in viewer.findChildren(QLabel)}
    assert {"model.layers.3", "model.layers.3.mlp", "4 / 2", "llama", "MLP ratio"} <= texts
    qtbot.keyClick(viewer, Qt.Key.Key_Escape)
    assert not viewer.isVisible()


def folder_without_config(folder: Path) -> None:
    (folder / "notes.txt").write_text("nothing here")


def encoder_without_weights(folder: Path) -> None:
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
        (encoder_without_weights, "a left-to-right model is needed"),
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
    monkeypatch.setattr(tab.services.studio.models, "_id", held.id)
    tab.refresh()
    settle(qtbot, tab.services, lambda: len(tab._cards) == 2)
    cards = {key: card for key, card in tab._cards.items() if isinstance(card, ModelCard)}
    assert cards[held.id].load.text() == "Unload"
    assert cards[held.id].pill.state() == "loaded"
    assert cards[other.id].load.text() == "Load"
    cards[held.id].load.click()
    settle(qtbot, tab.services, lambda: cards[held.id].load.text() == "Load")
    assert tab.services.studio.models.model_id == ""
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


def test_an_encoder_can_only_be_looked_at(qtbot: QtBot, tab: ModelsTab, tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    folder = tmp_path / "bert"
    config = BertConfig(
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=20,
        intermediate_size=16,
    )
    BertModel(config).save_pretrained(folder)
    tab.importer.form.set_values({"path": str(folder)})
    tab.importer.submit()
    settle(qtbot, tab.services, lambda: len(tab._rows) == 1)
    row = MODELS.select(tab.services.studio.db())[0]
    card = tab._cards[row.id]
    assert isinstance(card, ModelCard)
    assert card.pill.state() == "incompatible"
    assert "a left-to-right model is needed" in card.extra.text()
    assert not card.extract.isVisible()
    assert card.load.text() == "Check again"
    tab.open(row.id)
    viewer = tab._dialogs[row.id]
    texts = " ".join(found.text() for found in viewer.findChildren(QLabel))
    assert "can only be looked at" in texts
    viewer.close()


def test_filters_by_state_architecture_and_text(qtbot: QtBot, tab: ModelsTab) -> None:
    add_model(tab.services, name="one", architecture="GPT2LMHeadModel")
    add_model(tab.services, name="two", architecture="LlamaForCausalLM", format="nf4")
    add_model(tab.services, name="bad", architecture="LlamaForCausalLM", status="error")
    tab.refresh()
    settle(qtbot, tab.services, lambda: len(tab._rows) == 3)

    def names() -> set[str]:
        shown = tab.grid.keys()
        return {tab._by_id[key].name for key in shown}

    further = tab.filters.further
    further.setCurrentIndex(further.findData("LlamaForCausalLM"))
    assert names() == {"two", "bad"}
    tab.filters.state.setCurrentIndex(tab.filters.state.findData("failed"))
    assert names() == {"bad"}
    tab.filters.clear()
    tab.filters.search.setText("nf4")
    tab._arrange()
    assert names() == {"two"}


def test_a_model_that_needs_code_asks_first(
    qtbot: QtBot, tab: ModelsTab, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answer_jobs(monkeypatch, "check_model", {})
    row = add_model(
        tab.services, status="error", error_code="needs_code", error_message="It runs code."
    )
    tab.refresh()
    settle(qtbot, tab.services, lambda: row.id in tab._cards)
    card = tab._cards[row.id]
    assert isinstance(card, ModelCard)
    assert card.extra.text() == "It runs code."
    answers = [False, True]
    monkeypatch.setattr("mistudio.gui.tabs.models.tab.confirm", lambda *a, **k: answers.pop(0))
    card.allow.click()
    assert JOBS.select(tab.services.studio.db()) == []
    card.allow.click()
    settle(qtbot, tab.services, lambda: len(asked) == 1)
    assert (asked[0].model, asked[0].allow_code) == (row.id, True)


def test_two_hundred_models_make_only_the_cards_in_view(qtbot: QtBot, tab: ModelsTab) -> None:
    with tab.services.studio.db().atomic():
        for number in range(200):
            add_model(tab.services, name=f"model {number:03}", params_count=number)
    tab.refresh()
    settle(qtbot, tab.services, lambda: len(tab.grid.keys()) == 200)
    assert 0 < len(tab._cards) < 20
    bar = tab.page.verticalScrollBar()
    bar.setValue(bar.maximum())
    qtbot.wait(20)
    last = tab.grid.keys()[-1]
    assert last in tab.grid.in_view()
    assert tab._cards[last].name.text() == "model 000"


def test_out_of_memory_offers_the_next_smaller_format(
    qtbot: QtBot, tab: ModelsTab, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = add_model(tab.services, format="bf16")
    asked: list[Any] = []

    def run(ctx: Any, config: Any) -> dict[str, Any]:
        asked.append(config)
        raise OutOfMemory("BF16 needs 9.1 GB, 6.0 GB are free.")

    known = dataclasses.replace(JOB_KINDS["check_model"], run=run, prepare=None)
    monkeypatch.setitem(JOB_KINDS, "check_model", known)
    shown: list[dict[str, Any]] = []

    def banner(sentence: str, **more: Any) -> None:
        shown.append({"sentence": sentence, **more})

    object.__setattr__(tab.services, "banner", banner)
    tab.refresh()
    settle(qtbot, tab.services, lambda: row.id in tab._cards)
    tab.act_on(row.id, "load")
    settle(qtbot, tab.services, lambda: len(shown) == 1)
    assert shown[0]["sentence"] == "BF16 needs 9.1 GB, 6.0 GB are free."
    assert shown[0]["action"] == "Use INT8"
    assert len(asked) == 1  # nothing switches by itself
    shown[0]["clicked"]()
    settle(qtbot, tab.services, lambda: len(asked) == 2)
    assert (asked[1].model, asked[1].format) == (row.id, "int8")
