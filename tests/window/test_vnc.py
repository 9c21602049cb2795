"""Qt's own VNC screen, the last resort without an X server, shows the program to a viewer."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PySide6.QtCore import QLibraryInfo

from tests.window.test_process import COMMAND, log_text, wait_for

PLUGINS = Path(QLibraryInfo.path(QLibraryInfo.LibraryPath.PluginsPath)) / "platforms"


@pytest.mark.window
@pytest.mark.skipif(sys.platform != "linux", reason="the plugin is one of Linux")
@pytest.mark.skipif(not list(PLUGINS.glob("libqvnc*")), reason="this Qt has no VNC screen")
def test_the_window_opens_on_a_vnc_screen(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    screen = f"vnc:size=1280x720:port={port}"
    environment = {**os.environ, "QT_QPA_PLATFORM": screen}
    program = subprocess.Popen([*COMMAND, str(tmp_path / "home")], env=environment)
    try:
        assert wait_for(lambda: "window shown" in log_text(tmp_path / "home"))
        with socket.create_connection(("127.0.0.1", port), timeout=20) as viewer:
            assert viewer.recv(12).startswith(b"RFB 003.")
        program.send_signal(signal.SIGTERM)
        assert program.wait(timeout=20) == 0
    finally:
        if program.poll() is None:
            program.kill()
            program.wait()
