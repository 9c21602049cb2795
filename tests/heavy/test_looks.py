"""Every tab, window and question in both palettes: nothing is cut off, all has a name and a place.
In the order of Tab, too; small and large.

`MISTUDIO_PICTURES=DIR` keeps the pictures; `MISTUDIO_PICTURES=resources/screenshots` renews those
of the README and the documentation. `MISTUDIO_SAMPLE_HOME` names a data folder in which the sample
has run already; it is copied.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QApplication, QDialog, QWidget
from pytestqt.qtbot import QtBot

from mistudio import cli
from mistudio.core.paths import Paths
from mistudio.core.settings import SettingsFile
from mistudio.gui import style
from mistudio.gui.dialog import Dialog
from mistudio.gui.main_window import MainWindow
from mistudio.gui.services import Services
from mistudio.gui.theme import appearance
from mistudio.jobs.runner import Studio
from mistudio.store.tables import JOBS
from tests.helpers import scenes
from tests.helpers.looks import faults, tab_faults
from tests.helpers.scenes import Scene, Stage

pytestmark = pytest.mark.heavy

TABS = ("Datasets", "Models", "Training", "Features", "Steering")
LOOKS = {  # theme, font, width, height
    "dark": ("dark", 14, 1280, 720),
    "light": ("light", 14, 1280, 720),
    "dark-large": ("dark", 21, 1280, 720),
    "light-large": ("light", 21, 1280, 720),
    "dark-wide": ("dark", 14, 1920, 1080),
    "light-wide": ("light", 14, 1920, 1080),
    "dark-wide-large": ("dark", 21, 1920, 1080),
    "light-wide-large": ("light", 21, 1920, 1080),
}


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in which the sample has run."""
    home = tmp_path_factory.mktemp("looks") / "home"
    if ready := os.environ.get("MISTUDIO_SAMPLE_HOME"):
        shutil.copytree(ready, home)
    else:
        assert cli.main(["demo", "--home", str(home), "--json"]) == 0
    return home


@pytest.fixture
def stage(
    request: pytest.FixtureRequest, qapp: QApplication, qtbot: QtBot, sampled: Path
) -> Iterator[Stage]:
    yield from opened(qapp, qtbot, request.param, sampled)


@pytest.fixture
def empty_stage(
    request: pytest.FixtureRequest, qapp: QApplication, qtbot: QtBot, tmp_path: Path
) -> Iterator[Stage]:
    yield from opened(qapp, qtbot, request.param, tmp_path / "home")


def opened(qapp: QApplication, qtbot: QtBot, look: str, home: Path) -> Iterator[Stage]:
    """The main window over a data folder, without banners."""
    theme, font, width, height = LOOKS[look]
    style.apply(qapp, theme, font)
    appearance().remote = True
    studio = Studio(Paths.at(home))
    made = MainWindow(studio, SettingsFile(studio.paths.settings))
    made.services.settings.values.confirm_close = False
    made.services.settings.values.font_px = font
    made.services.settings.values.theme = theme
    made.resize(width, height)
    made.jobs_panel.hide()
    made.show()
    made.start()
    settle(qtbot, made.services)
    for banner in made.banners.banners():
        banner.dismiss()  # such as that of a full disk, which is the machine's
    yield Stage(
        made,
        lambda: settle(qtbot, made.services),
        lambda done: qtbot.waitUntil(done, timeout=180_000),
    )
    for dialog in made.findChildren(Dialog):
        dialog.close()
    with qtbot.waitSignal(made.ended, timeout=30_000):
        made.close()
    studio.close()
    style.apply(qapp, "dark", 14)


def settle(qtbot: QtBot, services: Services) -> None:
    """Wait until jobs and questions are done and their answers drawn."""

    def done() -> bool:
        waiting = JOBS.select(services.studio.db(), "status IN ('queued', 'running')")
        idle = services.lanes.is_idle() and services.query.is_idle() and services.network.is_idle()
        return not waiting and idle

    for _ in range(3):  # an answer may ask the next question
        qtbot.waitUntil(done, timeout=180_000)
        qtbot.wait(100)


class Album:
    """Looks at one widget after another; keeps pictures where they are asked for."""

    def __init__(self, look: str) -> None:
        folder = os.environ.get("MISTUDIO_PICTURES")
        self._folder = Path(folder) if folder else None
        self._look = look
        self.faults: dict[str, list[str]] = {}

    def told(self) -> list[str]:
        return [f"{name}: {fault}" for name, found in self.faults.items() for fault in found]

    def note(self, name: str, found: list[str]) -> None:
        """Keep what else is wrong with what is shown."""
        if found:
            self.faults.setdefault(name, []).extend(found)

    def take(self, name: str, widget: QWidget, settle: Callable[[], None]) -> None:
        widget.grab()  # a table asks for its rows when it is first drawn
        settle()
        found = faults(widget)
        picture = widget.grab()
        colours = {
            picture.toImage().pixel(x, y)
            for x in range(0, picture.width(), 7)
            for y in range(0, picture.height(), 7)
        }
        if len(colours) < 4:
            found.append("is blank")
        self.note(name, found)
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            suffix = "" if self._look == "dark" else f"-{self._look}"
            picture.save(str(self._folder / f"{name}{suffix}.png"))


