"""SIGTERM and SIGINT reach the event loop through a socket, so that they act while Qt waits."""

from __future__ import annotations

import signal
import socket
from types import FrameType
from typing import Any

from PySide6.QtCore import QObject, QSocketNotifier, Signal, Slot


class ProcessSignals(QObject):
    """Emits `asked_to_end` for SIGTERM and SIGINT."""

    asked_to_end = Signal()

    NUMBERS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._reader, self._writer = socket.socketpair()
        for end in (self._reader, self._writer):
            end.setblocking(False)
        self._notifier = QSocketNotifier(self._reader.fileno(), QSocketNotifier.Type.Read, self)
        self._notifier.activated.connect(self._on_readable)
        self._before: dict[int, Any] = {}

    def install(self) -> None:
        """Take the signals over; main thread only."""
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in self.NUMBERS:
            self._before[number] = signal.signal(number, _nothing)

    def remove(self) -> None:
        """Give the signals back and close the sockets."""
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._notifier.setEnabled(False)
        self._reader.close()
        self._writer.close()

    @Slot()
    def _on_readable(self) -> None:
        received = self._reader.recv(64)
        if any(number in received for number in self.NUMBERS):
            self.asked_to_end.emit()


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """The wake-up socket carries the signal; a handler must exist for it to be written."""
