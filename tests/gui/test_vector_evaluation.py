"""What the window offers for an SAE of vectors that have no language model."""

from __future__ import annotations

from typing import Any

import pytest
from PySide6.QtWidgets import QWidget

from mistudio.core.configs import EvaluateConfig
from mistudio.core.sae_figures import NO_MODEL
from mistudio.gui.services import Services
from mistudio.gui.tabs.training.evaluation_pane import EvaluationPane
from mistudio.gui.tabs.training.library_view import LibraryView
from mistudio.gui.tabs.training.sae_forms import evaluate_form
from mistudio.store.records import SaeRow
from tests.gui.training_world import World, add_sae, add_world

SETTINGS = {"activations": "act_1", "model": ""}


@pytest.fixture
def world(services: Services) -> World:
    return add_world(services.studio.db())


@pytest.fixture
def sent(services: Services, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    monkeypatch.setattr(
        services.studio,
        "submit",
        lambda kind, config, title="": found.append((kind, config)) or "job_1",
    )
    return found


def add_one(services: Services, world: World, name: str, **values: Any) -> SaeRow:
    bare = {"model_id": None, "model_name": None, "layer": None, "hook_in": None}
    return add_sae(services.studio.db(), world, name, **{**bare, **values})


def test_it_is_measured_without_a_text(
    qtbot: Any, services: Services, world: World, sent: list[Any]
) -> None:
    figures = {"ev": 0.8, "n": 150}
    row = add_one(services, world, "of vectors", config=SETTINGS, evaluation=figures)
    pane = EvaluationPane(services)
    qtbot.addWidget(pane)
    pane.show()
    pane.show_sae(row)
    assert pane.empty.text() == NO_MODEL
    assert pane.evaluate_button.isVisible()
    assert not pane.other_button.isVisible()
    pane.evaluate_button.click()
    window = QWidget()
    qtbot.addWidget(window)
    form = evaluate_form(services, row, window)
    assert list(form.form.fields) == ["tokens"]
    form.start()
    assert sent == [("evaluate", EvaluateConfig(sae=row.id))] * 2
    pane.show_sae(add_sae(services.studio.db(), world, "of a model", evaluation=figures))
    assert pane.empty.text() == ""
    assert pane.other_button.isVisible()


def test_the_library_offers_it_only_for_those_trained_here(
    qtbot: Any, services: Services, world: World
) -> None:
    mine = add_one(services, world, "mine", config=SETTINGS)
    foreign = add_one(services, world, "foreign", origin="imported")
    library = LibraryView(services)
    qtbot.addWidget(library)
    library.show()
    qtbot.waitUntil(lambda: library.model.position(mine.id) is not None)
    for row, offered in ((mine, True), (foreign, False)):
        library.select(row.id)
        qtbot.waitUntil(lambda row=row: (found := library.current()) and found.id == row.id)
        wanted = {"export": True, "evaluate": offered, "features": False, "steer": False}
        qtbot.waitUntil(
            lambda wanted=wanted: (
                {name: library.buttons[name].isEnabled() for name in wanted} == wanted
            )
        )
