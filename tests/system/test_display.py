"""What keeps a window from opening is found before Qt ends the process over it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mistudio import cli
from mistudio.system import display, elf
from mistudio.system.fonts import CJK, installed_fonts

FOLDER = display.qt_folder()
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or FOLDER is None, reason="about PySide6 on Linux"
)


@pytest.fixture
def folder() -> Path:
    assert FOLDER is not None
    return FOLDER


def lacking(*names: str) -> display.Loads:
    """A loader for which the named libraries, and all that need them, are not there."""
    return lambda name: name not in names and not (name.startswith("/") and names)


def test_the_needs_of_the_real_plugin(folder: Path) -> None:
    needs = elf.needs_of(display.plugin("xcb", folder))
    assert needs.folders == ("$ORIGIN/../../lib",)
    assert {"libQt6Gui.so.6", "libQt6XcbQpa.so.6", "libc.so.6"} <= set(needs.names)


def test_the_needs_are_those_that_the_system_reads(folder: Path) -> None:
    if shutil.which("readelf") is None:
        pytest.skip("readelf is not installed")
    for file in (display.plugin("xcb", folder), folder / "QtWidgets.abi3.so"):
        said = subprocess.run(
            ["readelf", "-d", file], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        theirs = [line.split("[")[1].rstrip("]") for line in said if "(NEEDED)" in line]
        assert elf.needs_of(file).names == tuple(theirs)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3])
def test_a_file_cut_short_is_an_error(folder: Path, tmp_path: Path, share: float) -> None:
    content = display.plugin("xcb", folder).read_bytes()
    file = tmp_path / "cut.so"
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"cut short|no 64-bit library"):
        elf.needs_of(file)


def test_every_missing_library_is_named_not_only_the_first(folder: Path) -> None:
    lost = ("libX11-xcb.so.1", "libgssapi_krb5.so.2", "libxcb-cursor.so.0")
    assert display.missing_for("xcb", folder, lacking(*lost)) == sorted(lost)
    assert display.missing_for("xcb", folder, lambda name: True) == []
    all_names = display.missing_for("xcb", folder, lambda name: False)
    assert not any(name.startswith(("libQt6", "libpyside", "libicu")) for name in all_names)


def test_each_library_of_the_window_has_a_package(folder: Path) -> None:
    """All that the wheel asks for beyond the C library, which Python itself needs."""
    names = set(display.missing_for("xcb", folder, lambda name: False))
    names |= set(display.missing_for("wayland", folder, lambda name: False))
    python = {"c", "m", "dl", "pthread", "rt", "resolv", "gcc_s", "stdc++", "util"}
    needed = {n for n in names if n.removeprefix("lib").split(".so")[0] not in python}
    assert {n for n in needed if not n.startswith("ld-linux")} <= set(display.PACKAGES)


def test_the_sentence_of_a_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    told = display.obstacle({"DISPLAY": ":0"}, lacking("libxcb-cursor.so.0"))
    assert told == (
        "The window cannot open: libxcb-cursor.so.0 is missing. sudo apt install libxcb-cursor0"
    )
    monkeypatch.setattr(shutil, "which", lambda name: None)
    told = display.install_advice(["libxcb-cursor.so.0", "libodd.so.7"])
    assert "Debian calls them libxcb-cursor0" in told
    assert told.endswith("Install the packages of your system that hold libodd.so.7.")


@pytest.mark.parametrize(
    ("environ", "order"),
    [
        ({}, []),
        ({"DISPLAY": ":0"}, ["xcb"]),
        ({"DISPLAY": ":0", "WAYLAND_DISPLAY": "w"}, ["xcb", "wayland"]),
        (
            {"DISPLAY": ":0", "WAYLAND_DISPLAY": "w", "XDG_SESSION_TYPE": "wayland"},
            ["wayland", "xcb"],
        ),
        ({"QT_QPA_PLATFORM": "vnc:size=1280x720"}, ["vnc"]),
        ({"QT_QPA_PLATFORM": "wayland;xcb", "DISPLAY": ":0"}, ["wayland", "xcb"]),
    ],
)
def test_the_platforms_that_qt_tries(environ: dict[str, str], order: list[str]) -> None:
    assert display.platforms(environ) == order


def test_screens_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    assert display.obstacle({}) == display.NO_SCREEN
    assert display.obstacle({"QT_QPA_PLATFORM": "offscreen"}) == ""
    assert "platform 'odd'" in display.obstacle({"QT_QPA_PLATFORM": "odd"})
    monkeypatch.setenv("DISPLAY", ":4242")
    assert "':4242' (DISPLAY) does not answer" in display.obstacle()
    compositor = {"WAYLAND_DISPLAY": "nowhere", "XDG_RUNTIME_DIR": "/nonexistent"}
    told = display.obstacle(compositor, lambda name: True)
    # older packages of Qt come without Wayland
    says = ("'nowhere' (WAYLAND_DISPLAY) is not there", "Qt has no platform 'wayland' here")
    assert told.startswith(says[1]) or says[0] in told


def test_the_start_says_the_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dead screen would end the process inside Qt; so nothing of Qt may be asked before."""
    monkeypatch.delenv("QT_QPA_PLATFORM", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", ":4242")
    assert cli.main(["--home", str(tmp_path / "home")]) == 1
    assert "does not answer" in capsys.readouterr().err
    assert not (tmp_path / "home").exists()


def test_fonts_are_those_of_fontconfig() -> None:
    found = installed_fonts("A" + CJK)
    if found is None or found.number == 0 or shutil.which("fc-list") is None:
        pytest.skip("needs fontconfig with a font")
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}

    def listed(pattern: str) -> int:
        words = ["fc-list", pattern, "file", "index"]
        done = subprocess.run(words, capture_output=True, text=True, env=environment, check=True)
        return len(done.stdout.splitlines())

    assert "A" not in found.lacking
    for character in CJK:
        assert (character in found.lacking) == (listed(f":charset={ord(character):x}") == 0)
