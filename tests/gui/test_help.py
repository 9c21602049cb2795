"""Help, tours, shortcuts and notices: the program's own texts, at controls that are there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QApplication, QSystemTrayIcon, QWidget
from pytestqt.qtbot import QtBot

from mistudio.core.settings import LONG_JOB_S, SettingsFile, described_settings, text_of
from mistudio.core.training_configs import TrainConfig
from mistudio.gui import main_window
from mistudio.gui.about_dialog import AboutDialog
from mistudio.gui.actions import ACTIONS, TAB_NAMES, TAB_TIPS
from mistudio.gui.command_palette import ShortcutSheet
from mistudio.gui.help_topics import HERE, Topic, field_key, topic_at, topics
from mistudio.gui.help_window import HelpWindow
from mistudio.gui.main_window import MainWindow
from mistudio.gui.notices import JobNotices
from mistudio.gui.settings_dialog import SettingsDialog
from mistudio.gui.tour import Tour
from mistudio.gui.tours import TOURS
from mistudio.jobs.registry import JOB_KINDS
from mistudio.jobs.runner import Studio
from mistudio.store.jobs import add_job
from mistudio.store.records import JobRow
from mistudio.store.tables import JOBS


@pytest.fixture
def window(
    styled: QApplication, studio: Studio, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MainWindow]:
    monkeypatch.setattr(main_window, "warm_up_for", lambda *_: None)
    made = MainWindow(studio, SettingsFile(studio.paths.settings))
    made.resize(1280, 720)
    made.show()
    qtbot.waitExposed(made)
    made.start()
    qtbot.waitUntil(made.query.is_idle)
    yield made
    made.close()
    qtbot.waitUntil(lambda: not made.isVisible())
    made.deleteLater()


def settle(window: MainWindow, qtbot: QtBot) -> None:
    qtbot.waitUntil(lambda: window.query.is_idle() and window.network.is_idle())


def test_the_help_holds_every_setting_action_and_tab_once() -> None:
    found = topics()
    keys = [topic.key for topic in found]
    assert len(keys) == len(set(keys))
    assert {f"action.{spec.name}" for spec in ACTIONS} <= set(keys)
    assert {f"settings.{name}" for name in described_settings()} <= set(keys)
    assert [topic.title for topic in found if topic.section == "Tabs"] == list(TAB_NAMES)
    texts = {topic.text for topic in found}
    from mistudio.core.config import settings_of

    for kind in JOB_KINDS.values():
        assert {setting.option.help for setting in settings_of(kind.config_class)} <= texts
    k = next(topic for topic in found if topic.key == field_key(TrainConfig, "batch"))
    assert k.title == "Batch (tokens)"
    assert "Default: 2,048" in k.facts


def test_f1_opens_at_the_setting_that_has_the_focus(window: MainWindow, qtbot: QtBot) -> None:
    window.services.open_tab("Training")
    settle(window, qtbot)
    tab: Any = window.tabs.current()
    field = tab.runs.form.form.fields["k"]
    field.editor.control.setFocus()
    qtbot.waitUntil(lambda: QApplication.focusWidget() is not None)
    qtbot.keyClick(window, Qt.Key.Key_F1)
    help_window = window.findChild(HelpWindow)
    assert help_window is not None
    assert help_window.text.text() == field.setting.option.help == field.toolTip()
    help_window.search.setText("learning RATE peak")
    assert help_window.title.text() == "Learning rate"
    help_window.search.setText("no such words")
    assert help_window.none.isVisibleTo(help_window)
    assert help_window.shown is None
    help_window.show_topic(topic_at(tab))
    assert help_window.title.text() == "Training"
    assert help_window.text.text().startswith(TAB_TIPS["Training"])
    help_window.tour_button.click()
    tour = window.findChild(Tour)
    assert tour is not None
    tour.end()


def test_other_controls_are_explained_by_their_own_tooltip(
    window: MainWindow, qtbot: QtBot
) -> None:
    window.services.open_tab("Training")
    settle(window, qtbot)
    tab: Any = window.tabs.current()
    button = tab.runs.form.start_button
    found = topic_at(button)
    assert found == Topic("", HERE, "Start training", button.toolTip())
    assert topic_at(tab).title == "Training"  # type: ignore[union-attr]
    dialog = SettingsDialog(window.services, window)
    asked = topic_at(dialog.editors["threads"].control)
    assert asked is not None
    assert (asked.key, asked.text) == ("settings.threads", text_of("threads").help)
    dialog.close()
    assert topic_at(None) is None


def test_tours_have_five_sentences_at_real_controls(window: MainWindow, qtbot: QtBot) -> None:
    for name in TAB_NAMES:
        window.services.open_tab(name)
        settle(window, qtbot)
        follow(window, qtbot, name)
    assert window.services.settings.recall("tours.seen") == list(TAB_NAMES)


def follow(window: MainWindow, qtbot: QtBot, name: str) -> None:
    """Take the tour by keys, from where an empty tab offers it."""
    tab: Any = window.tabs.current()
    empty: dict[str, Any] = {
        "Training": lambda: tab.runs.list.empty,
        "Features": lambda: tab.pages.widget(0),
    }
    if name == "Steering":  # which begins with a search instead of an empty list
        window.actions_by_name["take_tour"].trigger()
    else:
        shown = empty.get(name, lambda: tab.empty)()
        qtbot.waitUntil(shown.tour_button.isVisible)
        shown.tour_button.click()
    tour = next(t for t in window.findChildren(Tour) if t.isVisible())
    places = list[QWidget]()
    for number in range(1, 6):
        assert tour.count.text() == f"{name} · {number} of 5"
        sentence = tour.step.sentence
        assert re.fullmatch(r"[^.?!]+\.", sentence), "one sentence"
        target = tour._target
        assert target is not None
        assert target.isVisible()
        assert all(isinstance(found, QWidget) for found in tour.step.targets(tour._tab))
        assert not tour.ring.geometry().intersected(window.rect()).isEmpty()
        assert window.rect().contains(tour.geometry()), sentence
        spoken_of = tour.ring.geometry().adjusted(6, 6, -6, -6)
        beside = not tour.geometry().intersects(spoken_of)
        assert beside or tour._tip[1] == "", "the callout covers what it speaks of"
        places.append(target)
        if number < 5:
            qtbot.keyClick(tour.next_button, Qt.Key.Key_Right)
    assert len({id(place) for place in places}) >= 2
    qtbot.keyClick(tour.next_button, Qt.Key.Key_Left)
    assert tour.at == 3
    qtbot.keyClick(tour.next_button, Qt.Key.Key_Escape)
    assert not tour.isVisible()


def test_a_tour_is_offered_once_and_ends_with_its_tab(
    window: MainWindow, studio: Studio, qtbot: QtBot
) -> None:
    (offer,) = [b for b in window.banners.banners() if "five sentences" in b.sentence]
    assert window.services.settings.recall("tours.offered") is True
    offer.action_button.click()
    tour = window.findChild(Tour)
    assert tour is not None
    assert tour.name == "Datasets"
    window.services.open_tab("Models")
    assert not tour.isVisible()
    window.close()
    again = MainWindow(studio, SettingsFile(studio.paths.settings))
    qtbot.addWidget(again)
    again.start()
    qtbot.waitUntil(again.query.is_idle)
    assert not [b for b in again.banners.banners() if "five sentences" in b.sentence]
    again.close()


def test_a_question_mark_shows_the_keys_unless_it_is_typed(
    window: MainWindow, qtbot: QtBot
) -> None:
    tab: Any = window.tabs.current()
    tab.filters.search.show()
    tab.download.form.fields["name"].editor.control.setFocus()
    line = tab.download.form.fields["name"].editor.control
    qtbot.keyClick(line, Qt.Key.Key_Question)
    assert line.text() == "?"
    assert window.findChild(ShortcutSheet) is None
    window.setFocus()
    qtbot.keyClick(window, Qt.Key.Key_Question)
    sheet = window.findChild(ShortcutSheet)
    assert sheet is not None
    sheet.close()


class Tray:
    """Stands for the desktop's tray: says whether there is one, and keeps what it was told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
        self.told: list[str] = []
        self.alerts: list[object] = []
        monkeypatch.setattr(QSystemTrayIcon, "isSystemTrayAvailable", lambda: there)
        monkeypatch.setattr(QSystemTrayIcon, "supportsMessages", lambda: there)
        monkeypatch.setattr(
            QSystemTrayIcon, "showMessage", lambda _, title, text, *more: self.told.append(text)
        )
        monkeypatch.setattr(QApplication, "alert", lambda window: self.alerts.append(window))


