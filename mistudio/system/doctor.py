"""Checks of the machine and the installation, each with a sentence and advice."""

from __future__ import annotations

import importlib.metadata
import json
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
from mistudio.system import desktop, display
from mistudio.system.bundle import is_bundle
from mistudio.system.fonts import CJK, EMOJI, Fonts, installed_fonts

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
        fonts,
        sqlite_features,
        lambda: data_folder(home),
        lambda: disk_room(home),
        torch_device,
        menu_entry,
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
    give: display.Loads = display.loads, environ: Mapping[str, str] = os.environ
) -> Iterator[Check]:
    """The system libraries that a window needs, and whether there is a screen for it."""
    folder = display.qt_folder()
    if sys.platform != "linux" or folder is None:
        return
    wanted = display.platforms(environ) or ["xcb"]
    try:
        missing = display.missing_for(wanted[-1], folder, give)
    except ValueError as error:
        advice = "pip install --force-reinstall PySide6-Essentials"
        yield Check("Display libraries", False, f"PySide6 is damaged: {error}", advice)
        return
    if missing:
        count = "1 system library" if len(missing) == 1 else f"{len(missing)} system libraries"
        names = ", ".join(missing)
        needed = "is" if len(missing) == 1 else "are"
        yield Check(
            "Display libraries",
            False,
            f"{count} that the window needs {needed} missing: {names}.",
            display.install_advice(missing),
        )
    else:
        yield Check("Display libraries", True, "The system libraries of the window are there.")
    if not display.platforms(environ):
        yield Check("Display", None, "No display is set; the command line works without one.", "")
    elif not missing:
        sentence = display.obstacle(environ, give)
        yield Check("Display", not sentence, sentence or f"{environ_name(environ)} can be used.")


def environ_name(environ: Mapping[str, str]) -> str:
    """The screen that the environment names, in words."""
    platform = environ.get("QT_QPA_PLATFORM")
    if platform:
        return f"The platform {platform!r} of QT_QPA_PLATFORM"
    return f"The screen {environ.get('WAYLAND_DISPLAY') or environ.get('DISPLAY')!r}"


def fonts(found: Fonts | None = None) -> Iterator[Check]:
    """Fonts are there, also for Chinese, Japanese, Korean and emoji, which texts may hold."""
    if sys.platform != "linux":
        return
    there = found or installed_fonts()
    if there is None:
        return  # the library is named among those that are missing
    if there.number == 0:
        sentence = "No font is installed; every letter would be a box."
        yield Check("Fonts", False, sentence, "sudo apt install fonts-dejavu-core")
        return
    lacking, packages = [], []
    if set(CJK) & set(there.lacking):
        lacking.append("Chinese, Japanese or Korean")
        packages.append("fonts-noto-cjk")
    if EMOJI in there.lacking:
        lacking.append("emoji")
        packages.append("fonts-noto-color-emoji")
    if lacking:
        sentence = f"{there.number:,} fonts; no font has {' and '.join(lacking)}, shown as boxes."
        yield Check("Fonts", None, sentence, "sudo apt install " + " ".join(packages))
    else:
        yield Check("Fonts", True, f"{there.number:,} fonts, also for CJK and emoji.")


def menu_entry(base: Path | None = None) -> Iterator[Check]:
    """Whether the desktop's menu has the program, and one that is there."""
    if sys.platform != "linux":
        return
    program = desktop.installed_program(base or desktop.data_home())
    advice = "mistudio desktop install"
    if program is None:
        yield Check("Menu", None, "miStudio is not in the desktop's menu.", advice)
    elif not program.is_file():
        sentence = f"The desktop's menu starts {program}, which is not there any more."
        yield Check("Menu", None, sentence, advice)
    else:
        yield Check("Menu", True, f"The desktop's menu starts {program}.")


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
    # the packed program has no interpreter to ask, but can ask itself
    asking = ["selftest", "--only", "torch", "--json"] if is_bundle() else ["-c", _PROBE]
    try:
        done = subprocess.run(
            [sys.executable, *asking],
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
    if is_bundle():
        yield Check("torch", True, json.loads(done.stdout.splitlines()[0])["found"] + ".")
        return
    loaded, _, gpu = done.stdout.strip().partition("|")
    yield Check("torch", True, f"torch {loaded}.")
    yield Check("GPU", True if gpu else None, gpu or "No GPU; the processor is used.", "")
