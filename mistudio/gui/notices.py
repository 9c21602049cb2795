"""Tells that a long job has ended while the user looks at another window."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from PySide6.QtCore import QObject, Slot
from PySide6.QtWidgets import QApplication, QSystemTrayIcon, QWidget

from mistudio.core.settings import LONG_JOB_S, SettingsFile
from mistudio.core.units import format_duration
from mistudio.gui.services import ShowBanner
from mistudio.store.records import JobRow

_WORDS = {"completed": "is finished", "failed": "failed", "cancelled": "was cancelled"}
_SHOWN_MS = 10_000


class JobNotices(QObject):
    """A notification of the desktop where it has a tray, else the window asks for attention.

    A banner waits in the window either way. `clicked` brings the window forward.
    """

    def __init__(
        self,
        window: QWidget,
        settings: SettingsFile,
        banner: ShowBanner,
        clicked: Callable[[], object],
    ) -> None:
        super().__init__(window)
        self._window, self._settings, self._banner = window, settings, banner
        self._clicked = clicked
        self._tray: QSystemTrayIcon | None = None

    @Slot(object)
    def consider(self, job: JobRow) -> None:
        """Tell of a job that is in another state now, if its end is news to somebody away."""
        if not self._settings.values.job_notices or self._window.isActiveWindow():
            return
        seconds = worked_s(job)
        if job.status not in _WORDS or seconds is None or seconds < LONG_JOB_S:
            return
        sentence = f"{job.title} {_WORDS[job.status]} after {format_duration(seconds)}."
        if not self._notify(sentence):
            QApplication.alert(self._window)
        if job.status != "failed":  # a failure has a banner of its own
            self._banner(sentence)

    def _notify(self, sentence: str) -> bool:
        """Show a notification of the desktop; False where there is none."""
        if not (QSystemTrayIcon.isSystemTrayAvailable() and QSystemTrayIcon.supportsMessages()):
            return False
        if self._tray is None:
            self._tray = QSystemTrayIcon(QApplication.windowIcon(), self)
            self._tray.setToolTip("miStudio")
            self._tray.messageClicked.connect(self._clicked)
            self._tray.activated.connect(self._clicked)
        self._tray.show()
        self._tray.showMessage("miStudio", sentence, QApplication.windowIcon(), _SHOWN_MS)
        return True

    def forget(self) -> None:
        """Take the icon out of the tray: the window is in front again, or closes."""
        if self._tray is not None:
            self._tray.hide()


def worked_s(job: JobRow) -> float | None:
    """Seconds from the beginning of a job's work to its end, None while either is unknown."""
    if not job.started_at or not job.finished_at:
        return None
    begun, ended = (datetime.fromisoformat(at) for at in (job.started_at, job.finished_at))
    return (ended - begun).total_seconds()
