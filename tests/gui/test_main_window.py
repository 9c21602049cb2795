"""The window over a real studio: jobs, panel, keys, themes, closing while a job runs."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QApplication, QPushButton, QWidget
from pytestqt.qtbot import QtBot

from mistudio.core.config import Config
from mistudio.core.control import Request
from mistudio.core.dataset_configs import ImportDatasetConfig
from mistudio.core.settings import SettingsFile, Snapshot
from mistudio.gui import commands, main_window, tab_pages
from mistudio.gui.actions import ACTIONS, TAB_NAMES
from mistudio.gui.changes import CHANGES
from mistudio.gui.command_palette import CommandPalette, ShortcutSheet
from mistudio.gui.crash import CrashReporter, ErrorDialog, FaultFile
from mistudio.gui.dialog import Confirm
from mistudio.gui.main_window import MainWindow
from mistudio.gui.problem_report import report
from mistudio.gui.services import Tab
from mistudio.gui.settings_dialog import SettingsDialog
from mistudio.gui.theme import appearance
from mistudio.jobs import hub_pages, registry, sample
from mistudio.jobs.context import JobContext, JobKind
from mistudio.jobs.runner import Studio
from mistudio.store import jobs as job_rows
from mistudio.store.tables import JOBS, MODELS
from tests.helpers.local_hub import GOOD_TOKEN, LocalHub


@dataclass(frozen=True)
class HoldConfig(Config):
    """A job that goes on until it is told otherwise."""


class Hold:
    """A scripted job: holds until released, paused (like a training) or cancelled."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.later = threading.Event()

    def run(self, ctx: JobContext, config: HoldConfig) -> dict[str, Any]:
        ctx.report.progress(0.25, "holding", rate="1 step/s", eta_s=75)
        ctx.report.note("It holds.")
        while not self.release.wait(0.005):
            if self.later.is_set():
                self.later.clear()
                ctx.report.note("Something was made.")
                ctx.report.partial("stage", {"tab": "Models", "sentence": "A model is here."})
            if ctx.control.requested() is Request.PAUSE:
                ctx.held = True
                return {}
            ctx.control.check()
        return {"held": True}


class PlainTab(Tab):
    """A tab that records what the window asks of it."""

    def __init__(self, services: Any, parent: QWidget | None = None) -> None:
        super().__init__(services, parent)
        self.calls: list[Any] = []

    def select(self, **selection: Any) -> None:
        self.calls.append(selection)

    def focus_search(self) -> None:
        self.calls.append("search")

    def run_primary(self) -> None:
        self.calls.append("run")


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch) -> Hold:
    made = Hold()
    kind = JobKind("hold", "gpu", "Hold", HoldConfig, made.run, ends_turn_on_pause=True)
    monkeypatch.setitem(registry.JOB_KINDS, "hold", kind)
    return made


@pytest.fixture
def window(
    styled: QApplication, studio: Studio, hold: Hold, qtbot: QtBot, monkeypatch: Any
) -> Iterator[MainWindow]:
    plain = tuple(replace_spec(spec, module=__name__, cls="PlainTab") for spec in tab_pages.TABS)
    monkeypatch.setattr(tab_pages, "TABS", plain)
    monkeypatch.setattr(main_window, "warm_up_for", lambda *_: None)  # no job here needs torch
    made = MainWindow(studio, SettingsFile(studio.paths.settings))
    made.resize(1280, 720)
    made.show()
    qtbot.waitExposed(made)
    made.start()
    yield made
    hold.release.set()
    made.services.settings.values.confirm_close = False
    if made.isVisible():
        made.close()
        qtbot.waitUntil(lambda: not made.isVisible())
    made.deleteLater()


def replace_spec(spec: tab_pages.TabSpec, **changes: str) -> tab_pages.TabSpec:
    return spec._replace(**changes)


def state_of(studio: Studio, job_id: str) -> str:
    return JOBS.get(studio.db(), job_id).status


def test_every_action_has_its_work_and_its_own_key(window: MainWindow) -> None:
    assert set(window.actions_by_name) == {spec.name for spec in ACTIONS}
    keys = [spec.shortcut for spec in ACTIONS if spec.shortcut]
    assert len(keys) == len(set(keys))
    assert all(a.toolTip() for a in window.actions_by_name.values())


def test_every_job_kind_says_what_it_changes() -> None:
    assert set(CHANGES) == set(registry.JOB_KINDS)


