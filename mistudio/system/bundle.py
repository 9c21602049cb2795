"""What differs where the program runs from a folder that PyInstaller made."""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from pathlib import Path

KEPT = "_ORIG"  # the suffix under which the bundle's starter keeps the user's value


def is_bundle() -> bool:
    """Whether this is the packed program, which has no interpreter beside it."""
    return bool(getattr(sys, "frozen", False))


def own_command() -> list[str]:
    """The words that start this program again, as absolute paths: one in a bundle or with an
    installed script, three through the interpreter.
    """
    if is_bundle():
        return [str(Path(sys.executable).resolve())]
    script = Path(sys.executable).with_name("mistudio")
    if script.is_file() and os.access(script, os.X_OK):
        return [str(script)]
    return [sys.executable, "-m", "mistudio.cli"]


def leave_bundle_out_of_children(environ: MutableMapping[str, str] = os.environ) -> None:
    """Give the programs that this one starts (a browser, a file manager) the library path that the
    user had: those of the system break with the bundle's libraries. This process has read its own.
    """
    if not is_bundle():
        return
    name = "LD_LIBRARY_PATH"
    before = environ.pop(name + KEPT, None)
    environ.pop(name, None)
    if before:
        environ[name] = before
