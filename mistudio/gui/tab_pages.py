"""The five tabs: the first is built at the start, the others after it or when first visited."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
import threading
import time
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from PySide6.QtCore import QSize, QTimer, Signal, Slot
from PySide6.QtWidgets import QTabWidget, QVBoxLayout, QWidget

from mistudio.gui import icons
from mistudio.gui.actions import TAB_ICONS, TAB_NAMES, TAB_TIPS
from mistudio.gui.services import Services, Tab
from mistudio.gui.theme import appearance

log = logging.getLogger(__name__)

# What the tabs and the first job need and what has nothing of Qt: a lane imports it. Modules that
# derive classes from Qt's are imported by the window's thread alone: while another thread makes
# such a class, an event that reaches the window can end the process.
LIBRARIES = (
    "numpy",
    "mistudio.jobs.registry",
    "mistudio.jobs.job_commands",
    "mistudio.jobs.import_preview",
)
PLOTS = "pyqtgraph"
# what is opened from the first tab and from the menus, so that it does not wait
LATER = (
    "mistudio.gui.tabs.datasets.detail",
    "mistudio.gui.tabs.datasets.hub_preview",
    "mistudio.gui.tabs.datasets.import_card",
    "mistudio.gui.command_palette",
    "mistudio.gui.settings_dialog",
    "mistudio.gui.system_dialog",
    "mistudio.gui.storage_dialog",
    "mistudio.gui.doctor_dialog",
    "mistudio.gui.help_topics",
    "mistudio.gui.help_window",
    "mistudio.gui.tour",
    "mistudio.gui.problem_report",
    "mistudio.gui.about_dialog",
    "mistudio.gui.job_log",
)
AHEAD_MS = 150  # between two modules, tabs or parts of them that come ahead
PATIENCE_S = 5.0  # that the window leaves the lane for its imports


class TabSpec(NamedTuple):
    """Where a tab's widget comes from."""

    name: str
    icon: str
    module: str
    cls: str


TABS = tuple(
    TabSpec(name, icon, f"mistudio.gui.tabs.{name.lower()}.tab", f"{name}Tab")
    for name, icon in zip(TAB_NAMES, TAB_ICONS, strict=True)
)


_loaded = threading.Event()  # what a lane imports is there


def load_libraries() -> None:
    """Import `LIBRARIES`, and have the system read what the window's thread imports afterwards."""
    try:
        for name in LIBRARIES:
            importlib.import_module(name)
        for name in (PLOTS, "mistudio"):
            _read_compiled(name)
    finally:
        _loaded.set()


def _read_compiled(package: str) -> None:
    """Read a package's compiled modules, so that an import of them does not wait for the disk."""
    found = PathFinder.find_spec(package)  # does not import it
    for place in (found and found.submodule_search_locations) or ():
        for path in Path(place).rglob("*.pyc"):
            with contextlib.suppress(OSError):
                path.read_bytes()


class TabPages(QTabWidget):
    """Shows the tabs; remembers the last one; `visited(name)` follows each change."""

    visited = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setDocumentMode(True)
        side = appearance().px(18)
        self.setIconSize(QSize(side, side))
        self._services: Services | None = None
        self._built: dict[str, Tab] = {}
        self._absent: set[str] = set()
        self._boxes: list[QVBoxLayout] = []
        self._ahead = QTimer(self)
        self._ahead.setInterval(AHEAD_MS)
        self._ahead.timeout.connect(self._on_ahead)
        self._waits_until = 0.0
        self._later = [*LATER]
        for spec in TABS:
            page = QWidget()
            box = QVBoxLayout(page)
            box.setContentsMargins(0, 0, 0, 0)
            self._boxes.append(box)
            self.setTabToolTip(self.addTab(page, spec.name), TAB_TIPS[spec.name])
        self.currentChanged.connect(self._on_changed)
        appearance().changed.connect(self._redraw)
        self._redraw()

    def open(self, services: Services, first: str) -> None:
        """Build the tab to begin with."""
        self._services = services
        self.setCurrentIndex(_position(first))
        self._on_changed(self.currentIndex())

    def build_ahead(self) -> None:
        """Import and build the other tabs, and what they hide, one by one, then import `LATER`."""
        self._waits_until = time.monotonic() + PATIENCE_S
        self._ahead.start()

    def stop(self) -> None:
        """Bring nothing further ahead."""
        self._ahead.stop()

    @Slot()
    def _on_ahead(self) -> None:
        """One step: each takes some hundredths of a second at most."""
        waits = not _loaded.is_set() and time.monotonic() < self._waits_until
        if waits or any(tab.build_more() for tab in self._built.values()):
            return
        there = {*self._built, *self._absent}
        missing = [spec for spec in TABS if spec.name not in there]
        if self._services is None:
            self._ahead.stop()
        elif missing and PLOTS not in sys.modules:
            importlib.import_module(PLOTS)
        elif missing and missing[0].module not in sys.modules:
            self._import(missing[0])
        elif missing:
            self._build(missing[0], self._services)
        elif self._later:
            importlib.import_module(self._later.pop(0))
        else:
            self._ahead.stop()

    def is_complete(self) -> bool:
        """Whether every tab is built."""
        return len(self._built) == len(TABS)

    def tab(self, name: str) -> Tab | None:
        """The tab of a name, built if need be; None if it cannot be."""
        if name not in self._built and self._services is not None:
            self._build(TABS[_position(name)], self._services)
        return self._built.get(name)

    def current(self) -> Tab | None:
        """The tab that is shown."""
        return self._built.get(TABS[self.currentIndex()].name)

    def show_tab(self, name: str, **selection: Any) -> None:
        """Go to a tab and pass it what to select."""
        tab = self.tab(name)
        self.setCurrentIndex(_position(name))
        if tab is not None and selection:
            tab.select(**selection)

    def light(self, name: str) -> None:
        """Mark a tab where something has happened, until it is visited."""
        position = _position(name)
        if position != self.currentIndex():
            self.setTabIcon(position, icons.icon(TABS[position].icon, "emerald"))

    def _import(self, spec: TabSpec) -> ModuleType | None:
        try:
            return importlib.import_module(spec.module)
        except ModuleNotFoundError as error:
            if not str(error.name).startswith(spec.module.removesuffix(".tab")):
                raise
            log.exception("the tab %s is not part of this installation", spec.name)
            self._absent.add(spec.name)
            return None

    def _build(self, spec: TabSpec, services: Services) -> None:
        module = self._import(spec)
        if module is None:
            return
        place = _position(spec.name)
        made: Tab = getattr(module, spec.cls)(services, self.widget(place))
        self._built[spec.name] = made
        self._boxes[place].addWidget(made)

    @Slot(int)
    def _on_changed(self, index: int) -> None:
        if self._services is not None:
            self.tab(TABS[index].name)
            self.setTabIcon(index, icons.icon(TABS[index].icon, "muted"))
            self.visited.emit(TABS[index].name)

    @Slot()
    def _redraw(self) -> None:
        for index, spec in enumerate(TABS):
            self.setTabIcon(index, icons.icon(spec.icon, "muted"))


def _position(name: str) -> int:
    return TAB_NAMES.index(name) if name in TAB_NAMES else 0
