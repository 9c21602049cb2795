"""One window per data folder: a second start raises the first and ends."""

from __future__ import annotations

import hashlib
from pathlib import Path

from PySide6.QtCore import QObject, Signal, Slot
from PySide6.QtNetwork import QLocalServer, QLocalSocket


def server_name(home: Path) -> str:
    """The local socket's name for a data folder of this user."""
    digest = hashlib.sha256(f"{Path.home()}|{home}".encode()).hexdigest()[:16]
    return f"mistudio-{digest}"


def raise_other(home: Path, timeout_ms: int = 300) -> bool:
    """Ask a window that has this data folder open to come forward; False if there is none."""
    socket = QLocalSocket()
    socket.connectToServer(server_name(home))
    if not socket.waitForConnected(timeout_ms):
        return False
    socket.write(b"raise")
    socket.waitForBytesWritten(timeout_ms)
    socket.disconnectFromServer()
    return True


class SingleInstance(QObject):
    """Listens for later starts; `raised` asks the window to come forward."""

    raised = Signal()

    def __init__(self, home: Path, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._server = QLocalServer(self)
        self._server.setSocketOptions(QLocalServer.SocketOption.UserAccessOption)
        self._server.newConnection.connect(self._on_connection)
        if not self._server.listen(server_name(home)):
            QLocalServer.removeServer(server_name(home))  # left by a process that was killed
            self._server.listen(server_name(home))

    @Slot()
    def _on_connection(self) -> None:
        connection = self._server.nextPendingConnection()
        connection.disconnected.connect(connection.deleteLater)
        self.raised.emit()

    def close(self) -> None:
        """Listen no more."""
        self._server.close()
