"""The feature table's columns, conditions, views, several rows at once, and lists."""

from __future__ import annotations

import dataclasses
from typing import Any

import pyarrow.compute  # noqa: F401 - loaded before, as a test waits for five seconds only
import pytest
from PySide6.QtCore import QItemSelectionModel, Qt
from pytestqt.qtbot import QtBot

from mistudio.gui import ask
from mistudio.gui.services import Services
from mistudio.gui.tabs.features.columns import DEFAULT
from mistudio.gui.tabs.features.lists_dialog import NOTE, ListsDialog
from mistudio.gui.tabs.features.tab import FeaturesTab
from mistudio.jobs import context_search, encoders, feature_pages
from mistudio.jobs.context_search import TextMatches
from mistudio.jobs.feature_pages import Piece
from mistudio.store import feature_lists, feature_marks, features
from mistudio.store.feature_conditions import (
    HasColour,
    HasFlag,
    InList,
    LabelState,
    Matches,
    NumberRange,
)
from mistudio.store.tables import JOBS
from tests.gui import feature_world
from tests.gui.test_features_tab import listed, settle, shown_tab

LIVE = [index for index in range(64) if index % 8 != 7]


def select(tab: FeaturesTab, *indices: int) -> None:
    """Select rows as with Ctrl and clicks."""
    view = tab.table.view
    view.clearSelection()
    for index in indices:
        place = view.rows.index(view.rows.position(index), 0)
        flags = QItemSelectionModel.SelectionFlag.Select | QItemSelectionModel.SelectionFlag.Rows
        view.selectionModel().select(place, flags)


def headings(tab: FeaturesTab) -> list[str]:
    by_name = {c.sort_key or "example": c.title for c in tab.table.model.columns}
    return [by_name[name] for name in tab.table.chooser.shown()]


def test_columns_are_chosen_moved_and_remembered(services: Services, qtbot: QtBot) -> None:
    feature_world.add_world(services.studio.db())
    tab = shown_tab(services, qtbot)
    assert tab.table.chooser.shown() == list(DEFAULT)
    tab.table.chooser.choose("skew", True)
    tab.table.chooser.choose("max", False)
    header = tab.table.view.horizontalHeader()
    header.moveSection(header.visualIndex(1), 0)  # the id before the star
    assert headings(tab)[:2] == ["ID", "★"]
    assert "Skew" in headings(tab)
    assert "Max" not in headings(tab)
    assert tab.table.model.index(0, 0).data() is not None
    again = shown_tab(services, qtbot)
    assert headings(again) == headings(tab)
    again.table.chooser._on_usual()
    assert again.table.chooser.shown() == list(DEFAULT)
    names = [action.text() for action in _filled(again.table.chooser.menu)]
    assert "Kurtosis" in names
    assert "Match" not in names, "it shows itself when there is a search that gives it"


def _filled(menu: Any) -> list[Any]:
    menu.aboutToShow.emit()
    return menu.actions()


def test_unknown_figures_are_a_dash(services: Services, qtbot: QtBot) -> None:
    feature_world.add_world(services.studio.db())
    tab = shown_tab(services, qtbot)
    names = [c.sort_key for c in tab.table.model.columns]
    for name in ("skew", "kurtosis", "mean_all", "top_token", "top_token_share", "negative"):
        assert tab.table.model.index(0, names.index(name)).data() == "—", name


def test_conditions_narrow_and_combine(services: Services, qtbot: QtBot) -> None:
    feature_world.add_world(services.studio.db())
    tab = shown_tab(services, qtbot)
    chips = tab.table.filters.chips
    chips.add(NumberRange("max"))
    settle(tab, qtbot)
    assert listed(tab) == LIVE, "an empty range narrows nothing"
    chips.chips[0].boxes[0].lineEdit().setText("8")
    qtbot.waitUntil(lambda: listed(tab) == [i for i in LIVE if i % 5 == 4], timeout=4000)
    assert not chips.joined.isVisible()
    chips.add(Matches("tokens", "whale"))
    settle(tab, qtbot)
    assert listed(tab) == [i for i in LIVE if i % 5 == 4 and i % 10 == 1]
    assert chips.joined.isVisible()
    chips.joined.setCurrentIndex(1)
    settle(tab, qtbot)
    assert listed(tab) == [i for i in LIVE if i % 5 == 4 or i % 10 == 1]
    chips.chips[1].line.setText("(")
    qtbot.waitUntil(tab.table.problem.isVisible, timeout=4000)
    assert "no regular expression" in tab.table.problem.text()
    chips.chips[1]._remove()
    settle(tab, qtbot)
    assert listed(tab) == [i for i in LIVE if i % 5 == 4]
    assert not tab.table.problem.isVisible()
    again = shown_tab(services, qtbot)
    assert listed(again) == listed(tab), "remembered"


