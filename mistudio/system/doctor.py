"""Checks of the machine and the installation, each with a sentence and advice."""

from __future__ import annotations

import ctypes.util
import importlib.metadata
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from mistudio.core.paths import default_home
from mistudio.core.units import format_bytes

XCB_LIBRARIES = {
    "xcb-cursor": "libxcb-cursor0",
    "xcb-icccm": "libxcb-icccm4",
    "xcb-image": "libxcb-image0",
    "xcb-keysyms": "libxcb-keysyms1",
    "xcb-randr": "libxcb-randr0",
    "xcb-render-util": "libxcb-render-util0",
    "xcb-shape": "libxcb-shape0",
    "xcb-sync": "libxcb-sync1",
    "xcb-xfixes": "libxcb-xfixes0",
    "xcb-xkb": "libxcb-xkb1",
    "X11-xcb": "libx11-xcb1",
    "xkbcommon-x11": "libxkbcommon-x11-0",
    "EGL": "libegl1",
    "GL": "libgl1",
    "glib-2.0": "libglib2.0-0",
    "fontconfig": "libfontconfig1",
    "dbus-1": "libdbus-1-3",
}
PACKAGES = ("PySide6-Essentials", "pyqtgraph", "numpy", "pyarrow", "safetensors", "sqlite-utils")
MODEL_PACKAGES = ("transformers", "gguf", "accelerate")
SMALL_DISK = 10e9


@dataclass(frozen=True)
class Check:
    """One finding: `ok` None means a notice that hinders nothing."""

    name: str
    ok: bool | None
    sentence: str
    advice: str = ""


class Output(Protocol):
    """Where the report goes: the result as JSON values, or as lines for people."""

    def result(self, values: Mapping[str, Any], lines: Sequence[str] = ()) -> None: ...


def print_report(output: Output, home: str | None) -> int:
    """Write every check to `output`; exit code 0 if nothing hinders, 1 otherwise."""
    found = checks(Path(home).expanduser() if home else default_home())
    ok = all(check.ok is not False for check in found)
    lines = [line for check in found for line in written(check)]
    output.result({"ok": ok, "checks": [asdict(check) for check in found]}, lines)
    return 0 if ok else 1


def written(check: Check) -> list[str]:
    """A check as lines of text."""
    mark = {True: "ok", False: "PROBLEM", None: "note"}[check.ok]
    lines = [f"{mark:8} {check.name}: {check.sentence}"]
    if check.advice:
        lines.append(f"{'':8} {check.advice}")
    return lines


def checks(home: Path) -> list[Check]:
    """Every check, in the order in which they matter. Takes some seconds: torch is asked too."""
    found: list[Check] = []
    for part in (
        python_version,
        qt_version,
        packages,
        display_libraries,
        sqlite_features,
        lambda: data_folder(home),
        lambda: disk_room(home),
        torch_device,
    ):
        found.extend(_run(part))
    return found


def _run(part: Callable[[], Iterator[Check]]) -> list[Check]:
    return list(part())


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def python_version() -> Iterator[Check]:
    """Python 3.10 or newer."""
    shown = ".".join(str(part) for part in sys.version_info[:3])
    ok = sys.version_info >= (3, 10)
    yield Check("Python", ok, f"Python {shown}.", "" if ok else "Install Python 3.10 or newer.")


def qt_version(
    version: str | None = None, python: tuple[int, int] = sys.version_info[:2]
) -> Iterator[Check]:
    """PySide6 of a version that does not abort under this Python (6.12 does below 3.12)."""
    found = _version("PySide6-Essentials") if version is None else version
    if not found:
        yield Check("PySide6", False, "PySide6 is not installed.", "pip install PySide6-Essentials")
        return
    numbers = tuple(int(part) for part in found.split(".")[:2])
    if numbers >= (6, 12) and python < (3, 12):
        yield Check(
            "PySide6",
            False,
            f"PySide6 {found} crashes under Python {python[0]}.{python[1]}.",
            'pip install "PySide6-Essentials<6.12"',
        )
    elif numbers < (6, 8):
        yield Check(
            "PySide6",
            False,
            f"PySide6 {found} is too old.",
            'pip install "PySide6-Essentials>=6.8"',
        )
    else:
        yield Check("PySide6", True, f"PySide6 {found}.")


