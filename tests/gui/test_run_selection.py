"""Several runs ticked, one question, all of them gone."""

from __future__ import annotations

from typing import Any

import pytest
from pytestqt.qtbot import QtBot

from mistudio.gui.services import Services
from mistudio.gui.tabs.training import TrainingTab, run_selection
from mistudio.store.tables import TRAININGS
from tests.gui.training_world import add_training, add_world


@pytest.fixture
def tab(qtbot: QtBot, services: Services) -> TrainingTab:
    world = add_world(services.studio.db())
    for name, status in (("a", "completed"), ("b", "failed"), ("c", "stopped"), ("d", "training")):
        add_training(services.studio.db(), world, status, name=name)
    made = TrainingTab(services)
    qtbot.addWidget(made)
    made.resize(1240, 640)
    made.show()
    qtbot.waitUntil(services.query.is_idle)
    return made


def named(tab: TrainingTab) -> dict[str, Any]:
    return {card.run.training.name: card for card in tab.runs.list.cards.values()}


def test_ticked_runs_go_after_one_question(
    qtbot: QtBot,
    services: Services,
    window_stub: Any,
    tab: TrainingTab,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, str]] = []
    answers = [False, True]

    def confirm(parent: Any, title: str, sentence: str) -> bool:
        asked.append((title, sentence))
        return answers[len(asked) - 1]

    monkeypatch.setattr(run_selection, "confirm", confirm)
    selection, db = tab.runs.list.selection, services.studio.db()
    cards = named(tab)
    assert selection.isHidden()
    assert all(card.tick.isHidden() for card in cards.values())
    selection.toggle.click()
    assert not cards["d"].tick.isEnabled()  # at work
    assert not selection.delete_button.isEnabled()
    selection.tick_all()
    assert selection.delete_button.text() == "Delete 3 …"
    cards["c"].tick.setChecked(False)
    tab.runs.list.refresh()  # what is ticked stays
    qtbot.waitUntil(services.query.is_idle)
    assert selection.told.text() == "2 ticked"
    for _ in answers:
        selection.delete_button.click()
        qtbot.waitUntil(services.query.is_idle)
        qtbot.waitUntil(services.query.is_idle)
    assert [title for title, _ in asked] == ["Delete 2 runs?"] * 2
    assert "“c”" not in asked[1][1]
    qtbot.waitUntil(lambda: len(TRAININGS.select(db)) == 2)
    qtbot.waitUntil(lambda: set(named(tab)) == {"c", "d"})
    qtbot.waitUntil(lambda: window_stub.banners == ["2 runs are deleted."])
    assert selection.isHidden()
    assert not named(tab)["c"].tick.isChecked()
    clicked, ended = window_stub.undone["2 runs are deleted."]
    clicked()
    ended()
    qtbot.waitUntil(lambda: set(named(tab)) == {"a", "b", "c", "d"})
    qtbot.waitUntil(services.query.is_idle)


def test_a_run_that_starts_to_work_loses_its_tick(
    qtbot: QtBot, services: Services, tab: TrainingTab
) -> None:
    selection, card = tab.runs.list.selection, named(tab)["a"]
    selection.toggle.click()
    card.tick.setChecked(True)
    TRAININGS.update(services.studio.db(), card.run.training.id, status="training")
    tab.runs.list.refresh()
    qtbot.waitUntil(services.query.is_idle)
    assert selection.chosen() == []
    assert selection.told.text() == "Tick the runs to delete"
    selection.toggle.click()
    assert card.tick.isHidden()
