"""Reads the pages beside the one that is shown, while nothing else is to do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from PySide6.QtCore import QObject, QTimer, Slot

from mistudio.gui.services import Services

REST_MS = 50  # after the page that is shown


class PagesAhead(QObject):
    """One page after the other, so that a page that is asked for waits for one at most; those that
    have not begun when another feature is gone to are not read at all."""

    def __init__(
        self, services: Services, is_busy: Callable[[], bool], parent: QObject | None = None
    ) -> None:
        """`is_busy` tells whether the page that is shown is still being filled."""
        super().__init__(parent)
        self._services, self._is_busy = services, is_busy
        self._wanted: list[int] = []
        self._reading = 0
        self._read: Callable[[int], object] = _nothing
        self._stopped = threading.Event()
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.timeout.connect(self._go_on)

    def read(self, features: Sequence[int], read: Callable[[int], object]) -> None:
        """Read these features with `read(feature)`, called in the query thread, which keeps what
        it reads."""
        self.stop()
        self._wanted, self._read = list(features), read
        self._stopped = threading.Event()
        self._rest.start(REST_MS)

    def stop(self) -> None:
        """Read nothing more of what was wanted."""
        self._stopped.set()
        self._wanted = []
        self._rest.stop()

    def is_idle(self) -> bool:
        """Whether there is nothing left to read."""
        return not self._wanted and not self._reading

    @Slot()
    def _go_on(self) -> None:
        if self._is_busy():
            self._rest.start(REST_MS)
        elif self._wanted:
            self._reading += 1
            feature, read, stopped = self._wanted.pop(0), self._read, self._stopped
            self._services.query.ask(
                lambda _db: None if stopped.is_set() else (read(feature), None)[1],
                self._on_read,
                on_error=self._on_error,
            )

    def _on_read(self, _answer: None) -> None:
        self._reading -= 1
        if self._wanted and not self._rest.isActive():
            self._rest.start(0)

    def _on_error(self, _sentence: str, _details: str) -> None:
        """What is wrong is told when the page itself is asked for."""
        self._reading -= 1
        self._wanted = []


def _nothing(_feature: int) -> None:
    """Before anything is wanted."""