def test_colours_mark_filter_and_are_named(
    services: Services, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_pages, "page", feature_world.page)
    world = feature_world.add_world(services.studio.db())
    tab = shown_tab(services, qtbot)
    select(tab, 1, 4)
    tab.table.marks.paint("green")
    settle(tab, qtbot)
    model = tab.table.model
    cell = model.index(model.position(4), 1)
    qtbot.waitUntil(lambda: model.data(cell) == "● #4", timeout=4000)
    assert model.data(cell, Qt.ItemDataRole.ToolTipRole) == "Marked green"
    assert model.data(cell, Qt.ItemDataRole.ForegroundRole).name() == "#34d399"
    tab.table.filters.chips.add(HasColour("any"))
    settle(tab, qtbot)
    assert listed(tab) == [1, 4]
    tab.open_feature(1)
    settle(tab, qtbot)
    assert tab.detail is not None
    button = tab.detail.head.colour
    assert button.text() == "Green"
    button.colour_menu.aboutToShow.emit()
    names = [action.text() for action in button.colour_menu.actions()]
    assert names == ["Red", "Yellow", "Green", "Blue", "Purple", "No colour"]
    assert [action.isChecked() for action in button.colour_menu.actions()].index(True) == 2
    button.colour_menu.actions()[-1].trigger()
    settle(tab, qtbot)
    assert button.text() == "Colour"
    row = features.feature_rows(services.studio.db(), world.feature_set, [1])[0]
    assert row.colour is None
    tab.detail.close()


def test_percentages_are_bounded_as_such(services: Services, qtbot: QtBot) -> None:
    feature_world.add_world(services.studio.db())
    tab = shown_tab(services, qtbot)
    chips = tab.table.filters.chips
    chips.add(NumberRange("frequency", 0.05, None))
    settle(tab, qtbot)
    assert chips.chips[0].boxes[0].text_value() == "5"
    assert listed(tab) == [0, 1, 2, 3]


def test_flags_and_labels_as_conditions(services: Services, qtbot: QtBot) -> None:
    world = feature_world.add_world(services.studio.db())
    feature_marks.set_label(services.studio.db(), world.sae.id, 5, "snow")
    tab = shown_tab(services, qtbot)
    chips = tab.table.filters.chips
    tab.table.filters.live.setCurrentIndex(1)
    chips.add(HasFlag("dead"))
    settle(tab, qtbot)
    assert listed(tab) == [i for i in range(64) if i % 8 == 7]
    chips.chips[0].combos[0].setCurrentIndex(1)  # is not
    qtbot.waitUntil(lambda: listed(tab) == LIVE, timeout=4000)
    chips.add(LabelState("user"))
    settle(tab, qtbot)
    assert listed(tab) == [5]


