"""Loads sqlite-utils without pandas and numpy, which it would import, if installed, for input.

Nothing here hands it a DataFrame or an array's number, and both cost a window long to start:
pandas alone as much as all else.
"""

from __future__ import annotations

import importlib
import sys


def load_sqlite_utils() -> None:
    """Import `sqlite_utils` with those of them hidden that are not loaded already."""
    if "sqlite_utils" in sys.modules:
        return
    hidden = [name for name in ("pandas", "numpy") if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # makes the import raise ImportError
    try:
        importlib.import_module("sqlite_utils")
    finally:
        for name in hidden:
            del sys.modules[name]
