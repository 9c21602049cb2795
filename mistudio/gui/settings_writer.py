"""Writes changed settings in the query thread: a disk under load may take a second for the file."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QObject

from mistudio.core.settings import SettingsFile
from mistudio.gui.query_lane import QueryLane


class SettingsWriter(QObject):
    """Writes one state at a time; `refused(sentence, details)` is called if that fails."""

    def __init__(
        self,
        settings: SettingsFile,
        query: QueryLane,
        refused: Callable[[str, str], object],
        parent: QObject,
    ) -> None:
        super().__init__(parent)
        self._settings, self._query, self._refused = settings, query, refused
        self._writing = False

    def is_owed(self) -> bool:
        """Whether something has changed that is not known to be in the file."""
        return self._writing or self._settings.dirty

    def write(self) -> None:
        """Write what has changed, unless an earlier state is on its way."""
        if self._writing or not self._settings.dirty:
            return
        settings, self._writing = self._settings, True
        taken = settings.snapshot()
        self._query.ask(
            lambda _: settings.write(taken), self._on_written, on_error=self._on_refused
        )

    def _on_written(self, _: object) -> None:
        self._writing = False

    def _on_refused(self, sentence: str, details: str) -> None:
        self._writing = False
        self._refused(sentence, details)
