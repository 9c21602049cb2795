"""A remote screen is seen from the environment and from the servers that run."""

from __future__ import annotations

from pathlib import Path

import pytest

from mistudio.system.remote_display import is_remote, remote_reason


def server(root: Path, number: int, name: str, *words: str) -> None:
    place = root / str(number)
    place.mkdir()
    (place / "comm").write_text(f"{name}\n")
    (place / "cmdline").write_text("\0".join((name, *words, "")))


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({}, ""),
        ({"DISPLAY": ":0"}, ""),
        ({"DISPLAY": "unix:0"}, ""),
        ({"WAYLAND_DISPLAY": "wayland-0"}, ""),
        ({"SSH_CONNECTION": "a 1 b 22"}, ""),
        ({"DISPLAY": "localhost:10.0", "SSH_CONNECTION": "a 1 b 22"}, "X over a network"),
        ({"DISPLAY": ":0", "SSH_CONNECTION": "a 1 b 22"}, "a session through SSH"),
        ({"WAYLAND_DISPLAY": "x", "SSH_CONNECTION": "a 1 b 22"}, "a session through SSH"),
        ({"DISPLAY": ":1", "VNCDESKTOP": "host:1"}, "a VNC session"),
        ({"DISPLAY": ":10", "XRDP_SESSION": "1"}, "an RDP session"),
        ({"QT_QPA_PLATFORM": "vnc:size=800x600"}, "Qt's own VNC screen"),
    ],
)
def test_the_environment_tells(tmp_path: Path, environment: dict[str, str], reason: str) -> None:
    assert remote_reason(environment, tmp_path) == reason


@pytest.mark.parametrize(
    ("name", "words", "display", "remote"),
    [
        ("x11vnc", ("-display", ":0"), ":0.0", True),
        ("x11vnc", ("-display", ":1"), ":0", False),
        ("x11vnc", ("-forever",), ":0", True),
        ("Xtigervnc", (":1", "-geometry", "1280x720"), ":1", True),
        ("Xtigervnc", (":1",), ":0", False),
        ("Xorg", (":0",), ":0", False),
    ],
)
def test_a_server_of_this_display_tells(
    tmp_path: Path, name: str, words: tuple[str, ...], display: str, remote: bool
) -> None:
    server(tmp_path, 12, name, *words)
    (tmp_path / "13").mkdir()  # a process that has just ended
    assert bool(remote_reason({"DISPLAY": display}, tmp_path)) is remote


def test_the_user_decides(tmp_path: Path) -> None:
    local, remote = {"DISPLAY": ":0"}, {"DISPLAY": "far:0"}
    assert is_remote("on", local, tmp_path)
    assert not is_remote("off", remote, tmp_path)
    assert is_remote("auto", remote, tmp_path)
    assert not is_remote("auto", local, tmp_path)