def test_views_hold_columns_order_and_filters(
    services: Services, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    feature_world.add_world(services.studio.db())
    tab = shown_tab(services, qtbot)
    tab.table.chooser.choose("kurtosis", True)
    names = [c.sort_key for c in tab.table.model.columns]
    tab.table.view.sortByColumn(names.index("index"), Qt.SortOrder.AscendingOrder)
    tab.table.filters.chips.add(NumberRange("max", 8.0))
    settle(tab, qtbot)
    before = listed(tab)
    monkeypatch.setattr(ask, "text", lambda *a, **k: ("strong ones", True))
    tab.table.views._on_save()
    settle(tab, qtbot)
    tab.table._on_usual()
    settle(tab, qtbot)
    assert listed(tab) == LIVE
    assert tab.table.chooser.shown() == list(DEFAULT)
    action = next(a for a in tab.table.views.views_menu.actions() if a.text() == "strong ones")
    action.trigger()
    settle(tab, qtbot)
    assert listed(tab) == before
    assert "Kurtosis" in headings(tab)
    monkeypatch.setattr(ask, "text", lambda *a, **k: ("", True))
    tab.table.views._on_save()
    settle(tab, qtbot)
    assert "1 to 255" in tab.table.problem.text()


def test_a_list_that_is_deleted_takes_its_filters_along_and_says_so(
    services: Services, qtbot: QtBot
) -> None:
    said: list[str] = []
    banner = lambda sentence, **_: said.append(sentence)  # noqa: E731
    services = dataclasses.replace(services, banner=banner)
    world = feature_world.add_world(services.studio.db())
    db = services.studio.db()
    held, other = feature_lists.create(db, "places"), feature_lists.create(db, "people")
    feature_lists.add(db, held.id, world.sae.id, [3, 5])
    feature_lists.add(db, other.id, world.sae.id, [9])
    tab = shown_tab(services, qtbot)
    tab.table.filters.chips.add(InList(held.id))
    settle(tab, qtbot)
    assert listed(tab) == [3, 5]
    tab.table.views.save("map")
    settle(tab, qtbot)
    feature_lists.delete(db, held.id)
    services.publisher.publish("feature_lists", "")
    settle(tab, qtbot)
    qtbot.waitUntil(lambda: listed(tab) == LIVE, timeout=4000)
    assert tab.table.filters.chips.conditions() == ()
    assert said == ["The list “places” is gone; the filter by it was left out."]
    view = next(a for a in tab.table.views.views_menu.actions() if a.text() == "map")
    view.trigger()
    settle(tab, qtbot)
    assert listed(tab) == LIVE
    assert "“map” narrows by “places”" in said[-1]


def test_several_rows_are_starred_hidden_and_listed_at_once(
    services: Services, qtbot: QtBot
) -> None:
    world = feature_world.add_world(services.studio.db())
    db = services.studio.db()
    tab = shown_tab(services, qtbot)
    select(tab, 3, 5, 6)
    assert tab.table._footer.text().startswith("3 selected")
    tab.table.marks.star()
    settle(tab, qtbot)
    rows = features.feature_rows(db, world.feature_set, [3, 4, 5, 6])
    assert [row.is_favorite for row in rows] == [True, False, True, True]
    assert tab.table.model.index(tab.table.model.position(3), 0).data() == "★"
    select(tab, 3, 5)
    tab.table.marks.star()
    settle(tab, qtbot)
    rows = features.feature_rows(db, world.feature_set, [3, 5, 6])
    assert [row.is_favorite for row in rows] == [False, False, True]
    select(tab, 10, 12)
    tab.table.lists.create_list("cold")
    settle(tab, qtbot)
    (made,) = feature_lists.lists(db)
    assert (made.name, made.count) == ("cold", 2)
    tab.table.filters.chips.add(InList(made.id))
    settle(tab, qtbot)
    assert listed(tab) == [10, 12]
    select(tab, 10, 12)
    tab.table.marks.hide()
    tab.table.reload()
    settle(tab, qtbot)
    assert listed(tab) == []


def test_lists_of_a_feature_in_its_window_and_in_theirs(
    services: Services, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_pages, "page", feature_world.page)
    world = feature_world.add_world(services.studio.db())
    db = services.studio.db()
    made = feature_lists.create(db, "cold", "winters")
    feature_lists.add(db, made.id, world.sae.id, [2])
    tab = shown_tab(services, qtbot)
    tab.open_feature(2)
    settle(tab, qtbot)
    detail = tab.detail
    assert detail is not None
    assert detail.lists.text() == "Lists (1)"
    detail.go_next()
    settle(tab, qtbot)
    assert detail.lists.text() == "Lists"
    detail.lists.put(made.id, True)
    settle(tab, qtbot)
    assert detail.lists.text() == "Lists (1)"
    detail.close()
    tab.show_lists()
    settle(tab, qtbot)
    dialog = tab.findChild(ListsDialog)
    assert dialog is not None
    assert dialog.names.item(0).text() == "cold  (2)"
    assert dialog.about.text() == "winters · 2 features"
    cell = dialog.table.item(1, NOTE)
    assert cell is not None
    cell.setText("the second")
    settle(tab, qtbot)
    assert [item.note for item in feature_lists.items(db, made.id)] == ["", "the second"]
    dialog.table.selectRow(0)
    dialog.remove()
    settle(tab, qtbot)
    assert [item.feature for item in feature_lists.items(db, made.id)] == [3]
    monkeypatch.setattr(ask, "text", lambda *a, **k: ("warm", True))
    dialog._on_rename()
    settle(tab, qtbot)
    assert dialog.names.item(0).text() == "warm  (1)"
    dialog._on_new()
    settle(tab, qtbot)
    assert "already" in dialog.problem.text()
    dialog.close()


def test_search_by_text_ranks_and_says_how(
    services: Services, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    feature_world.add_world(services.studio.db())
    asked: list[tuple[str, bool]] = []

    def search(studio: Any, sae: Any, text: str, *, rare: bool = False) -> TextMatches:
        asked.append((text, rare))
        return TextMatches([12, 3, 7, 20], [0.9, 0.5, 0.4, 0.1], [5, 4, 3, 2], 12_345, 10_000)

    monkeypatch.setattr(context_search, "is_indexed", lambda *_: True)
    monkeypatch.setattr(context_search, "search", search)
    tab = shown_tab(services, qtbot)
    filters = tab.table.filters
    filters.mode.setCurrentIndex(1)
    settle(tab, qtbot)
    assert listed(tab) == LIVE, "nothing was asked yet"
    filters.search.setText("the king")
    qtbot.keyClick(filters.search, Qt.Key.Key_Return)
    settle(tab, qtbot)
    assert listed(tab) == [12, 3, 20], "in the order of the match; 7 never fires"
    assert "12,345 occurrences, 10,000 of them read" in tab.table.finder.told.text()
    column = [c.sort_key for c in tab.table.model.columns].index("match")
    assert not tab.table.view.isColumnHidden(column)
    assert tab.table.model.index(0, column).data() == "0.900"
    tab.table._on_sort("index", False)
    settle(tab, qtbot)
    assert listed(tab) == [3, 12, 20]
    tab.table.finder.rare.setChecked(True)
    settle(tab, qtbot)
    assert asked == [("the king", False), ("the king", True)]
    filters.mode.setCurrentIndex(0)
    filters.search.clear()
    settle(tab, qtbot)
    assert tab.table.view.isColumnHidden(column)


def test_a_text_that_is_not_indexed_is_indexed_by_a_job(
    services: Services, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = feature_world.add_world(services.studio.db())
    monkeypatch.setattr(context_search, "is_indexed", lambda *_: False)
    tab = shown_tab(services, qtbot)
    filters = tab.table.filters
    filters.mode.setCurrentIndex(1)
    filters.search.setText("king")
    qtbot.keyClick(filters.search, Qt.Key.Key_Return)
    settle(tab, qtbot)
    (job,) = JOBS.select(services.studio.db())
    assert (job.kind, job.config["sae"]) == ("index_contexts", world.sae.id)
    assert tab.table.finder.job.isVisible()
    services.lanes.finished.emit(job.id, "cancelled")
    settle(tab, qtbot)
    assert tab.table.finder.again.isVisible(), "it is not started again by itself"
    assert len(JOBS.select(services.studio.db())) == 1


def test_search_by_meaning_without_an_encoder_says_so(
    services: Services, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = feature_world.add_world(services.studio.db())
    monkeypatch.setattr(encoders, "find", lambda studio, named="": None)
    feature_marks.set_label(services.studio.db(), world.sae.id, 4, "zebras of the plain")
    tab = shown_tab(services, qtbot)
    filters = tab.table.filters
    filters.mode.setCurrentIndex(2)
    filters.search.setText("plain zebras")
    qtbot.keyClick(filters.search, Qt.Key.Key_Return)
    qtbot.waitUntil(services.network.is_idle)
    settle(tab, qtbot)
    assert listed(tab) == [4]
    assert "no sentence encoder" in tab.table.finder.told.text()
    filters.search.setText("ab")
    qtbot.keyClick(filters.search, Qt.Key.Key_Return)
    qtbot.waitUntil(services.network.is_idle)
    settle(tab, qtbot)
    assert "at least 3" in tab.table.finder.told.text()


def test_hits_by_meaning_come_in_pages_with_examples(
    services: Services, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_pages, "page", feature_world.page)

    def top(studio: Any, found: Any, indices: Any, most: int, around: int) -> Any:
        made = [feature_world.example(n, 4.0) for n in range(most)]
        for n, example in enumerate(made):  # each text twice
            example.pieces[0] = Piece(f"{n // 2}: ", 0.0, False)
        return dict.fromkeys(indices, made)

    monkeypatch.setattr(feature_pages, "top_examples", top)
    monkeypatch.setattr(encoders, "find", lambda studio, named="": None)
    world = feature_world.add_world(services.studio.db())
    for index in LIVE[:25]:
        feature_marks.set_label(services.studio.db(), world.sae.id, index, "zebras of the plain")
    tab = shown_tab(services, qtbot)
    filters, hits = tab.table.filters, tab.table.hits
    filters.mode.setCurrentIndex(2)
    filters.search.setText("zebras")
    qtbot.keyClick(filters.search, Qt.Key.Key_Return)
    qtbot.waitUntil(services.network.is_idle)
    settle(tab, qtbot)
    assert hits.isVisible()
    assert hits.place.text() == "Hits 1–20 of 25"
    ranked = listed(tab)
    assert [card.index for card in hits.cards] == ranked[:20]
    assert [text.text() for text in hits.cards[0].examples] == [
        f"{n}: an old ship of the north." for n in range(3)
    ]
    assert not tab.table.lists.isVisible(), "there is no selection to put into lists"
    hits.after.click()
    settle(tab, qtbot)
    assert [card.index for card in hits.cards if card.isVisible()] == ranked[20:]
    assert not hits.after.isEnabled()
    hits.cards[1].open_button.click()
    settle(tab, qtbot)
    assert tab.detail is not None
    assert tab.detail.index == ranked[21]
    tab.detail.close()
    tab.table.finder.examples.setChecked(False)
    assert tab.table.view.isVisible()
