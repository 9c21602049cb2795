"""The menu entry: what it starts, where its pieces go, and what the desktop's own tools say."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from PySide6.QtGui import QImage
from PySide6.QtWidgets import QApplication

from mistudio import cli
from mistudio.core.errors import InvalidInput
from mistudio.core.paths import resources
from mistudio.gui import icons
from mistudio.system import bundle, desktop

SOURCE = resources() / "desktop"


def words_of(line: str) -> list[str]:
    """The arguments of an Exec value, by the rules of the Desktop Entry specification."""
    text = line.replace("\\\\", "\\")  # a string of the file first
    words, word, quotes, at = [], "", False, 0
    while at < len(text):
        c = text[at]
        if quotes and c == "\\":
            at += 1
            word += text[at]
        elif c == '"':
            quotes = not quotes
        elif c == " " and not quotes:
            words.append(word)
            word = ""
        else:
            word += c
        at += 1
    return [w.replace("%%", "%") for w in (*words, word)]


@pytest.mark.parametrize(
    "command",
    [
        ["/opt/mistudio/mistudio"],
        ["/home/a b/Ünï 漢/mistudio", "-m", "mistudio.cli"],
        ['/odd/"quoted"/$HOME/`x`/back\\slash/100%/mistudio'],
    ],
)
def test_the_entry_starts_exactly_this_program(command: list[str]) -> None:
    text = desktop.entry((SOURCE / desktop.ENTRY).read_text(), command)
    values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    assert words_of(values["Exec"]) == command
    assert values["TryExec"].replace("\\\\", "\\") == command[0]
    assert values["Icon"] == "mistudio"


def test_install_and_remove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "data here"
    foreign = base / "applications" / "other.desktop"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("[Desktop Entry]\n")
    monkeypatch.setenv("XDG_DATA_HOME", str(base))
    program = tmp_path / "pack ed" / "mistudio"
    program.parent.mkdir()
    program.write_text("")
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "executable", str(program))
    assert cli.main(["desktop", "install", "--json"]) == 0
    made = {Path(name) for name in json.loads(capsys.readouterr().out)["installed"]}
    assert made == {base / place for _, place in desktop.pieces()}
    entry = base / "applications" / "mistudio.desktop"
    assert f'Exec="{program}"' in entry.read_text()
    assert stat.S_IMODE(entry.stat().st_mode) == 0o644
    for name in ("48x48/apps/mistudio.png", "scalable/apps/mistudio.svg"):
        assert (base / "icons" / "hicolor" / name).read_bytes()
    assert cli.main(["desktop", "remove"]) == 0
    assert capsys.readouterr().out == "miStudio is out of the menu.\n"
    assert not [path for path in made if path.exists()]
    assert foreign.exists()
    assert not (base / "icons").exists()
    assert cli.main(["desktop", "remove"]) == 0
    assert capsys.readouterr().out == "miStudio was not in the menu.\n"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="Set XDG_DATA_HOME"):
        desktop.install(["/x"], tmp_path / "file")


def test_the_icons_have_the_sizes_of_their_folders() -> None:
    files = sorted((SOURCE / "icons" / "hicolor").glob("*x*/apps/mistudio.png"))
    assert len(files) >= 8
    for file in files:
        side = int(file.parts[-3].split("x")[0])
        image = QImage(str(file))
        assert (image.width(), image.height()) == (side, side)
        assert image.pixelColor(0, 0).alpha() == 0  # rounded corners
        assert image.pixelColor(side // 2, side // 2).lightness() > 150  # the dot in the middle


def test_the_window_has_the_icon_of_the_menu(qapp: QApplication) -> None:
    found = icons.program_icon()
    sides = {size.width() for size in found.availableSizes()}
    assert {16, 32, 48, 256} <= sides
    drawn = found.pixmap(48).toImage()
    assert drawn.pixelColor(24, 24).lightness() > 150


@pytest.mark.parametrize(
    ("program", "words", "file"),
    [
        ("desktop-file-validate", [], "mistudio.desktop"),
        ("appstreamcli", ["validate", "--no-net"], "io.github.mistudio.mistudio.metainfo.xml"),
    ],
)
def test_the_desktops_own_tools_accept_it(program: str, words: list[str], file: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    done = subprocess.run(
        [program, *words, str(SOURCE / file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_children_of_a_bundle_get_the_users_own_library_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = {"LD_LIBRARY_PATH": "/bundle", "LD_LIBRARY_PATH_ORIG": "/own", "HOME": "/h"}
    monkeypatch.setattr(sys, "frozen", False, raising=False)
    bundle.leave_bundle_out_of_children(given)
    assert given["LD_LIBRARY_PATH"] == "/bundle"
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    bundle.leave_bundle_out_of_children(given)
    assert given == {"LD_LIBRARY_PATH": "/own", "HOME": "/h"}
    without = {"LD_LIBRARY_PATH": "/bundle"}
    bundle.leave_bundle_out_of_children(without)
    assert without == {}


def test_the_command_that_starts_this_program_starts_it() -> None:
    done = subprocess.run(
        [*bundle.own_command(), "--version"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )
    assert done.stdout.startswith("miStudio ")
