"""Every tab and dialog after the sample run, in both palettes, small and large: nothing is cut off.

`MISTUDIO_PICTURES=DIR` keeps the pictures; `MISTUDIO_PICTURES=resources/screenshots` renews those
of the README and the documentation. `MISTUDIO_SAMPLE_HOME` names a data folder in which the sample
has run already; it is copied.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PySide6.QtWidgets import QApplication, QWidget
from pytestqt.qtbot import QtBot

from mistudio import cli
from mistudio.core.paths import Paths
from mistudio.core.settings import SettingsFile
from mistudio.core.steering_spec import Edit, Feature
from mistudio.gui import style
from mistudio.gui.dialog import Dialog
from mistudio.gui.main_window import MainWindow
from mistudio.gui.services import Services
from mistudio.gui.tabs.steering.card import CardState
from mistudio.gui.theme import appearance
from mistudio.jobs.runner import Studio
from mistudio.store.tables import JOBS, SAES
from tests.helpers.looks import faults

pytestmark = pytest.mark.heavy

TABS = ("Datasets", "Models", "Training", "Features", "Steering")
LOOKS = {  # theme, font, width, height
    "dark": ("dark", 14, 1280, 720),
    "light": ("light", 14, 1280, 720),
    "dark-large": ("dark", 21, 1280, 720),
    "light-wide": ("light", 14, 1920, 1080),
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
def window(
    request: pytest.FixtureRequest, qapp: QApplication, qtbot: QtBot, sampled: Path
) -> Iterator[MainWindow]:
    theme, font, width, height = LOOKS[request.param]
    style.apply(qapp, theme, font)
    appearance().remote = True
    studio = Studio(Paths.at(sampled))
    made = MainWindow(studio, SettingsFile(studio.paths.settings))
    made.services.settings.values.confirm_close = False
    made.services.settings.values.font_px = font
    made.services.settings.values.theme = theme
    made.resize(width, height)
    made.show()
    made.start()
    settle(qtbot, made.services)
    for banner in made.banners.banners():
        banner.dismiss()  # such as that of a full disk, which is the machine's
    yield made
    for dialog in made.findChildren(Dialog):
        dialog.close()
    with qtbot.waitSignal(made.ended):
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

    def take(self, name: str, widget: QWidget) -> None:
        found = faults(widget)
        picture = widget.grab()
        colours = {
            picture.toImage().pixel(x, y)
            for x in range(0, picture.width(), 7)
            for y in range(0, picture.height(), 7)
        }
        if len(colours) < 4:
            found.append("is blank")
        if found:
            self.faults[name] = found
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            suffix = "" if self._look == "dark" else f"-{self._look}"
            picture.save(str(self._folder / f"{name}{suffix}.png"))


@pytest.mark.parametrize("window", LOOKS, indirect=True)
def test_tabs(window: MainWindow, qtbot: QtBot, request: pytest.FixtureRequest) -> None:
    album = Album(request.node.callspec.params["window"])
    for name in TABS:
        window.services.open_tab(name)
        settle(qtbot, window.services)
        if name == "Training":
            show_curves(window, qtbot)
        if name == "Steering":
            steer(window, qtbot)
        album.take(name.lower(), window)
    assert not album.faults, "\n".join(album.told())


def show_curves(window: MainWindow, qtbot: QtBot) -> None:
    runs = window.tabs.current().runs
    runs.form.section.set_open(False)
    card = next(iter(runs.list.cards.values()))
    if "metrics" not in card.open_panes():
        card.open_pane("metrics")
    settle(qtbot, window.services)


def steer(window: MainWindow, qtbot: QtBot) -> None:
    tab = window.tabs.current()
    sae = SAES.select(window.services.studio.db())[0].id
    tab.panel.load([CardState(Edit(Feature(3, sae), 1.0))])
    tab.prompt.setPlainText("And the king said unto")
    tab.form.set_values({"max_tokens": 40, "seed": 3})
    settle(qtbot, window.services)
    tab.run_primary()
    settle(qtbot, window.services)


@pytest.mark.parametrize("window", LOOKS, indirect=True)
def test_dialogs(window: MainWindow, qtbot: QtBot, request: pytest.FixtureRequest) -> None:
    album = Album(request.node.callspec.params["window"])
    for name, show in openers(window).items():
        before = set(QApplication.topLevelWidgets())
        show()
        settle(qtbot, window.services)
        opened = [
            widget
            for widget in QApplication.topLevelWidgets()
            if widget not in before and widget.isVisible() and widget.isWindow()
        ]
        if not opened:
            album.faults[name] = ["did not open"]
        for number, dialog in enumerate(opened):
            album.take(f"{name}{number or ''}", dialog)
            dialog.close()
        qtbot.wait(20)
    assert not album.faults, "\n".join(album.told())


def openers(window: MainWindow) -> dict[str, Callable[[], object]]:
    """By name of the picture: what opens each dialog, from where a user would."""
    commands = window.commands

    def on(tab: str, method: str) -> Callable[[], object]:
        def show() -> None:
            window.services.open_tab(tab)
            QApplication.processEvents()
            getattr(window.tabs.current(), method)()

        return show

    def feature() -> None:
        sae = SAES.select(window.services.studio.db())[0].id
        window.services.open_tab("Features", sae=sae, feature=3)

    return {
        "settings": commands.show_settings,
        "system": commands.show_system,
        "storage": commands.show_storage,
        "palette": commands.show_palette,
        "shortcuts": commands.show_shortcuts,
        "doctor": commands.show_doctor,
        "about": commands.show_about,
        "feature": feature,
        "health": on("Features", "open_health"),
        "lists": on("Features", "show_lists"),
        "map": on("Features", "show_map"),
        "ablate": on("Features", "ablate_all"),
        "export": on("Features", "export"),
        "import-labels": on("Features", "import_labels"),
        "own-text": on("Features", "test_text"),
        "vectors": on("Steering", "open_vectors"),
    }
