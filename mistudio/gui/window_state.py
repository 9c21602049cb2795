"""Where the main window was and whether its jobs were shown, kept from one start to the next."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QSettings
from PySide6.QtWidgets import QMainWindow, QWidget

FILE = "window.ini"  # in the data folder


def restore(home: Path, window: QMainWindow, jobs: QWidget) -> None:
    """Place the window as it was, if it was ever closed, and show the jobs if they were shown."""
    stored = _file(home)
    geometry = stored.value("geometry")
    if geometry is not None:
        window.restoreGeometry(geometry)  # type: ignore[arg-type]
    if stored.value("jobs", False, bool):
        jobs.show()


def keep(home: Path, window: QMainWindow, jobs: QWidget) -> None:
    """Write both down."""
    stored = _file(home)
    stored.setValue("geometry", window.saveGeometry())
    stored.setValue("jobs", jobs.isVisible())


def _file(home: Path) -> QSettings:
    return QSettings(str(home / FILE), QSettings.Format.IniFormat)
