"""The Features tab over a synthetic feature set: source, form, table, detail."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from pytestqt.qtbot import QtBot

from mistudio.gui.services import Services
from mistudio.gui.tabs.features.columns import example_line
from mistudio.gui.tabs.features.detail import LENS, STATISTICS
from mistudio.gui.tabs.features.example_card import View
from mistudio.gui.tabs.features.example_column import Line
from mistudio.gui.tabs.features.statistics_page import density
from mistudio.gui.tabs.features.tab import FIND, NO_SAE, TABLE, FeaturesTab
from mistudio.jobs import feature_pages
from mistudio.store import features, jobs
from mistudio.store.jobs import JobState
from mistudio.store.tables import FEATURE_SETS, JOBS
from tests.gui import feature_world
from tests.gui.conftest import Window


def shown_tab(services: Services, qtbot: QtBot) -> FeaturesTab:
    tab = FeaturesTab(services)
    qtbot.addWidget(tab)
    tab.resize(1240, 560)
    tab.show()
    settle(tab, qtbot)
    return tab


def settle(tab: FeaturesTab, qtbot: QtBot) -> None:
    """Until every question is answered, those included that answers asked."""
    for _ in range(4):
        qtbot.waitUntil(lambda: tab.services.query.is_idle() and not tab._soon.isActive())
        qtbot.wait(1)


def listed(tab: FeaturesTab) -> list[int]:
    return tab.table.ids().tolist()


def search(tab: FeaturesTab, qtbot: QtBot, text: str) -> None:
    tab.table.filters.search.setText(text)
    qtbot.keyClick(tab.table.filters.search, Qt.Key.Key_Return)
    settle(tab, qtbot)


def test_without_an_sae_it_says_where_to_get_one(
    services: Services, window_stub: Any, qtbot: QtBot
) -> None:
    tab = shown_tab(services, qtbot)
    assert tab.pages.currentIndex() == NO_SAE
    assert not tab.heading.isVisible()
    tab._on_training()
    assert window_stub.opened == [("Training", {})]


def test_finding_features_queues_a_job_for_the_chosen_sae(services: Services, qtbot: QtBot) -> None:
    sae = feature_world.add_sae(services.studio.db())
    tab = shown_tab(services, qtbot)
    assert tab.pages.currentIndex() == FIND
    tab.form.form.fields["rows"].editor.set_value(96)
    tab.form.submit()
    settle(tab, qtbot)
    (job,) = JOBS.select(services.studio.db())
    assert (job.kind, job.config["sae"], job.config["rows"]) == ("harvest", sae.id, 96)
    assert tab.job.job_id == job.id
    assert not tab.form.find_button.isEnabled()  # one at a time
    tab.job._on_cancel()
    settle(tab, qtbot)
    assert tab.form.find_button.isEnabled()
    assert tab.job.job_id == ""


def test_a_failed_harvest_can_be_tried_again(services: Services, qtbot: QtBot) -> None:
    feature_world.add_sae(services.studio.db())
    tab = shown_tab(services, qtbot)
    tab.form.submit()
    settle(tab, qtbot)
    db, job_id = services.studio.db(), tab.job.job_id
    jobs.claim(db, job_id, 1)
    jobs.move(db, job_id, JobState.RUNNING, JobState.FAILED, error_message="The disk is full.")
    services.lanes.finished.emit(job_id, "failed")
    settle(tab, qtbot)
    assert tab.job.job_id == ""  # the window itself says why
    assert tab.form.find_button.isEnabled()


def test_the_form_names_what_is_wrong(services: Services, qtbot: QtBot) -> None:
    feature_world.add_sae(services.studio.db())
    tab = shown_tab(services, qtbot)
    tab.form.form.fields["context"].editor.set_value(4)
    tab.form.submit()
    assert "at least 8" in tab.form.form.fields["context"].problem.text() or (
        "between 8 and 4,096" in tab.form.form.fields["context"].problem.text()
    )
    assert JOBS.select(services.studio.db()) == []


def test_tiles_table_order_filters_and_search(services: Services, qtbot: QtBot) -> None:
    feature_world.add_world(services.studio.db())
    tab = shown_tab(services, qtbot)
    assert tab.pages.currentIndex() == TABLE
    assert tab.tiles["found"].value() == "56 / 64"
    assert tab.tiles["tokens"].value() == "100,000"
    live = [index for index in range(64) if index % 8 != 7]
    assert listed(tab) == live  # most frequent first
    tab.table.filters.live.setCurrentIndex(1)
    settle(tab, qtbot)
    assert len(listed(tab)) == 64
    tab.table.filters.live.setCurrentIndex(0)
    search(tab, qtbot, "whal")
    assert listed(tab) == [index for index in live if index % 10 == 1]
    search(tab, qtbot, "#12")
    assert 12 in listed(tab)
    search(tab, qtbot, "zebra")
    assert listed(tab) == []
    assert tab.table._pages.currentIndex() == 1  # says so, and offers to clear
    tab.table.filters.clear()
    settle(tab, qtbot)
    assert listed(tab) == live


def test_sorting_by_header_and_frequency_range(services: Services, qtbot: QtBot) -> None:
    feature_world.add_world(services.studio.db())
    tab = shown_tab(services, qtbot)
    names = [column.sort_key for column in tab.table.model.columns]
    tab.table.view.sortByColumn(names.index("index"), Qt.SortOrder.DescendingOrder)
    settle(tab, qtbot)
    assert listed(tab)[:3] == [62, 61, 60]
    tab.table.view.sortByColumn(names.index("max"), Qt.SortOrder.DescendingOrder)
    settle(tab, qtbot)
    assert [index % 5 for index in listed(tab)[:8]] == [4] * 8  # the largest maxima
    tab.table.filters.low.lineEdit().setText("5")
    qtbot.waitUntil(lambda: len(listed(tab)) == 4, timeout=3000)
    assert sorted(listed(tab)) == [0, 1, 2, 3]
    assert services.settings.recall("features.table")["sort"] == "max"


def test_star_by_click_and_key_keeps_the_selection(services: Services, qtbot: QtBot) -> None:
    world = feature_world.add_world(services.studio.db())
    tab = shown_tab(services, qtbot)
    tab.table.view.select_id(3)
    tab.table.marks.star()
    settle(tab, qtbot)
    (row,) = features.feature_rows(services.studio.db(), world.feature_set, [3])
    assert row.is_favorite
    assert tab.table.view.current_id() == 3
    assert tab.table.model.index(3, 0).data() == "★"
    tab.table.filters.favorites.setChecked(True)
    settle(tab, qtbot)
    assert listed(tab) == [3]
    tab.table.marks.hide()
    tab.table.reload()
    settle(tab, qtbot)
    assert listed(tab) == []


def test_detail_goes_through_the_table_and_keeps_what_is_written(
    services: Services, window_stub: Any, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_pages, "page", feature_world.page)
    world = feature_world.add_world(services.studio.db())
    tab = shown_tab(services, qtbot)
    tab.table.view.select_id(6)
    qtbot.keyClick(tab.table.view, Qt.Key.Key_Return)
    settle(tab, qtbot)
    detail = tab.detail
    assert detail is not None
    assert detail.windowTitle() == "Feature #6"
    assert detail.tiles["max"].value() == "5.000"
    detail.head.label_edit.setFocus()
    qtbot.keyClicks(detail.head.label_edit, "jokes of rough kings")  # j, k and r are letters here
    qtbot.keyClick(detail.head.label_edit, Qt.Key.Key_Return)
    settle(tab, qtbot)
    (row,) = features.feature_rows(services.studio.db(), world.feature_set, [6])
    assert (row.label, row.label_source) == ("jokes of rough kings", "user")
    assert detail.head.source.text() == "by you"
    detail.go_next()  # 7 never fires, so it is not in the table
    settle(tab, qtbot)
    assert detail.page is not None
    assert detail.page.row.index == 8
    assert tab.table.view.current_id() == 8
    detail.go_previous()
    detail.go_previous()
    settle(tab, qtbot)
    assert detail.index == 5
    qtbot.keyClick(detail, Qt.Key.Key_R)
    settle(tab, qtbot)
    assert detail.index != 5
    assert detail.index in listed(tab)
    assert tab.table.view.current_id() == detail.index
    detail.go_back()
    settle(tab, qtbot)
    assert detail.index == 5
    detail.steer()
    assert window_stub.opened == [("Steering", {"sae": world.sae.id, "feature": 5})]
    detail.close()


def test_detail_pages(services: Services, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def page(studio: Any, sae: Any, index: int, *, before: int = 16, **options: Any) -> Any:
        asked.append(before)
        return feature_world.page(studio, sae, index, before=before, **options)

    monkeypatch.setattr(feature_pages, "page", page)
    feature_world.add_world(services.studio.db())
    tab = shown_tab(services, qtbot)
    tab.open_feature(0)
    settle(tab, qtbot)
    detail = tab.detail
    assert detail is not None
    examples = detail.examples
    assert [len(shown) for _, shown in examples.shown()] == [20]
    assert "4.0000 (this list)" in examples.legend.text()
    examples.scale.setCurrentIndex(1)
    assert "4.0000 (feature maximum)" in examples.legend.text()
    examples.modes.button(1).click()
    settle(tab, qtbot)
    assert [title.split(" · ")[1] for title, _ in examples.shown()] == ["0.100 % of all tokens"] * 4
    assert sum(card.isVisible() for card in examples.column.cards) == 4
    examples.widths.button(2).click()
    settle(tab, qtbot)
    assert asked[-1] == 200
    detail.pages.setCurrentIndex(LENS)
    assert detail.lens is not None
    assert detail.lens.positive.text().splitlines()[0] == "·river\t+2.0000"
    detail.pages.setCurrentIndex(STATISTICS)
    assert detail.statistics is not None
    assert detail.statistics.values["Density"].text() == "20.0010 % · 1 in 5"
    detail.copy()
    assert QGuiApplication.clipboard().text().startswith("Feature 0")
    detail.close()


def test_a_failed_read_is_a_sentence_in_the_detail(services: Services, qtbot: QtBot) -> None:
    feature_world.add_world(services.studio.db())  # rows without files
    tab = shown_tab(services, qtbot)
    tab.open_feature(0)
    settle(tab, qtbot)
    assert tab.detail is not None
    assert tab.detail.problem.isVisible()
    assert "find" in tab.detail.problem.text().lower()
    tab.detail.close()


def test_eighteen_thousand_features_read_only_what_is_seen(
    services: Services, qtbot: QtBot, record_property: Any
) -> None:
    feature_world.add_world(services.studio.db(), 18_432, 3_000_000)
    began = time.monotonic()
    tab = shown_tab(services, qtbot)
    record_property("first_paint_s", time.monotonic() - began)
    assert len(listed(tab)) == 16_128
    tab.grab()
    settle(tab, qtbot)
    read = sum(len(block) for block in tab.table.model._blocks.values())
    assert 0 < read <= 256
    assert tab.table._footer.text().endswith("of 16,128")
    began = time.monotonic()
    search(tab, qtbot, "word1234")
    record_property("search_s", time.monotonic() - began)
    assert listed(tab)[0] == 1234
    assert all(str(index).startswith("1234") for index in listed(tab))


def test_the_example_keeps_its_peak_in_sight() -> None:
    row = features.FeatureRow(
        0,
        None,
        None,
        None,
        False,
        False,
        1,
        0.1,
        1,
        2.0,
        1.0,
        "",
        "",
        "",
        "[" + ", ".join(['["a ", 0.0]'] * 30 + ['["peak", 2.0]', '["b", null]']) + "]",
    )
    line = example_line(row)
    assert [piece.text for piece in line.pieces].index("peak") == 6
    assert line.maximum == 2.0


def test_sort_keys_are_kept_when_the_table_stands(services: Services, qtbot: QtBot) -> None:
    world = feature_world.add_world(services.studio.db())
    db = services.studio.db()
    db.execute("DELETE FROM feature_keys")
    tab = shown_tab(services, qtbot)
    names = "SELECT name FROM feature_keys WHERE feature_set_id = ?"
    assert db.execute(names, [world.feature_set.id]).fetchall() == []
    qtbot.waitUntil(lambda: not tab.table._rest.isActive())
    settle(tab, qtbot)
    kept = {row[0] for row in db.execute(names, [world.feature_set.id]).fetchall()}
    assert kept == {"rowids", "indices", "count", "frequency", "frequency falling"}


def test_density_of_a_feature_that_never_fired_is_a_bound() -> None:
    assert density(0, 3_000_000) == "below 0.0001 % (95 % bound, never fired)"
    assert density(10, 3_000_000) == "0.0003 % · 1 in 300,000"
    assert density(0, 0) == "—"


def test_sets_are_chosen_and_deleted(
    services: Services, qtbot: QtBot, window_stub: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = feature_world.add_world(services.studio.db())
    db = services.studio.db()
    older = FEATURE_SETS.insert(
        db, sae_id=world.sae.id, n_tokens=7, n_live=1, status="ready",
        created_at="2001-01-01T00:00:00", summary={"n_tokens": 7, "n_all": 9, "row_length": 8,
        "masked": {"special": 2}, "fit": {"warning": "It does not fit."},
        "truncated": {"tokens": 3, "most_entries": 256}, "fast": True, "tile_rows": 24},
    )  # fmt: skip
    features.add_statistics(db, older.id, [feature_world.statistics(0, 7)])
    tab = shown_tab(services, qtbot)
    assert tab.sets.combo.count() == 2
    assert tab.sets.combo.currentData() == world.feature_set.id
    assert not tab.doubt.isVisible()
    tab.sets.combo.setCurrentIndex(1)
    settle(tab, qtbot)
    qtbot.waitUntil(lambda: tab.tiles["tokens"].value() == "7")
    assert listed(tab) == [0]
    assert "7 of 9 tokens count (2 special left out)" in tab.chips.text()
    assert "truncated: 3 tokens" in tab.chips.text()
    assert "read with free shapes, 24 rows at a time" in tab.chips.text()
    assert "free shapes" in tab.sets.combo.itemText(0)
    assert "free shapes" not in tab.sets.combo.itemText(1)
    assert tab.doubt.text() == "It does not fit."
    monkeypatch.setattr("mistudio.gui.tabs.features.feature_sets.confirm", lambda *_: True)
    tab.sets._on_delete()
    qtbot.waitUntil(lambda: "The feature set is deleted." in window_stub.undone)
    window_stub.undone["The feature set is deleted."][1]()  # nobody takes it back
    qtbot.waitUntil(lambda: FEATURE_SETS.find(db, older.id) is None)
    settle(tab, qtbot)
    qtbot.waitUntil(lambda: tab.sets.combo.count() == 1)
    assert tab.tiles["tokens"].value() == "100,000"


def test_the_highlight_has_two_curves_three_scales_and_an_outline(
    services: Services, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_pages, "page", feature_world.page)
    feature_world.add_world(services.studio.db())
    tab = shown_tab(services, qtbot)
    tab.open_feature(0)
    settle(tab, qtbot)
    detail = tab.detail
    assert detail is not None
    examples = detail.examples
    last = examples.column.cards[19].tokens  # its strongest token fires at 4 - 0.1 * 19
    assert last._current()._shares[2] == pytest.approx(2.1 / 4.0)
    assert len(last._current()._borders) == 1
    examples.scale.setCurrentIndex(2)
    assert "full at each example's own maximum" in examples.legend.text()
    assert last._current()._shares[2] == 1.0
    weak = last._current()._shares[3]
    assert weak == pytest.approx(0.4)
    examples.curve.setCurrentIndex(1)
    assert "logarithmic" in examples.legend.text()
    assert last._current()._shares[3] == pytest.approx(0.05 + 0.95 * math.log10(1 + 9 * weak))
    assert last._current()._shares[4] == 0.0
    examples.marks.setChecked(False)
    assert last._current()._layout.text().startswith("It was an")
    examples.marks.setChecked(True)
    assert last._current()._layout.text().startswith("It was↵")
    detail.close()


def test_examples_out_of_view_come_right_after_those_in_view(
    services: Services, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_pages, "page", feature_world.page)
    feature_world.add_world(services.studio.db())
    tab = shown_tab(services, qtbot)
    tab.open_feature(0)
    settle(tab, qtbot)
    detail = tab.detail
    assert detail is not None
    assert detail.page is not None
    column = detail.examples.column
    qtbot.waitUntil(lambda: not column.is_filling())
    before = [card.geometry() for card in column.cards]
    lines = [Line("", example, 4.0) for example in detail.page.examples]
    column.show_lines(lines, View(), at_once=False)
    first = len(column._placed)
    assert 0 < first < 20
    assert column.is_filling()
    bottom = column._placed[-1].geometry().bottom()
    assert bottom > column.viewport().height()
    assert all(card.y() > bottom for card in column.cards[first:])
    qtbot.waitUntil(lambda: not column.is_filling())
    assert [card.geometry() for card in column.cards] == before
    for card in column.cards:  # as high as its text needs
        assert card.tokens.height() == card.tokens.heightForWidth(card.tokens.width())
    detail.close()
