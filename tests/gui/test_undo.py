"""Deletions in the Features tab are taken back for ten seconds, and are final after that."""

from __future__ import annotations

from pathlib import Path

import pytest
from pytestqt.qtbot import QtBot

from mistudio.gui.services import Services
from mistudio.gui.tabs.features import feature_sets, lists_dialog, views_menu
from mistudio.gui.tabs.features.lists_dialog import ListsDialog
from mistudio.gui.widgets.banner import BannerArea
from mistudio.jobs import deletion, feature_pages
from mistudio.store import feature_lists, feature_views
from mistudio.store.tables import FEATURE_SETS
from tests.gui import feature_world
from tests.gui.conftest import Window
from tests.gui.test_features_tab import settle, shown_tab


@pytest.fixture(autouse=True)
def agreed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every question is answered with yes."""
    for module in (feature_sets, lists_dialog, views_menu):
        monkeypatch.setattr(module, "confirm", lambda *_: True)


def test_a_list_and_a_view_come_back(services: Services, qtbot: QtBot, window_stub: Window) -> None:
    world, db = feature_world.add_world(services.studio.db()), services.studio.db()
    made = feature_lists.create(db, "places", "of the map")
    feature_lists.add(db, made.id, world.sae.id, [5, 3])
    feature_lists.set_note(db, made.id, world.sae.id, 3, "cold")
    before = feature_lists.items(db, made.id)
    feature_views.save(db, "map", {"sort": "max"})
    tab = shown_tab(services, qtbot)
    dialog = ListsDialog(services, tab)
    settle(tab, qtbot)
    dialog._on_delete()
    settle(tab, qtbot)
    assert feature_lists.lists(db) == []
    clicked, ended = window_stub.undone["The list “places” is deleted."]
    clicked()
    ended()
    settle(tab, qtbot)
    assert feature_lists.items(db, made.id) == before
    assert dialog.names.count() == 1
    dialog.close()
    last = tab.table.views.views_menu.actions()[-1]  # held: its menu goes with it in some versions
    last.menu().actions()[0].trigger()  # Delete ▸ map
    settle(tab, qtbot)
    assert feature_views.views(db) == []
    clicked, ended = window_stub.undone["The view “map” is deleted."]
    feature_views.save(db, "map", {"sort": "mean"})
    clicked()
    ended()
    settle(tab, qtbot)
    assert "cannot be undone" in window_stub.banners[-1]
    (view,) = feature_views.views(db)
    assert view.config["sort"] == "mean"


def test_a_feature_set_comes_back_or_its_files_go(
    services: Services, qtbot: QtBot, window_stub: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_pages, "page", feature_world.page)
    world, db = feature_world.add_world(services.studio.db()), services.studio.db()
    folder: Path = services.studio.paths.feature_set(world.feature_set.id)
    folder.mkdir(parents=True)
    tab = shown_tab(services, qtbot)
    said = "The feature set is deleted."

    def delete() -> None:
        tab.sets._on_delete()
        qtbot.waitUntil(lambda: said in window_stub.undone, timeout=4000)
        settle(tab, qtbot)

    delete()
    assert feature_pages.features.newest_set(db, world.sae.id) is None
    assert folder.exists()
    clicked, ended = window_stub.undone.pop(said)
    clicked()
    ended()
    settle(tab, qtbot)
    assert feature_pages.features.newest_set(db, world.sae.id) is not None
    tab._reload()
    settle(tab, qtbot)
    delete()
    window_stub.undone.pop(said)[1]()
    settle(tab, qtbot)
    assert FEATURE_SETS.find(db, world.feature_set.id) is None
    assert not folder.exists()


def test_a_set_left_aside_by_an_ended_program_goes_later(services: Services) -> None:
    world, db = feature_world.add_world(services.studio.db()), services.studio.db()
    deletion.set_aside_feature_set(services.studio, world.feature_set.id)
    deletion.finish_what_was_set_aside(services.studio)
    assert FEATURE_SETS.find(db, world.feature_set.id) is not None, "a window may still undo it"
    db.execute("UPDATE feature_sets SET updated_at = '2020-01-01T00:00:00.000000+00:00'")
    deletion.finish_what_was_set_aside(services.studio)
    assert FEATURE_SETS.find(db, world.feature_set.id) is None


def test_a_banner_with_a_time_goes_by_itself_and_tells(qtbot: QtBot) -> None:
    area, told = BannerArea(), list[str]()
    qtbot.addWidget(area)
    area.show_banner("Deleted.", action="Undo", seconds=0.2, ended=lambda: told.append("ended"))
    area.show_banner("Other news.")
    assert [banner.sentence for banner in area.banners()] == ["Deleted.", "Other news."]
    qtbot.waitUntil(lambda: told == ["ended"], timeout=4000)
    assert [banner.sentence for banner in area.banners()] == ["Other news."]
