"""A styled application, a real studio in a temporary folder, and the services of a window."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import QObject, Slot
from PySide6.QtWidgets import QApplication

from mistudio.core.paths import Paths
from mistudio.core.settings import SettingsFile
from mistudio.gui import style
from mistudio.gui.lanes import Lanes
from mistudio.gui.publisher import Publisher
from mistudio.gui.query_lane import QueryLane
from mistudio.gui.services import Services
from mistudio.gui.theme import appearance
from mistudio.jobs.runner import Studio


@pytest.fixture
def styled(qapp: QApplication) -> QApplication:
    """The application in the dark theme, as on a remote display: nothing moves."""
    style.apply(qapp, "dark", 14)
    appearance().remote = True
    return qapp


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    made = Studio(Paths.at(tmp_path / "home"))
    yield made
    made.close()


class Window(QObject):
    """Stands for the window: records what tabs ask of it."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[tuple[str, dict[str, Any]]] = []
        self.banners: list[str] = []
        self.undone: dict[str, tuple[Any, Any]] = {}  # by sentence: click, end

    def open_tab(self, name: str, **selection: Any) -> None:
        self.opened.append((name, selection))

    @Slot()
    def banner(self, sentence: str, **how: Any) -> None:
        self.banners.append(sentence)
        if how.get("ended"):
            self.undone[sentence] = how["clicked"], how["ended"]


@pytest.fixture
def window_stub() -> Window:
    return Window()


@pytest.fixture
def services(styled: QApplication, studio: Studio, window_stub: Window) -> Iterator[Services]:
    """Services over a real studio; the query lane runs, the job lanes are not started."""
    query, network, lanes = QueryLane(studio.db), QueryLane(studio.db), Lanes(studio)
    made = Services(
        studio=studio,
        lanes=lanes,
        query=query,
        network=network,
        publisher=Publisher(),
        settings=SettingsFile(studio.paths.settings),
        open_tab=window_stub.open_tab,
        banner=window_stub.banner,
    )
    yield made
    lanes.join()
    network.join()
    query.join()
