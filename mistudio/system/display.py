"""Whether a window can open here, and what to install if not; asked before Qt ends the process."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mistudio.system.elf import missing_libraries

# name of a library -> package of Debian and Ubuntu
PACKAGES = {
    "libEGL.so.1": "libegl1",
    "libGL.so.1": "libgl1",
    "libGLX.so.0": "libglx0",
    "libOpenGL.so.0": "libopengl0",
    "libX11-xcb.so.1": "libx11-xcb1",
    "libX11.so.6": "libx11-6",
    "libbrotlicommon.so.1": "libbrotli1",
    "libbrotlidec.so.1": "libbrotli1",
    "libdbus-1.so.3": "libdbus-1-3",
    "libfontconfig.so.1": "libfontconfig1",
    "libfreetype.so.6": "libfreetype6",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libgssapi_krb5.so.2": "libgssapi-krb5-2",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libwayland-client.so.0": "libwayland-client0",
    "libwayland-cursor.so.0": "libwayland-cursor0",
    "libwayland-egl.so.1": "libwayland-egl1",
    "libxcb-cursor.so.0": "libxcb-cursor0",
    "libxcb-icccm.so.4": "libxcb-icccm4",
    "libxcb-image.so.0": "libxcb-image0",
    "libxcb-keysyms.so.1": "libxcb-keysyms1",
    "libxcb-randr.so.0": "libxcb-randr0",
    "libxcb-render-util.so.0": "libxcb-render-util0",
    "libxcb-render.so.0": "libxcb-render0",
    "libxcb-shape.so.0": "libxcb-shape0",
    "libxcb-shm.so.0": "libxcb-shm0",
    "libxcb-sync.so.1": "libxcb-sync1",
    "libxcb-util.so.1": "libxcb-util1",
    "libxcb-xfixes.so.0": "libxcb-xfixes0",
    "libxcb-xkb.so.1": "libxcb-xkb1",
    "libxcb.so.1": "libxcb1",
    "libxkbcommon-x11.so.0": "libxkbcommon-x11-0",
    "libxkbcommon.so.0": "libxkbcommon0",
    "libz.so.1": "zlib1g",
    "libzstd.so.1": "libzstd1",
}
MODULES = ("QtWidgets", "QtSvg", "QtNetwork")  # what the window imports of PySide6
NO_SCREEN = (
    "There is no screen to open the window on (DISPLAY is not set). Start it in a desktop session, "
    "or use a command: `mistudio --help` lists them."
)

Loads = Callable[[str], bool]


def loads(name: str) -> bool:
    """Whether the system's loader gives the library of that name or path."""
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def qt_folder() -> Path | None:
    """The folder of PySide6, found without importing it; None if it is not installed."""
    found = importlib.util.find_spec("PySide6")
    if found is None or not found.submodule_search_locations:
        return None
    return Path(next(iter(found.submodule_search_locations)))


def plugin(platform: str, folder: Path) -> Path:
    """The file that draws for a platform of Qt, as xcb, wayland, offscreen."""
    return folder / "Qt" / "plugins" / "platforms" / f"libq{platform}.so"


def platforms(environ: Mapping[str, str]) -> list[str]:
    """The platforms that Qt will try, in its order; empty where there is no screen."""
    named = environ.get("QT_QPA_PLATFORM", "")
    if named:
        return [part.partition(":")[0].strip() for part in named.split(";") if part.strip()]
    found = [
        platform
        for variable, platform in (("WAYLAND_DISPLAY", "wayland"), ("DISPLAY", "xcb"))
        if environ.get(variable)
    ]
    return found if environ.get("XDG_SESSION_TYPE") == "wayland" else found[::-1]


def missing_for(platform: str, folder: Path, give: Loads = loads) -> list[str]:
    """Names of the system libraries that a window on this platform lacks."""
    files = [folder / f"{module}.abi3.so" for module in MODULES]
    return missing_libraries([f for f in (*files, plugin(platform, folder)) if f.is_file()], give)


