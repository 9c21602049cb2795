"""Undo of a deletion: a banner for ten seconds, then what was deleted goes for good."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PySide6.QtCore import QObject, Slot

from mistudio.gui.services import Services

SECONDS = 10


class Undo(QObject):
    """Offers to take one deletion back; lives until that is done or no longer possible."""

    def __init__(
        self,
        services: Services,
        sentence: str,
        take_back: Callable[[Any], object],
        changed: Callable[[], object],
        finish: Callable[[Any], object] | None = None,
    ) -> None:
        """`take_back(db)` runs in the query thread after a click, `finish(db)` if the banner went
        without one; `changed()` follows in this thread.

        Neither runs if the program ends before: what was deleted stays so.
        """
        super().__init__(services.lanes)
        self._services, self._changed = services, changed
        self._take_back, self._finish = take_back, finish
        self._taken = False
        services.banner(sentence, action="Undo", clicked=self.undo, seconds=SECONDS, ended=self.end)

    @Slot()
    def undo(self) -> None:
        """Take the deletion back; the banner goes with the click."""
        self._taken = True

    def end(self) -> None:
        """The banner went: without a click the deletion is final."""
        change = self._take_back if self._taken else self._finish
        if change is None:
            self.deleteLater()
        else:
            self._services.query.ask(change, self._on_done, on_error=self._on_error)

    def _on_done(self, _: Any) -> None:
        self._changed()
        self.deleteLater()

    def _on_error(self, sentence: str, details: str) -> None:
        self._services.banner(sentence, level="warning")
        self._on_done(None)
