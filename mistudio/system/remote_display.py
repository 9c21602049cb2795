"""Whether the screen is reached over a network, and by what that was seen."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

# what sessions of remote desktops leave in the environment
SESSIONS = {
    "VNCDESKTOP": "a VNC session",
    "XRDP_SESSION": "an RDP session",
    "X2GO_SESSION": "an X2Go session",
    "NXSESSIONID": "an NX session",
    "CHROME_REMOTE_DESKTOP_SESSION": "a Chrome Remote Desktop session",
}
# programs that show an X display elsewhere, as /proc names them (at most 15 letters)
_SERVERS = ("Xvnc", "Xtigervnc", "Xtightvnc", "Xvnc4", "x0vncserver", "x0tigervncserv", "x11vnc")
_SERVERS += ("Xorg.xrdp", "xrdp-chansrv")


def remote_reason(
    environment: Mapping[str, str] = os.environ, processes: Path = Path("/proc")
) -> str:
    """Why the display counts as remote, such as "a VNC session"; "" if it does not."""
    if environment.get("QT_QPA_PLATFORM", "").startswith("vnc"):
        return "Qt's own VNC screen"
    for name, what in SESSIONS.items():
        if environment.get(name):
            return what
    display = environment.get("DISPLAY", "")
    if display and not display.startswith((":", "unix:", "/")):
        return "X over a network"
    if environment.get("SSH_CONNECTION") and (display or environment.get("WAYLAND_DISPLAY")):
        return "a session through SSH"
    return _shown_elsewhere(display, processes) if display else ""


def is_remote(
    choice: str = "auto",
    environment: Mapping[str, str] = os.environ,
    processes: Path = Path("/proc"),
) -> bool:
    """What the user chose (`on`, `off`), else what is seen."""
    if choice in ("on", "off"):
        return choice == "on"
    return bool(remote_reason(environment, processes))


def _shown_elsewhere(display: str, processes: Path) -> str:
    """A running VNC or RDP server of this display; one that names no display counts too."""
    number = display.removeprefix("unix").split(".")[0]
    for name, words in _running(processes):
        named = [word.split(".")[0] for word in words if word.startswith(":")]
        if number in named or (not named and name == "x11vnc"):
            return f"a screen shown by {name}"
    return ""


def _running(processes: Path) -> Iterable[tuple[str, list[str]]]:
    """Name and command line of every server above that runs here."""
    for place in processes.glob("[0-9]*"):
        try:
            name = (place / "comm").read_text(encoding="utf-8").strip()
            if name in _SERVERS:
                yield name, (place / "cmdline").read_text(encoding="utf-8").split("\0")
        except (OSError, ValueError):
            continue  # it has ended meanwhile