def packages() -> Iterator[Check]:
    """The libraries that the program needs are installed."""
    missing = [name for name in (*PACKAGES, *MODEL_PACKAGES) if not _version(name)]
    if missing:
        yield Check(
            "Libraries",
            False,
            f"Missing: {', '.join(missing)}.",
            "pip install " + " ".join(missing),
        )
    else:
        yield Check("Libraries", True, "All libraries are installed.")


def display_libraries(
    find: Callable[[str], str | None] = ctypes.util.find_library, platform: str = sys.platform
) -> Iterator[Check]:
    """The system libraries that a window on X needs."""
    if platform != "linux":
        return
    missing = [package for name, package in XCB_LIBRARIES.items() if find(name) is None]
    if missing:
        yield Check(
            "Display libraries",
            False,
            f"{len(missing)} system libraries that the window needs are missing.",
            "sudo apt install " + " ".join(missing),
        )
    else:
        yield Check("Display libraries", True, "The system libraries of the window are there.")
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        yield Check("Display", None, "No display is set; the command line works without one.", "")


def sqlite_features() -> Iterator[Check]:
    """SQLite with full-text search."""
    version = sqlite3.sqlite_version
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("CREATE VIRTUAL TABLE probe USING fts5(text)")
        searchable = True
    except sqlite3.OperationalError:
        searchable = False
    finally:
        connection.close()
    if not searchable:
        advice = "Use a Python whose SQLite has FTS5, such as that of your distribution."
        yield Check("SQLite", False, f"SQLite {version} has no full-text search.", advice)
    elif sqlite3.sqlite_version_info < (3, 37):
        yield Check("SQLite", False, f"SQLite {version} is older than 3.37.", "Use a newer Python.")
    else:
        yield Check("SQLite", True, f"SQLite {version} with full-text search.")


def data_folder(home: Path) -> Iterator[Check]:
    """The data folder can be written."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=home):
            pass
    except OSError as error:
        advice = "Choose another one with --home or MISTUDIO_HOME."
        yield Check("Data folder", False, f"{home} cannot be written: {error.strerror}.", advice)
    else:
        yield Check("Data folder", True, f"{home} can be written.")


def disk_room(home: Path) -> Iterator[Check]:
    """Some room is left on the disk of the data folder."""
    place = next(path for path in (home, *home.parents) if path.exists())
    free = shutil.disk_usage(place).free
    sentence = f"{format_bytes(free)} free."
    if free < SMALL_DISK:
        yield Check("Disk", None, sentence, "Models and features need room; 10 GB is comfortable.")
    else:
        yield Check("Disk", True, sentence)


_PROBE = """
import torch
gpu = torch.cuda.is_available()
print(torch.__version__, torch.cuda.get_device_name(0) if gpu else "", sep="|")
"""


def torch_device(timeout_s: float = 60.0) -> Iterator[Check]:
    """torch imports, and whether it sees a GPU; asked in a process of its own."""
    version = _version("torch")
    if not version:
        yield Check("torch", False, "torch is not installed.", "pip install torch")
        return
    if getattr(sys, "frozen", False):  # a bundle has no interpreter to ask
        yield Check("torch", True, f"torch {version}.")
        return
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        yield Check("torch", None, f"torch {version} took over {timeout_s:.0f} s to start.", "")
        return
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        yield Check("torch", False, f"torch does not start: {last}", "pip install --upgrade torch")
        return
    loaded, _, gpu = done.stdout.strip().partition("|")
    yield Check("torch", True, f"torch {loaded}.")
    yield Check("GPU", True if gpu else None, gpu or "No GPU; the processor is used.", "")