def look_of(request: pytest.FixtureRequest) -> str:
    return next(iter(request.node.callspec.params.values()))


def visit(album: Album, qtbot: QtBot, stage: Stage, shown: Mapping[str, Scene]) -> None:
    """Take each scene of the main window."""
    for name, show in shown.items():
        show(stage)
        if name == "running":
            qtbot.wait(1500)  # some points of its curves
            album.take(name, stage.window, QApplication.processEvents)
        else:
            stage.settle()
            album.take(name, stage.window, stage.settle)


@pytest.mark.parametrize("stage", LOOKS, indirect=True)
def test_tabs(stage: Stage, qtbot: QtBot, request: pytest.FixtureRequest) -> None:
    album = Album(look_of(request))
    for name in TABS:
        stage.tab(name)
        stage.settle()
        if name == "Training":
            show_curves(stage)
        if name == "Steering":
            stage.steering().run_primary()
            stage.settle()
        album.take(name.lower(), stage.window, stage.settle)
    assert not album.faults, "\n".join(album.told())


def show_curves(stage: Stage) -> None:
    _, card = stage.runs()
    if "metrics" not in card.open_panes():
        card.open_pane("metrics")
    stage.settle()


@pytest.mark.parametrize("stage", LOOKS, indirect=True)
def test_dialogs(stage: Stage, qtbot: QtBot, request: pytest.FixtureRequest) -> None:
    album = Album(look_of(request))
    scenes.prepare(stage)
    for name, show in scenes.DIALOGS.items():
        before = set(QApplication.topLevelWidgets())
        show(stage)
        stage.settle()
        opened = [
            widget
            for widget in QApplication.topLevelWidgets()
            if widget not in before and widget.isVisible() and widget.isWindow()
        ]
        if not opened:
            album.faults[name] = ["did not open"]
        for number, dialog in enumerate(opened):
            album.take(f"{name}{number or ''}", dialog, stage.settle)
            album.note(f"{name}{number or ''}", tab_faults(dialog))
        for dialog in reversed(opened):
            dialog.close()
        qtbot.wait(20)
    assert not album.faults, "\n".join(album.told())


@pytest.mark.parametrize("stage", LOOKS, indirect=True)
def test_places(stage: Stage, qtbot: QtBot, request: pytest.FixtureRequest) -> None:
    album = Album(look_of(request))
    scenes.prepare(stage)
    try:
        visit(album, qtbot, stage, scenes.PLACES)
    finally:
        scenes.end_running(stage)
    for name in TABS:
        for step in scenes.tour(stage, name):
            album.take(step, stage.window, QApplication.processEvents)
    assert not album.faults, "\n".join(album.told())


@pytest.mark.parametrize("stage", LOOKS, indirect=True)
def test_questions(stage: Stage, qtbot: QtBot, request: pytest.FixtureRequest) -> None:
    album = Album(look_of(request))
    scenes.prepare(stage)
    for name, ask in scenes.QUESTIONS.items():
        taken: list[str] = []
        timer = QTimer()
        timer.timeout.connect(answering(album, name, taken))
        timer.start(50)
        ask(stage)
        stage.wait_for(lambda seen=taken: bool(seen))  # type: ignore[misc]
        timer.stop()
        stage.settle()
    assert not album.faults, "\n".join(album.told())


def answering(album: Album, name: str, taken: list[str]) -> Callable[[], None]:
    """Takes the question that is asked, and says no to it."""

    def look() -> None:
        asked = QApplication.activeModalWidget()
        if isinstance(asked, QDialog) and asked.isVisible() and not taken:
            taken.append(name)
            album.take(name, asked, QApplication.processEvents)
            asked.reject()

    return look


@pytest.mark.parametrize("empty_stage", LOOKS, indirect=True)
def test_first_run(empty_stage: Stage, qtbot: QtBot, request: pytest.FixtureRequest) -> None:
    album = Album(look_of(request))
    visit(album, qtbot, empty_stage, scenes.FIRST)
    empty_stage.window.jobs_panel.hide()
    for name in TABS:
        for step in scenes.tour(empty_stage, name):
            album.take(f"first-{step}", empty_stage.window, QApplication.processEvents)
    assert not album.faults, "\n".join(album.told())
