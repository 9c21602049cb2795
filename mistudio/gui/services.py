"""What every tab is given: the studio, the lanes, settings, and the ways to reach the window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from PySide6.QtWidgets import QWidget

from mistudio.core.config import Config
from mistudio.core.settings import SettingsFile
from mistudio.gui.lanes import Lanes
from mistudio.gui.publisher import Publisher
from mistudio.gui.query_lane import QueryLane


class ShowBanner(Protocol):
    """Shows a banner below the header; the action is a bound method of a QObject."""

    def __call__(
        self,
        sentence: str,
        *,
        level: str = "info",
        action: str = "",
        clicked: Callable[[], object] | None = None,
        details: str = "",
        seconds: float = 0.0,
        ended: Callable[[], object] | None = None,
    ) -> None: ...


class OpenTab(Protocol):
    """Shows a tab by name and passes it a selection, such as `open_tab("Training", run=id)`."""

    def __call__(self, name: str, **selection: Any) -> None: ...


def no_tour() -> None:
    """Without a window there is no tour."""


@dataclass(frozen=True)
class Services:
    """Handed to every tab, dialog and panel."""

    studio: Any  # mistudio.jobs.runner.Studio
    lanes: Lanes
    query: QueryLane
    network: QueryLane
    """as `query`, for what waits for a server: its thread is another one"""
    publisher: Publisher
    settings: SettingsFile
    open_tab: OpenTab
    banner: ShowBanner
    take_tour: Callable[[], object] = no_tour
    """begins the tour of the tab that is shown"""

    def submit(self, kind: str, config: Config, title: str = "") -> str:
        """Queue a job and return its id at once; raises `InvalidInput` for a bad config."""
        job_id: str = self.studio.submit(kind, config, title)
        self.publisher.publish("jobs", job_id)
        self.lanes.nudge()
        return job_id


class Tab(QWidget):
    """Base of the five tabs; the window calls these from its menu and shortcuts."""

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.services = services

    def select(self, **selection: Any) -> None:
        """Show an object named by keyword, such as `sae=id`; unknown names are ignored."""

    def build_more(self) -> bool:
        """Build one part that is not shown yet, while nothing else is to do; False without one."""
        return False

    def focus_search(self) -> None:
        """Put the cursor into the tab's search field (Ctrl+F)."""

    def run_primary(self) -> None:
        """Do the tab's main action (Ctrl+Return)."""

    def pause_resume(self) -> None:
        """Pause or resume what the tab shows (Ctrl+.)."""