def ended(studio: Studio, seconds: float, status: str = "completed") -> JobRow:
    job = add_job(studio.db(), "train", "gpu", "Train it", {})
    JOBS.update(
        studio.db(),
        job.id,
        status=status,
        started_at="2026-01-01T10:00:00+00:00",
        finished_at=f"2026-01-01T10:{int(seconds) // 60:02}:{int(seconds) % 60:02}+00:00",
    )
    return JOBS.get(studio.db(), job.id)


@pytest.mark.parametrize("there", [True, False])
def test_the_end_of_a_long_job_is_told_to_who_is_away(
    styled: QApplication, studio: Studio, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    tray, banners = Tray(monkeypatch, there), list[str]()
    window, settings = QWidget(), SettingsFile(studio.paths.settings)
    notices = JobNotices(
        window, settings, lambda sentence, **_: banners.append(sentence), window.show
    )
    notices.consider(ended(studio, LONG_JOB_S - 1))
    notices.consider(ended(studio, LONG_JOB_S, "running"))
    assert [*tray.told, *tray.alerts, *banners] == []
    notices.consider(ended(studio, 90))
    sentence = "Train it is finished after 1 min 30 s."
    assert banners == [sentence]
    assert tray.told == ([sentence] if there else [])
    assert tray.alerts == ([] if there else [window])
    notices.consider(ended(studio, 90, "failed"))
    assert len(banners) == 1  # a failure has a banner of its own
    settings.values.job_notices = False
    notices.consider(ended(studio, 90))
    monkeypatch.setattr(window, "isActiveWindow", lambda: True)
    settings.values.job_notices = True
    notices.consider(ended(studio, 90))
    assert len(banners) == 1
    notices.forget()
    window.deleteLater()


def test_every_tab_has_a_tour() -> None:
    assert set(TOURS) == set(TAB_NAMES)
    assert {len(steps) for steps in TOURS.values()} == {5}


def test_a_finished_job_copies_its_command(
    window: MainWindow, studio: Studio, qtbot: QtBot
) -> None:
    job = add_job(studio.db(), "evaluate", "gpu", "Measure it", {"sae": "my sae", "tokens": 4096})
    JOBS.update(studio.db(), job.id, status="completed")
    panel = window.jobs_panel
    panel.show()
    panel.show_filter("Finished")
    panel.refresh()
    qtbot.waitUntil(lambda: job.id in panel._cards)
    qtbot.waitUntil(panel._cards[job.id].command.isVisible)
    panel._cards[job.id].command.click()
    assert QApplication.clipboard().text() == "mistudio sae eval 'my sae' --tokens 4096"


def test_about_and_the_empty_lists_offer_one_action(window: MainWindow, qtbot: QtBot) -> None:
    window.actions_by_name["show_about"].trigger()
    about = window.findChild(AboutDialog)
    assert about is not None
    about.report_asked.emit()
    assert "miStudio" in QApplication.clipboard().text()
    assert str(window.services.studio.paths.home) not in QApplication.clipboard().text()
    about.close()
    window.services.open_tab("Training")
    settle(window, qtbot)
    tab: Any = window.tabs.current()
    runs = tab.runs.list
    assert runs.empty.button.text() == "New training"
    tab.runs.form.section.set_open(False)
    runs.empty.button.click()
    assert tab.runs.form.section.is_open()
    assert window.jobs_panel.empty.button.text() == "Run the sample"
