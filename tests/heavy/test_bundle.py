"""The packed program where nothing helps it: no Python, an odd home, a folder it cannot write.

It is built here by PyInstaller (minutes), unless MISTUDIO_BUNDLE names a folder that was built.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534
pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """The folder of the program, in one that other users may enter."""
    named = os.environ.get("MISTUDIO_BUNDLE")
    if named:
        yield Path(named)
        return
    pytest.importorskip("PyInstaller", reason="PyInstaller is not installed")
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        environment = {k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"}
        words = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--distpath", made]
        subprocess.run(
            [*words, "--workpath", f"{made}/work", "mistudio.spec"],
            cwd=ROOT,
            env=environment,
            check=True,
            capture_output=True,
        )
        yield Path(made) / "mistudio"


class Place:
    """Runs the program as a user who may read its folder and write only the home."""

    def __init__(self, program: Path, home: Path) -> None:
        self._program, self.home = program, home
        self._user = NOBODY if os.geteuid() == 0 else None
        if self._user is not None:
            os.chown(home, self._user, self._user)

    def run(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": "/nonexistent", "HOME": str(self.home), "LANG": "C.UTF-8", **more}
        return subprocess.run(
            [str(self._program), *words],
            cwd=self.home,
            env=environment,
            user=self._user,
            group=self._user,
            extra_groups=None if self._user is None else [],
            capture_output=True,
            text=True,
            check=False,
        )

    def result(self, *words: str, **more: str) -> dict[str, object]:
        done = self.run(*words, "--json", **more)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def place(folder: Path) -> Iterator[Place]:
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        home = Path(made) / "Jürgen Ömer 漢字"
        home.mkdir()
        yield Place(folder / "mistudio", home)


def test_nothing_of_python_is_needed(place: Place) -> None:
    assert shutil.which("python3", path="/nonexistent") is None
    found = place.result("selftest")
    assert (found["failed"], found["checks"]) == (0, 13)


def test_the_folder_is_only_read(place: Place, folder: Path) -> None:
    """All that is written lies in the home."""
    assert [path for path in folder.rglob("*") if not path.exists()] == [], "links to nothing"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert place.result("jobs", "list") is not None
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert (place.home / ".local" / "share" / "mistudio" / "mistudio.db").is_file()


def test_the_command_line_goes_the_whole_way(place: Place) -> None:
    found = place.result("demo", "--tokens", "20000")
    assert found["event"] == "result"


def test_a_failure_is_a_sentence_and_an_exit_code(place: Place) -> None:
    done = place.run(DISPLAY=":4242")
    assert (done.returncode, done.stdout) == (1, "")
    assert "':4242' (DISPLAY) does not answer" in done.stderr
    assert "Traceback" not in done.stderr
    assert place.run("nonsense").returncode == 2


def test_the_menu_entry_starts_the_bundle(place: Place, folder: Path) -> None:
    place.result("desktop", "install")
    entry = place.home / ".local" / "share" / "applications" / "mistudio.desktop"
    assert f"Exec={(folder / 'mistudio').resolve()}" in entry.read_text().replace('"', "")