def test_tabs_by_key_reach_their_page(window: MainWindow, qtbot: QtBot) -> None:
    for number, name in enumerate(TAB_NAMES, start=1):
        qtbot.keyClick(
            window, getattr(Qt.Key, f"Key_{number}"), Qt.KeyboardModifier.ControlModifier
        )
        assert window.tabs.tabText(window.tabs.currentIndex()) == name
    window.actions_by_name["find_in_tab"].trigger()
    window.actions_by_name["run_primary"].trigger()
    window.services.open_tab("Steering", sae="sae_1")
    tab = window.tabs.current()
    assert isinstance(tab, PlainTab)
    assert tab.calls == ["search", "run", {"sae": "sae_1"}]
    assert window.services.settings.recall("window.tab") == "Steering"


def test_the_sample_is_taken_away(
    window: MainWindow, studio: Studio, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    window.publisher.changed.connect(lambda kind, object_id: heard.append(kind))
    window.actions_by_name["remove_sample"].trigger()
    told = "There is no sample here. Run the sample makes one."
    assert [banner.sentence for banner in window.banners.banners()] == [told]
    sample.ensure_model(studio)
    asked: list[str] = []
    monkeypatch.setattr(commands, "confirm", lambda *words: not asked.append(words[2]))
    window.actions_by_name["remove_sample"].trigger()
    qtbot.waitUntil(lambda: "models" in heard)
    assert asked == ["1 model will be deleted. What you made of other models stays."]
    assert not MODELS.select(studio.db())
    assert "Removed: 1 model." in [banner.sentence for banner in window.banners.banners()]


def test_a_job_goes_through_the_panel(
    window: MainWindow, studio: Studio, hold: Hold, qtbot: QtBot
) -> None:
    heard: list[tuple[str, str]] = []
    window.publisher.changed.connect(lambda kind, object_id: heard.append((kind, object_id)))
    first = window.services.submit("hold", HoldConfig(), "First")
    second = window.services.submit("hold", HoldConfig(), "Second")
    panel = window.jobs_panel
    qtbot.keyClick(window, Qt.Key.Key_J, Qt.KeyboardModifier.ControlModifier)
    assert panel.isVisible()
    qtbot.waitUntil(lambda: first in panel._cards)
    card = panel._cards[first]
    qtbot.waitUntil(lambda: card.bar.text() == "25.0 %")
    assert card.line.text() == "holding · 1 step/s · 1 min 15 s left"
    assert window.badge.text() == "2"
    panel.show_filter("Queued")
    assert panel._cards[second].line.text() == "Waits for: First"
    panel._cards[second].end.click()
    qtbot.waitUntil(lambda: state_of(studio, second) == "cancelled")
    panel.show_filter("Active")
    card = panel._cards[first]
    assert "First" in window.status.job.text()
    card.end.click()
    assert card.pill.accessibleName() == "Cancelling…"
    qtbot.waitUntil(lambda: state_of(studio, first) == "cancelled", timeout=1000)
    panel.show_filter("Finished")
    qtbot.waitUntil(lambda: set(panel._cards) == {first, second})
    panel._cards[first].retry.click()
    hold.release.set()
    qtbot.waitUntil(lambda: len(panel._cards) == 3)
    assert heard.count(("jobs", first)) >= 1


def test_a_note_of_a_running_job_refreshes_what_it_makes(
    window: MainWindow, hold: Hold, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    window.publisher.changed.connect(lambda kind, object_id: heard.append(kind))
    monkeypatch.setitem(CHANGES, "hold", ("models",))
    job = window.services.submit("hold", HoldConfig())
    qtbot.waitUntil(lambda: window.jobs_panel.job(job) is not None)
    qtbot.waitUntil(lambda: "models" in heard)  # by its change of state
    heard.clear()
    before = window.tabs.tabIcon(1).cacheKey()
    hold.later.set()
    qtbot.waitUntil(lambda: "models" in heard)

    def told() -> list[str]:
        # the machine's own disk may be nearly full
        shown = [banner.sentence for banner in window.banners.banners()]
        return [one for one in shown if not one.startswith("The disk")]

    # what was heard may still be the job's change of state, told once more
    qtbot.waitUntil(lambda: told() == ["A model is here."])
    assert window.tabs.tabIcon(1).cacheKey() != before
    window.services.open_tab("Models")
    assert window.tabs.tabIcon(1).cacheKey() == before


def test_a_failed_job_tells_why_in_a_banner(
    window: MainWindow, studio: Studio, qtbot: QtBot, tmp_path: Path
) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    job = window.services.submit("import_dataset", ImportDatasetConfig(path=str(empty)))
    qtbot.waitUntil(lambda: state_of(studio, job) == "failed")
    sentence = JOBS.get(studio.db(), job).error_message or ""
    qtbot.waitUntil(lambda: any(sentence in b.sentence for b in window.banners.banners()))
    window.jobs_panel.show_filter("Failed")
    assert window.jobs_panel._cards[job].line.text() == sentence


def test_a_job_that_fails_before_the_first_look_at_the_list_tells_too(
    window: MainWindow,
    studio: Studio,
    qtbot: QtBot,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read, go_on = job_rows.list_jobs, threading.Event()
    qtbot.waitUntil(window.query.is_idle)
    window.jobs_panel._states = None
    monkeypatch.setattr(job_rows, "list_jobs", lambda db: read(db) if go_on.wait(30) else [])
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    job = window.services.submit("import_dataset", ImportDatasetConfig(path=str(empty)))
    qtbot.waitUntil(lambda: state_of(studio, job) == "failed")
    go_on.set()
    sentence = JOBS.get(studio.db(), job).error_message or ""
    qtbot.waitUntil(lambda: any(sentence in b.sentence for b in window.banners.banners()))


def test_the_log_of_a_job_can_be_read(
    window: MainWindow, studio: Studio, hold: Hold, qtbot: QtBot
) -> None:
    job = window.services.submit("hold", HoldConfig(), "Talks")
    qtbot.waitUntil(lambda: job in window.jobs_panel._cards)
    window.jobs_panel._cards[job].log.click()
    dialog = next(w for w in QApplication.topLevelWidgets() if w.windowTitle() == "Log: Talks")
    qtbot.waitUntil(lambda: "It holds." in dialog.text.toPlainText(), timeout=5000)
    dialog.copy()
    assert "info" in QGuiApplication.clipboard().text()
    dialog.close()


def answer(name: str) -> Callable[[], None]:
    """Click a button of the question that is asked next."""

    def click() -> None:
        dialog = QApplication.activeModalWidget()
        assert isinstance(dialog, Confirm), "nothing was asked"
        getattr(dialog, f"{name}_button").click()

    return click


def test_closing_while_a_job_runs_asks_then_keeps_it_resumable(
    window: MainWindow, studio: Studio, qtbot: QtBot
) -> None:
    job = window.services.submit("hold", HoldConfig())
    waiting = window.services.submit("hold", HoldConfig())
    qtbot.waitUntil(lambda: window.lanes.running() == [job])
    qtbot.waitUntil(lambda: state_of(studio, job) == "running")
    QTimer.singleShot(0, answer("cancel"))
    window.close()
    assert window.isVisible()
    assert state_of(studio, job) == "running"
    QTimer.singleShot(0, answer("action"))
    with qtbot.waitSignal(window.ended):
        window.close()
    assert state_of(studio, job) == "paused"
    assert state_of(studio, waiting) == "queued"


def test_a_signal_ends_the_window_without_asking(
    window: MainWindow, studio: Studio, qtbot: QtBot
) -> None:
    job = window.services.submit("hold", HoldConfig())
    qtbot.waitUntil(lambda: window.lanes.running() == [job])
    with qtbot.waitSignal(window.ended):
        window.end_without_asking()
    assert not window.isVisible()
    assert state_of(studio, job) == "paused"


def test_theme_toggle_restyles_and_is_kept(
    window: MainWindow, studio: Studio, qtbot: QtBot
) -> None:
    window.actions_by_name["toggle_theme"].trigger()
    assert appearance().colors.name == "light"
    window.refresh_readings()
    qtbot.waitUntil(window.query.is_idle)
    assert SettingsFile(studio.paths.settings).values.theme == "light"
    window.actions_by_name["toggle_theme"].trigger()
    assert appearance().colors.name == "dark"


def test_remembered_values_are_written_by_another_thread(
    window: MainWindow, studio: Studio, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, writers = window.services.settings, list[bool]()
    write = settings.write

    def watched(taken: Snapshot) -> None:
        writers.append(threading.current_thread() is threading.main_thread())
        write(taken)

    monkeypatch.setattr(settings, "write", watched)
    settings.remember("form", {"rows": 3})
    window.refresh_readings()
    qtbot.waitUntil(lambda: len(writers) == 1 and window.query.is_idle())
    assert writers == [False]
    settings.remember("form", {"rows": 4})
    window.refresh_readings()  # closing does not lose what is under way
    window.close()
    assert SettingsFile(studio.paths.settings).recall("form") == {"rows": 4}


def test_settings_name_what_is_out_of_range(window: MainWindow) -> None:
    dialog = SettingsDialog(window.services, window)
    dialog.editors["font_px"].set_value("99")
    dialog.editors["threads"].set_value("2")
    assert dialog.problem.text() == "Font size (px) must lie between 11 and 24."
    stored = SettingsFile(window.services.studio.paths.settings).values
    assert (stored.font_px, stored.threads) == (14, 2)
    dialog.close()


def test_the_stored_access_token_can_be_forgotten(
    window: MainWindow, hub: LocalHub, qtbot: QtBot
) -> None:
    hub_pages.remember_token(GOOD_TOKEN)
    dialog = SettingsDialog(window.services, window)
    dialog.show()
    qtbot.waitUntil(dialog.forget_button.isVisible)
    assert GOOD_TOKEN not in dialog.token_state.text()
    qtbot.mouseClick(dialog.forget_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: dialog.token_state.text() == "None is stored.")
    assert not dialog.forget_button.isVisible()
    assert not hub_pages.token_state().has_stored
    dialog.close()


def test_palette_finds_actions_by_letters(window: MainWindow, qtbot: QtBot) -> None:
    window.actions_by_name["show_palette"].trigger()
    palette = window.findChild(CommandPalette)
    assert palette is not None
    qtbot.keyClicks(palette.search, "ftrs")
    assert palette.list.count() == 1
    qtbot.keyClick(palette.search, Qt.Key.Key_Return)
    assert window.tabs.tabText(window.tabs.currentIndex()) == "Features"


def test_shortcut_sheet_lists_every_key(window: MainWindow) -> None:
    window.actions_by_name["show_shortcuts"].trigger()
    sheet = window.findChild(ShortcutSheet)
    assert sheet is not None
    texts = {label.text() for label in sheet.findChildren(QWidget) if hasattr(label, "text")}
    assert {"Ctrl+K", "Ctrl+.", "F1", "Ctrl+5"} <= texts
    sheet.close()


def test_nothing_is_cut_off_at_1280_by_720(window: MainWindow) -> None:
    assert window.minimumSizeHint().width() <= 1240
    assert window.minimumSizeHint().height() <= 640
    window.jobs_panel.show()
    QApplication.processEvents()
    for shown in window.header.findChildren(QPushButton) + window.status.findChildren(QPushButton):
        if shown.isVisible():
            assert shown.width() >= shown.minimumSizeHint().width()


def test_errors_of_threads_reach_the_window(window: MainWindow, qtbot: QtBot) -> None:
    reporter = CrashReporter()
    reporter.broke.connect(window.show_error)
    reporter.install()
    try:
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()
        qtbot.waitUntil(lambda: window.findChild(ErrorDialog) is not None)
    finally:
        reporter.remove()
    dialog = window.findChild(ErrorDialog)
    assert dialog is not None
    dialog.copy()
    copied = QGuiApplication.clipboard().text()
    assert "ZeroDivisionError" in copied
    assert f"Python {sys.version_info.major}." in copied
    dialog.close()


def test_report_of_a_hard_crash_is_offered_once(tmp_path: Path) -> None:
    (tmp_path / "fault.log").write_text("Fatal Python error: Segmentation fault\n")
    faults = FaultFile(tmp_path)
    assert "Segmentation" in faults.previous
    faults.enable()
    faults.disable()
    assert FaultFile(tmp_path).previous == ""
    assert "miStudio" in report("x")


def test_a_missing_tab_is_logged_and_left_empty(
    window: MainWindow, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gone = replace_spec(tab_pages.TABS[3], module="mistudio.gui.tabs.nowhere.tab")
    monkeypatch.setattr(tab_pages, "TABS", (*tab_pages.TABS[:3], gone, tab_pages.TABS[4]))
    window.services.open_tab("Features")
    assert window.tabs.current() is None
    assert "not part of this installation" in caplog.text


def test_the_jobs_have_the_window_where_a_tab_beside_them_would_be_cut_off(
    window: MainWindow, qtbot: QtBot
) -> None:
    central, panel = window._central, window.jobs_panel
    window.resize(1400, 640)
    panel.show()
    qtbot.waitUntil(panel.isVisible)
    assert not central.isHidden()
    window.resize(960, 640)
    qtbot.waitUntil(central.isHidden)
    window.services.open_tab("Models")  # a tab is asked for
    assert panel.isHidden()
    assert not central.isHidden()
    assert window.tabs.current() is window.tabs.tab("Models")
    panel.show()
    qtbot.waitUntil(central.isHidden)
    window.resize(1400, 640)
    qtbot.waitUntil(lambda: not central.isHidden())
    panel.hide()
    window.resize(960, 640)
    assert not central.isHidden()


def test_geometry_is_kept(window: MainWindow, studio: Studio, qtbot: QtBot) -> None:
    window.resize(1100, 600)
    window.jobs_panel.show()
    window.close()
    again = MainWindow(studio, SettingsFile(studio.paths.settings))
    qtbot.addWidget(again)
    assert again.height() == 600  # the width is cut to the offscreen screen's
    assert not again.jobs_panel.isHidden()
    again.query.join()


def test_a_start_that_comes_after_the_end_shows_no_window(window: MainWindow, qtbot: QtBot) -> None:
    with qtbot.waitSignal(window.ended):
        window.end_without_asking()
    window.come_forward()  # the word of a second start was still on its way
    assert not window.isVisible()