def install_advice(names: Sequence[str]) -> str:
    """How to get libraries: one apt line, and names where no package is known."""
    known = list(dict.fromkeys(PACKAGES[name] for name in names if name in PACKAGES))
    unknown = [name for name in names if name not in PACKAGES]
    parts = []
    if known and shutil.which("apt"):
        parts.append("sudo apt install " + " ".join(known))
    elif known:
        parts.append(
            f"Install the packages that hold {', '.join(n for n in names if n in PACKAGES)} "
            f"(Debian calls them {', '.join(known)})."
        )
    if unknown:
        parts.append(f"Install the packages of your system that hold {', '.join(unknown)}.")
    return " ".join(parts)


def obstacle(environ: Mapping[str, str] = os.environ, give: Loads = loads) -> str:
    """Why no window can open here and what to do, as sentences; "" if nothing is known to hinder.

    Loads what Qt will load anyway, so that it costs a start nothing.
    """
    folder = qt_folder()
    if sys.platform != "linux" or folder is None:
        return ""
    wanted = platforms(environ)
    if not wanted:
        return NO_SCREEN
    try:
        problems = [_problem(platform, folder, environ, give) for platform in wanted]
    except ValueError as error:
        return f"PySide6 is damaged: {error} pip install --force-reinstall PySide6-Essentials"
    return "" if "" in problems else problems[-1 if wanted[-1] == "xcb" else 0]


def _problem(platform: str, folder: Path, environ: Mapping[str, str], give: Loads) -> str:
    file = plugin(platform, folder)
    if not file.is_file():
        if environ.get("QT_QPA_PLATFORM_PLUGIN_PATH") or environ.get("QT_PLUGIN_PATH"):
            return ""  # it may lie there
        known = sorted(f.stem.removeprefix("libq") for f in file.parent.glob("libq*.so"))
        return f"Qt has no platform {platform!r} here; QT_QPA_PLATFORM may be {', '.join(known)}."
    needed = (*(folder / f"{module}.abi3.so" for module in MODULES), file)
    if not all(give(str(part)) for part in needed if part.is_file()):
        names = missing_for(platform, folder, give)
        if names:
            are = "is" if len(names) == 1 else "are"
            return (
                f"The window cannot open: {', '.join(names)} {are} missing. {install_advice(names)}"
            )
    if platform == "xcb" and not _screen_answers(give):
        return (
            f"The screen {environ.get('DISPLAY', '')!r} (DISPLAY) does not answer. Start it in a "
            "desktop session, with `ssh -X` from another machine, or use a command: "
            "`mistudio --help` lists them."
        )
    if platform == "wayland" and not _compositor(environ).exists():
        return f"The screen {environ.get('WAYLAND_DISPLAY', '')!r} (WAYLAND_DISPLAY) is not there."
    return ""


def _screen_answers(give: Loads) -> bool:
    """Whether an X server lets this program in, by the library that Qt uses for it."""
    if not give("libxcb.so.1"):
        return True
    xcb = ctypes.CDLL("libxcb.so.1")
    xcb.xcb_connect.restype = ctypes.c_void_p
    xcb.xcb_connect.argtypes = (ctypes.c_char_p, ctypes.POINTER(ctypes.c_int))
    xcb.xcb_connection_has_error.argtypes = (ctypes.c_void_p,)
    xcb.xcb_disconnect.argtypes = (ctypes.c_void_p,)
    connection = xcb.xcb_connect(None, None)
    try:
        return xcb.xcb_connection_has_error(connection) == 0
    finally:
        xcb.xcb_disconnect(connection)


def _compositor(environ: Mapping[str, str]) -> Path:
    named = environ.get("WAYLAND_DISPLAY") or "wayland-0"
    return Path(environ.get("XDG_RUNTIME_DIR") or "/run") / named
